//! Who gets the next call: exact shares, exact turns, and endpoints that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use fairlead_tests::backend::Backend;
use fairlead_tests::client::{Call, Http1, get};
use fairlead_tests::load::{Load, Summary, burst};
use fairlead_tests::manifest::Endpoint;
use fairlead_tests::until::{eventually, holds};
use fairlead_tests::world::{Sidecar, SidecarFlags, World};

const ROUND_ROBIN: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  loadBalancer: {type: RoundRobin}
";

const NINETY_TEN: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - backendRefs: [{name: reviews, port: 9080, weight: 90}, {name: reviews-v2, port: 9080, weight: 10}]
";

async fn caller(world: &World, workers: u32) -> (Sidecar, SocketAddr) {
    let flags = SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"]).workers(workers);
    let sidecar = world.sidecar(&flags).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    (sidecar, address)
}

/// The backends that answer `calls` calls, one after the other over one connection.
async fn one_after_the_other(address: SocketAddr, calls: usize) -> Vec<String> {
    let mut connection = Http1::connect(address).await.unwrap();
    let mut backends = Vec::new();
    for _ in 0..calls {
        let answer = connection.call(&Call::get("/")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        backends.push(answer.backend().to_owned());
    }
    backends
}

#[tokio::test]
async fn round_robin_is_exact_over_three() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 3).await;
    world.apply("route", ROUND_ROBIN);
    world.start_operator().await;
    let (_sidecar, address) = caller(&world, 1).await;

    let order = one_after_the_other(address, 99).await;
    for turn in order.chunks(3) {
        assert_eq!(turn, &order[..3], "each turn is like the first");
        let different: BTreeSet<_> = turn.iter().collect();
        assert_eq!(different.len(), 3, "{turn:?}");
    }
    assert_eq!(backends.iter().map(Backend::total).collect::<Vec<_>>(), [33, 33, 33]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_to_ten_is_one_in_ten() {
    for workers in [1, 4] {
        let mut world = World::new();
        let _stable = world.backends("shop/reviews", 9080, "http", 2).await;
        let canary = world.backends("shop/reviews-v2", 9080, "http", 1).await.remove(0);
        world.apply("route", NINETY_TEN);
        world.start_operator().await;
        let (_sidecar, address) = caller(&world, workers).await;

        if workers == 1 {
            let order = one_after_the_other(address, 200).await;
            for cycle in order.chunks(10) {
                let share = cycle.iter().filter(|name| **name == canary.name).count();
                assert_eq!(share, 1, "{cycle:?}");
            }
        } else {
            // Over all workers together, too.
            let summary = Summary::of(burst(address, 1_000, 16, |_| Call::get("/")).await);
            assert_eq!(summary.status(200), 1_000, "{summary:?}");
            assert_eq!(summary.backends[&canary.name], 100, "{summary:?}");
        }
    }
}

#[tokio::test]
async fn one_that_ends_gets_calls_only_when_nothing_is_ready() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 3).await;
    let [ready, ending, other] = [0, 1, 2].map(|index| backends[index].address.ip());
    world.start_operator().await;
    let (_sidecar, address) = caller(&world, 1).await;

    let both_end = [Endpoint::terminating(ending), Endpoint::terminating(other)];
    let one_is_ready = [&both_end[..], &[Endpoint::ready(ready)]].concat();
    for _ in 0..2 {
        world.endpoints("shop/reviews", &one_is_ready);
        in_force(&world, &[ready]).await;
        let seen = one_after_the_other(address, 30).await;
        assert!(seen.iter().all(|name| *name == backends[0].name), "{seen:?}");

        world.endpoints("shop/reviews", &both_end);
        in_force(&world, &[ending, other]).await;
        let mut seen = BTreeMap::<String, usize>::new();
        one_after_the_other(address, 60)
            .await
            .into_iter()
            .for_each(|name| *seen.entry(name).or_default() += 1);
        let names: Vec<_> = seen.keys().cloned().collect();
        assert_eq!(names, [backends[1].name.clone(), backends[2].name.clone()], "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_endpoint_gets_no_more_calls_once_acked() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 3).await;
    let all = [0, 1, 2].map(|index| backends[index].address.ip());
    world.start_operator().await;
    let (_sidecar, address) = caller(&world, 2).await;
    let load = Load::start(address, 4, Duration::from_millis(1), |_| Call::get("/"));

    for round in 0..9 {
        let leaves = round % 3;
        let left: Vec<_> = all.iter().copied().filter(|one| *one != all[leaves]).collect();
        world.ready_endpoints("shop/reviews", &left);
        in_force(&world, &left).await;
        // Four callers: what was on its way when the change came has arrived long since.
        let begun = load.made();
        holds("calls on their way have ended", || async { load.made() >= begun + 50 }).await;
        let before = backends[leaves].total();
        let begun = load.made();
        holds("calls go on", || async { load.made() >= begun + 50 }).await;
        assert_eq!(backends[leaves].total(), before, "round {round}");

        world.ready_endpoints("shop/reviews", &all);
        in_force(&world, &all).await;
        holds("it is called again", || async { backends[leaves].total() > before }).await;
    }
    let summary = load.stop().await;
    assert!(summary.failed.is_empty(), "{summary:?}");
    assert_eq!(get(address, "/").await.unwrap().status, 200);
}

/// Waits until the sidecar has acked the endpoints, and these are what is served.
async fn in_force(world: &World, addresses: &[std::net::IpAddr]) {
    let operator = world.operator().admin;
    let snapshot = || async {
        let page = get(operator, "/snapshot?name=shop/reviews:9080").await.unwrap().json();
        page.as_array()?
            .iter()
            .find(|one| one["type"].as_str().is_some_and(|it| it.contains("ClusterLoadAssignment")))
            .cloned()
    };
    eventually("the sidecar has acked the endpoints", || async {
        let current = snapshot().await?;
        let text = current["resource"].as_str()?;
        let served: Vec<_> = addresses.iter().filter(|one| text.contains(&format!("\"{one}\""))).collect();
        let clients = get(operator, "/clients").await.unwrap().json();
        let resources = clients["clients"].as_array()?.iter().filter(|one| one["connected"] == true);
        let mut resources =
            resources.flat_map(|one| one["resources"].as_array().cloned().unwrap_or_default());
        let mine = resources.find(|one| one["type"] == "Endpoints" && one["name"] == "shop/reviews:9080")?;
        let acked = mine["state"] == "acked" && mine["acked"] == current["version"];
        (served.len() == addresses.len() && text.matches("\"127.").count() == addresses.len() && acked)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn equal_endpoints_are_all_used_by_default() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 3).await;
    world.start_operator().await;
    let (_sidecar, address) = caller(&world, 1).await;
    one_after_the_other(address, 300).await;
    for backend in &backends {
        // Drawn at random when none is busy: 100 each with a deviation of about 8.
        assert!((50..=150).contains(&backend.total()), "{}: {}", backend.name, backend.total());
    }
}
