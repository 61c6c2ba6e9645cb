//! What is sent again, and what never: backends that break at every moment, and what they processed.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::Call;
use fairlead_tests::load::{Outcome, Summary, burst};
use fairlead_tests::world::{Sidecar, SidecarFlags, World};

const ROUTE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - backendRefs: [{name: reviews, port: 9080}]
    timeouts: {backendRequest: 300ms}
    retry:
      attempts: 2
      conditions: [ConnectFailure, RefusedStream, ResetBeforeRequest, ResetOnReuse, Reset, Timeout, GatewayError]
      codes: [502, 503, 504]
      backoff: 1ms
";

async fn reviews(protocol: &str) -> (World, Vec<Backend>, Sidecar, SocketAddr) {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, protocol, 3).await;
    world.apply("route", ROUTE);
    world.start_operator().await;
    let flags = SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"]).workers(2);
    let sidecar = world.sidecar(&flags).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    (world, backends, sidecar, address)
}

fn post(number: usize) -> Call {
    Call::post("/reviews", format!("review {number}")).header("x-id", &number.to_string())
}

/// How often each call was processed, by all backends together.
fn processed(backends: &[Backend]) -> HashMap<usize, usize> {
    let mut sum = HashMap::new();
    for (id, times) in backends.iter().flat_map(Backend::processed_ids) {
        *sum.entry(id.parse().unwrap()).or_default() += times;
    }
    sum
}

/// No call was processed twice, and whoever got a 200 got the answer to its own call.
fn none_twice_none_wrong(backends: &[Backend], outcomes: &[Outcome]) {
    let processed = processed(backends);
    let twice: Vec<_> = processed.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "processed more than once: {twice:?}");
    for (number, outcome) in outcomes.iter().enumerate() {
        let Ok(answer) = outcome else { continue };
        if answer.status == 200 {
            assert_eq!(answer.json()["body"], format!("review {number}"));
            assert_eq!(processed.get(&number), Some(&1));
        } else {
            assert!(matches!(answer.status, 502..=504), "{}: {}", answer.status, answer.text());
        }
    }
}

/// Each misbehaviour took place, so that what held has been tried.
fn each_happened(backends: &[Backend], names: &[&str]) {
    let mut sum = BTreeMap::<&str, usize>::new();
    for (name, times) in backends.iter().flat_map(Backend::happened) {
        *sum.entry(name).or_default() += times;
    }
    println!("{sum:?}");
    for name in names {
        assert!(sum.get(name).is_some_and(|times| *times > 20), "{name}: {sum:?}");
    }
}

/// 19 good answers, then this.
fn seldom(behaviours: &[Behaviour]) -> Behaviour {
    let cycle = behaviours.iter().flat_map(|one| [vec![Behaviour::Ok; 19], vec![one.clone()]].concat());
    Behaviour::Cycle(cycle.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_posts_none_twice_over_http1() {
    let (_world, backends, _sidecar, address) = reviews("http").await;
    for backend in &backends {
        backend.set(seldom(&[
            Behaviour::ResetOnAccept,
            Behaviour::CloseReused,
            Behaviour::ResetBeforeHead,
            Behaviour::ResetAfterHead,
            Behaviour::ResetInBody,
            Behaviour::Status(503),
            Behaviour::Stall,
        ]));
    }
    let outcomes = burst(address, 10_000, 32, post).await;
    none_twice_none_wrong(&backends, &outcomes);
    let summary = Summary::of(outcomes);
    println!("{:?}", summary.statuses);
    assert!(summary.status(200) > 9_000, "{:?}", summary.statuses);
    each_happened(
        &backends,
        &[
            "ResetOnAccept",
            "CloseReused",
            "ResetBeforeHead",
            "ResetAfterHead",
            "ResetInBody",
            "Status",
            "Stall",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_posts_none_twice_over_http2() {
    let (_world, backends, _sidecar, address) = reviews("h2c").await;
    for backend in &backends {
        backend.set(seldom(&[
            Behaviour::RefuseStream,
            Behaviour::GoAwayAfter,
            Behaviour::ResetBeforeHead,
            Behaviour::ResetAfterHead,
            Behaviour::ResetInBody,
            Behaviour::Status(503),
            Behaviour::Stall,
            Behaviour::GoAway,
        ]));
    }
    let outcomes = burst(address, 10_000, 32, post).await;
    none_twice_none_wrong(&backends, &outcomes);
    let summary = Summary::of(outcomes);
    println!("{:?}", summary.statuses);
    assert!(summary.status(200) > 9_000, "{:?}", summary.statuses);
    each_happened(
        &backends,
        &[
            "RefuseStream",
            "GoAwayAfter",
            "ResetBeforeHead",
            "ResetAfterHead",
            "ResetInBody",
            "Status",
            "Stall",
            "GoAway",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_provably_not_processed_is_hidden_from_posts() {
    let (_world, backends, _sidecar, address) = reviews("h2c").await;
    // Two of three: each attempt goes to another one, so the third is answered.
    for backend in &backends[1..] {
        backend.set(seldom(&[Behaviour::RefuseStream]));
    }
    let outcomes = burst(address, 1_000, 8, post).await;
    none_twice_none_wrong(&backends, &outcomes);
    let summary = Summary::of(outcomes);
    assert_eq!(summary.status(200), 1_000, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_down_behind_its_sidecar_is_a_connect_failure() {
    let mut world = World::new();
    world.service("shop/reviews", 9080, "http");
    let (here, away) = (world.host(), world.host());
    let application = Backend::start("here", SocketAddr::new(here, 19080), Behaviour::Ok).await;
    world.ready_endpoints("shop/reviews", &[here, away]);
    // Half of the calls meet the dead one: more than the default budget would retry.
    let constraint = "  retryConstraint: {budget: {percent: 100, interval: 10s}}\n";
    world.apply("route", &format!("{ROUTE}{constraint}"));
    world.start_operator().await;
    let mut sidecars = Vec::new();
    for host in [here, away] {
        let (listen, application) = (SocketAddr::new(host, 9080), SocketAddr::new(host, 19080));
        sidecars.push(world.sidecar(&SidecarFlags::serving("shop/reviews-0", listen, application)).await);
    }
    let caller = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = caller.upstream("shop/reviews:9080").await;

    let outcomes = burst(address, 20, 1, post).await;
    none_twice_none_wrong(std::slice::from_ref(&application), &outcomes);
    for outcome in &outcomes {
        let answer = outcome.as_ref().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-fairlead-unprocessed"), None);
    }
    assert_eq!(application.total(), 20);
}
