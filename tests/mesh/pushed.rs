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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_lets_calls_through_to_another_namespace() {
    let mut world = World::new();
    let _reviews = world.backends("shop/reviews", 9080, "http", 1).await;
    let ledger = world.backends("bank/ledger", 9080, "http", 1).await;
    world.apply(
        "route",
        "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  rules: [{backendRefs: [{name: ledger, namespace: bank, port: 9080}]}]
",
    );
    let grant = |name: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: shop-may, namespace: bank}}
spec:
  from: [{{group: fairlead.dev, kind: ServiceRoute, namespace: shop}}]
  to: [{{group: '', kind: Service, name: {name}}}]
"
        )
    };
    world.apply("grant", &grant("vault"));
    world.start_operator().await;
    let route = ("ServiceRoute", "shop", "reviews");
    let (condition, _) = world.condition(route, "ResolvedRefs", "False").await;
    assert_eq!(condition["reason"], "RefNotPermitted");
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    assert_eq!(get(address, "/").await.unwrap().status, 500);

    world.apply("grant", &grant("ledger"));
    world.condition(route, "ResolvedRefs", "True").await;
    eventually("the granted Service answers", || async {
        let answer = get(address, "/").await.unwrap();
        (answer.status == 200 && answer.backend() == ledger[0].name).then_some(())
    })
    .await;
}

/// 530 KB of YAML that would become 25 MB for each sidecar: more than one takes as a resource.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_too_large_harms_no_neighbour() {
    let mut world = World::new();
    let _reviews = world.backends("shop/reviews", 9080, "http", 1).await;
    let ratings = world.backends("shop/ratings", 9080, "http", 2).await;
    let addresses: Vec<IpAddr> = ratings.iter().map(|one| one.address.ip()).collect();
    world.ready_endpoints("shop/ratings", &addresses[..1]);
    world.start_operator().await;
    let called = ["shop/reviews:9080", "shop/ratings:9080"];
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &called)).await;

    let mut route = String::from(
        "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  rules:
",
    );
    let value = "v".repeat(4096);
    for rule in 0..4 {
        let matches: Vec<_> = (0..8).map(|n| format!("{{path: {{value: /{rule}/{n}}}}}")).collect();
        let headers = |kind: &str| -> String {
            (0..16)
                .map(|n| format!("{{name: {kind}-{rule}-{n}, value: {value}}}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        route.push_str(&format!(
            "  - matches: [{}]
    filters:
    - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{}], add: [{}]}}}}
    backendRefs: [{{name: reviews, port: 9080}}]
    retry: {{codes: [503]}}
",
            matches.join(", "),
            headers("set"),
            headers("add")
        ));
    }
    assert!(route.len() > 500_000);
    world.apply("route", &route);
    let (condition, _) = world.condition(("ServiceRoute", "shop", "reviews"), "Accepted", "False").await;
    assert_eq!(condition["reason"], "TooLarge", "{condition}");
    let reviews = sidecar.upstream("shop/reviews:9080").await;
    eventually("its own rules answer 500", || async {
        (get(reviews, "/").await.unwrap().status == 500).then_some(())
    })
    .await;
    world.ready_endpoints("shop/ratings", &addresses[1..]);
    let neighbour = sidecar.upstream("shop/ratings:9080").await;
    eventually("the neighbour's change arrives", || async {
        (get(neighbour, "/").await.unwrap().backend() == ratings[1].name).then_some(())
    })
    .await;
    world.remove("route");
    eventually("without it all is as before", || async {
        (get(reviews, "/").await.unwrap().status == 200).then_some(())
    })
    .await;
}
