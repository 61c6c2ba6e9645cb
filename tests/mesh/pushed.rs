//! From a change in the source to the first call under it, and what happens when the operator is away.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use fairlead_tests::client::{Call, get};
use fairlead_tests::load::Load;
use fairlead_tests::program::measured;
use fairlead_tests::until::{eventually, holds};
use fairlead_tests::world::{SidecarFlags, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_change_reaches_calls() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 2).await;
    let addresses: Vec<IpAddr> = backends.iter().map(|one| one.address.ip()).collect();
    world.ready_endpoints("shop/reviews", &addresses[..1]);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = sidecar.upstream("shop/reviews:9080").await;

    let mut times = Vec::new();
    for round in 0..20 {
        let next = (round + 1) % 2;
        let start = Instant::now();
        world.ready_endpoints("shop/reviews", &addresses[next..=next]);
        eventually("the new endpoint is called", || async {
            let answer = get(address, "/").await.unwrap();
            assert_eq!(answer.status, 200);
            (answer.backend() == backends[next].name).then_some(())
        })
        .await;
        times.push(start.elapsed());
    }
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    measured(&format!("endpoint change on disk to first call: median {median:?}, slowest {slowest:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_may_die_under_load() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 3).await;
    let addresses: Vec<IpAddr> = backends.iter().map(|one| one.address.ip()).collect();
    world.ready_endpoints("shop/reviews", &addresses[..2]);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    let load = Load::start(address, 4, Duration::from_millis(1), |_| Call::get("/"));
    holds("the load runs", || async { load.made() > 50 }).await;

    world.operator.as_mut().unwrap().program.kill();
    let killed = load.made();
    holds("calls go on without the operator", || async { load.made() > killed + 100 }).await;
    world.ready_endpoints("shop/reviews", &addresses[2..]);
    world.start_operator().await;
    let took = holds("what changed meanwhile arrives", || async { backends[2].total() > 0 }).await;
    measured(&format!("first call on the new endpoint {took:?} after the operator was ready"));
    let back = load.made();
    holds("calls go on", || async { load.made() > back + 100 }).await;
    let summary = load.stop().await;
    assert!(summary.failed.is_empty(), "{summary:?}");
    assert!(summary.backends.len() == 3, "{summary:?}");
}
