//! The operator dies, leaves, comes back late: calls go on, and what changed meanwhile arrives.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use fairlead_tests::backend::Backend;
use fairlead_tests::client::{Call, get};
use fairlead_tests::load::Load;
use fairlead_tests::manifest;
use fairlead_tests::program::Program;
use fairlead_tests::until::{answers, holds};
use fairlead_tests::world::{Sidecar, SidecarFlags, World};
use rustix::process::Signal;

/// A mesh under load: the first two of three backends are endpoints.
struct Running {
    world: World,
    backends: Vec<Backend>,
    addresses: Vec<IpAddr>,
    sidecar: Sidecar,
    load: Load,
}

async fn running() -> Running {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 3).await;
    let addresses: Vec<IpAddr> = backends.iter().map(|one| one.address.ip()).collect();
    world.ready_endpoints("shop/reviews", &addresses[..2]);
    world.start_operator().await;
    let flags = SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"]).workers(2);
    let sidecar = world.sidecar(&flags).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    let load = Load::start(address, 8, Duration::from_millis(2), |number| match number % 2 {
        0 => Call::get("/"),
        _ => Call::post("/", "review"),
    });
    holds("the load runs", || async { load.made() > 100 }).await;
    Running { world, backends, addresses, sidecar, load }
}

impl Running {
    /// So many calls more are made.
    async fn calls(&self, more: usize) {
        let begun = self.load.made();
        holds("calls go on", || async { self.load.made() >= begun + more }).await;
    }

    async fn connected(&self) -> bool {
        self.sidecar.page("/config").await["xds"]["connected"] == true
    }

    async fn ends_without_a_failed_call(self) {
        let summary = self.load.stop().await;
        println!("{} calls, by backend {:?}", summary.calls, summary.backends);
        assert!(summary.failed.is_empty(), "{:?}", summary.failed);
    }

    /// Starts the operator again where it was; it may not be ready yet.
    fn start_again(&self) -> Program {
        let old = self.world.operator();
        let arguments = [
            ("--source", self.world.source.display().to_string()),
            ("--xds-listen", old.xds.to_string()),
            ("--admin-listen", old.admin.to_string()),
            ("--metrics-listen", old.metrics.to_string()),
        ];
        let arguments: Vec<_> =
            arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        Program::start("fairlead-operator", "operator-again", &self.world.logs, &arguments)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_three_times_under_load() {
    let mut running = running().await;
    for round in 0..3 {
        running.world.operator.as_mut().unwrap().program.kill();
        running.calls(200).await;
        // Changed while nobody watches: each time another backend is the only one.
        let now = (round + 2) % 3;
        running.world.ready_endpoints("shop/reviews", &running.addresses[now..=now]);
        let before = running.backends[now].total();
        running.world.start_operator().await;
        let others = |running: &Running| -> usize {
            (0..3).filter(|one| *one != now).map(|one| running.backends[one].total()).sum()
        };
        let took =
            holds("what changed meanwhile arrives", || async { running.backends[now].total() > before })
                .await;
        println!("round {round}: first call on the new endpoint {took:?} after the operator was ready");
        running.calls(50).await;
        let left = others(&running);
        running.calls(100).await;
        assert_eq!(others(&running), left, "the old endpoints get no more calls");
    }
    assert_eq!(running.sidecar.metric("fairlead_xds_nacks_total").await, Some(0.0));
    running.ends_without_a_failed_call().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_leaves_when_asked_takes_nothing_with_it() {
    let mut running = running().await;
    let start = Instant::now();
    let status = running.world.operator.as_mut().unwrap().program.terminate().await;
    println!("ended {:?} after SIGTERM: {status}", start.elapsed());
    assert!(status.success(), "{status}");
    holds("the sidecar has noticed", || async { !running.connected().await }).await;
    running.calls(200).await;
    let page = running.sidecar.page("/clusters").await;
    assert_eq!(page["shop/reviews:9080"]["endpoints"].as_array().map(Vec::len), Some(2));
    assert_eq!(get(running.sidecar.ready, "/ready").await.unwrap().status, 200);

    running.world.start_operator().await;
    holds("the sidecar is connected again", || async { running.connected().await }).await;
    running.calls(100).await;
    running.ends_without_a_failed_call().await;
}

/// A source that takes its time: so much is in it that reading takes seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_source_answers_late_removes_nothing() {
    const MANY: usize = 20_000;
    let mut running = running().await;
    running.world.operator.as_mut().unwrap().program.kill();
    for file in 0..MANY / 1_000 {
        let mut others = String::new();
        for number in file * 1_000..(file + 1) * 1_000 {
            let address = format!("10.{}.{}.{}", 100 + number / 62_500, number / 250 % 250, number % 250 + 1);
            let name = format!("other-{number}");
            others += &format!("{}---\n", manifest::service("shop", &name, &address, 9080, "http"));
        }
        running.world.apply(&format!("others-{file}"), &others);
    }

    let again = running.start_again();
    let (metrics, xds) = (running.world.operator().metrics, running.world.operator().xds);
    again.address("metrics", "-").await;
    answers("it lives", metrics, "/healthz").await;
    running.calls(300).await;
    let ready = get(metrics, "/readyz").await.unwrap();
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(tokio::net::TcpStream::connect(xds).await.is_err(), "xDS is bound before the source was read");
    assert!(!running.connected().await);

    answers("it is ready", metrics, "/readyz").await;
    holds("the sidecar is connected again", || async { running.connected().await }).await;
    running.calls(200).await;
    let page = running.sidecar.page("/clusters").await;
    assert_eq!(page["shop/reviews:9080"]["endpoints"].as_array().map(Vec::len), Some(2));

    // And it follows changes as before.
    running.world.ready_endpoints("shop/reviews", &running.addresses);
    holds("a new endpoint is called", || async { running.backends[2].total() > 0 }).await;
    running.ends_without_a_failed_call().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_without_its_source_does_not_start_and_removes_nothing() {
    let mut running = running().await;
    running.world.operator.as_mut().unwrap().program.kill();
    let away = running.world.folder().join("away");
    std::fs::rename(&running.world.source, &away).unwrap();

    let mut again = running.start_again();
    let status = again.ended().await;
    assert!(!status.success());
    let log = again.read_log();
    assert!(log.contains("does not exist; create the directory first"), "{log}");
    assert!(!log.contains("listening xds"), "{log}");
    running.calls(100).await;

    std::fs::rename(&away, &running.world.source).unwrap();
    running.world.start_operator().await;
    holds("the sidecar is connected again", || async { running.connected().await }).await;
    running.calls(100).await;

    // A source that goes away while the operator runs: what it held stays in force.
    std::fs::rename(&running.world.source, &away).unwrap();
    running.calls(200).await;
    std::fs::rename(&away, &running.world.source).unwrap();
    running.calls(100).await;
    running.ends_without_a_failed_call().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stands_still_is_no_reason_to_stop_calling() {
    let running = running().await;
    running.world.operator().program.signal(Signal::STOP);
    running.calls(300).await;
    running.world.ready_endpoints("shop/reviews", &running.addresses[2..]);
    running.world.operator().program.signal(Signal::CONT);
    holds("what changed meanwhile arrives", || async { running.backends[2].total() > 0 }).await;
    running.calls(100).await;
    running.ends_without_a_failed_call().await;
}

#[tokio::test]
async fn a_sidecar_that_starts_before_the_operator_waits_for_it() {
    let mut world = World::new();
    let _backends = world.backends("shop/reviews", 9080, "http", 1).await;
    world.start_operator().await;
    let operator: SocketAddr = world.operator().xds;
    world.operator.as_mut().unwrap().program.kill();

    let mut flags = SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"]);
    flags.operator = Some(operator);
    let sidecar = world.sidecar_unready(&flags).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    assert_eq!(get(sidecar.ready, "/ready").await.unwrap().status, 503);
    assert_eq!(get(address, "/").await.unwrap().status, 503);
    world.start_operator().await;
    answers("the sidecar is ready", sidecar.ready, "/ready").await;
    assert_eq!(get(address, "/").await.unwrap().status, 200);
}
