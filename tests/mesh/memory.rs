//! What a sidecar holds grows with what its pod calls, not with the cluster.

use std::fmt::Write;
use std::time::{Duration, Instant};

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::Call;
use fairlead_tests::load::{Summary, burst};
use fairlead_tests::manifest::{self, Endpoint};
use fairlead_tests::world::{SidecarFlags, World};

/// Services that the sidecar calls.
const CALLED: usize = 10;

/// Services in the larger source.
const MANY: usize = 10_000;

/// What the two may differ by.
const LIMIT_KIB: u64 = 4 * 1024;

/// What was measured with a source of some size.
#[derive(Debug)]
struct Measured {
    sidecar_kib: u64,
    operator_kib: u64,
    operator_start: Duration,
    sidecar_start: Duration,
    /// Of the sidecar when an uncalled Service and a called one have changed ten times each.
    after_changes_kib: u64,
}

/// Services of the same shape as the called ones, in files of a thousand; nobody calls them.
fn add_services(world: &World, count: usize) {
    for file in 0..count.div_ceil(1_000) {
        let mut yaml = String::new();
        for number in file * 1_000..count.min((file + 1) * 1_000) {
            let (name, cluster_ip) =
                (format!("other-{number}"), format!("10.200.{}.{}", number / 250, number % 250 + 1));
            let endpoints: Vec<_> = (1..=3)
                .map(|host| {
                    Endpoint::ready(
                        format!("10.{}.{}.{}", 100 + host, number / 250, number % 250 + 1).parse().unwrap(),
                    )
                })
                .collect();
            let service = manifest::service("shop", &name, &cluster_ip, 9080, "http");
            write!(yaml, "{service}---\n{}---\n", manifest::slice("shop", &name, 9080, "http", &endpoints))
                .unwrap();
        }
        world.apply(&format!("others-{file}"), &yaml);
    }
}

async fn measure(others: usize) -> Measured {
    let mut world = World::new();
    let mut backends: Vec<Backend> = Vec::new();
    let names: Vec<String> = (0..CALLED).map(|number| format!("shop/called-{number}")).collect();
    for name in &names {
        backends.extend(world.backends(name, 9080, "http", 1).await);
    }
    backends.iter().for_each(|one| one.set(Behaviour::Text("ok".into())));
    add_services(&world, others);

    let start = Instant::now();
    world.start_operator().await;
    let operator_start = start.elapsed();
    let ports: Vec<String> = names.iter().map(|name| format!("{name}:9080")).collect();
    let upstreams: Vec<&str> = ports.iter().map(String::as_str).collect();
    let start = Instant::now();
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &upstreams).workers(2)).await;
    let sidecar_start = start.elapsed();

    let call_all = async || {
        for upstream in &upstreams {
            let address = sidecar.upstream(upstream).await;
            let summary = Summary::of(burst(address, 200, 4, |_| Call::get("/")).await);
            assert_eq!(summary.status(200), 200, "{summary:?}");
        }
    };
    call_all().await;
    let (sidecar_kib, operator_kib) =
        (sidecar.program.resident_kib(), world.operator().program.resident_kib());
    assert_eq!(
        sidecar.page("/config").await["destinations"].as_object().map(serde_json::Map::len),
        Some(CALLED)
    );

    for round in 1..=10 {
        add_services(&world, others.min(1_000) - others.min(round));
        for (name, backend) in names.iter().zip(&backends) {
            let weights =
                [Endpoint { zone: format!("zone-{round}"), ..Endpoint::ready(backend.address.ip()) }];
            world.endpoints(name, &weights);
        }
        fairlead_tests::until::holds("the change is in force", || async {
            let page = sidecar.page("/clusters").await;
            ports.iter().all(|port| page[port]["endpoints"][0]["zone"] == format!("zone-{round}"))
        })
        .await;
        call_all().await;
    }
    let after_changes_kib = sidecar.program.resident_kib();
    Measured { sidecar_kib, operator_kib, operator_start, sidecar_start, after_changes_kib }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_is_as_small_among_ten_thousand_services_as_among_ten() {
    let few = measure(0).await;
    let many = measure(MANY - CALLED).await;
    for (services, measured) in [(CALLED, &few), (MANY, &many)] {
        let Measured { sidecar_kib, after_changes_kib, operator_kib, operator_start, sidecar_start } =
            measured;
        println!(
            "{services} Services, {CALLED} called: sidecar {sidecar_kib} KiB ({after_changes_kib} KiB after changes), \
             ready after {sidecar_start:?}; operator {operator_kib} KiB, ready after {operator_start:?}"
        );
    }
    assert!(many.sidecar_kib <= few.sidecar_kib + LIMIT_KIB, "{few:?} {many:?}");
    assert!(many.after_changes_kib <= few.after_changes_kib + LIMIT_KIB, "{few:?} {many:?}");
}
