//! Three instances of one service behind a prefix: all are used, one may die unnoticed, and the service can
//! be switched to maintenance and back.

use std::net::IpAddr;
use std::time::Duration;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Call, get};
use fairlead_tests::load::{Load, Summary, burst};
use fairlead_tests::until::holds;
use fairlead_tests::world::{SidecarFlags, World};

const ROUTE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: product, namespace: shop}
spec:
  parentRefs: [{name: product, port: 8080}]
  rules:
  - name: strip
    matches: [{path: {value: /product}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    backendRefs: [{name: product, port: 8080}]
    retry: {attempts: 2, conditions: [ConnectFailure, RefusedStream, ResetBeforeRequest, ResetOnReuse, Reset]}
";

async fn product(world: &mut World) -> Vec<Backend> {
    let backends = world.backends("shop/product", 8080, "http", 3).await;
    for backend in &backends {
        backend.set(Behaviour::Text("Product Service.".into()));
    }
    backends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_three_instances_answer_and_one_dies_unnoticed() {
    let mut world = World::new();
    let mut backends = product(&mut world).await;
    world.apply("route", ROUTE);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/product:8080"])).await;
    let address = sidecar.upstream("shop/product:8080").await;

    let outcomes = burst(address, 100, 4, |_| Call::get("/product/info")).await;
    for outcome in &outcomes {
        let answer = outcome.as_ref().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "Product Service."));
    }
    let summary = Summary::of(outcomes);
    assert_eq!(summary.backends.len(), 3, "{summary:?}");
    assert!(backends[0].seen().iter().all(|seen| seen.path == "/info"));

    // Killed under load; its endpoint goes a moment later.
    let load = Load::start(address, 4, Duration::from_millis(1), |_| Call::get("/product/info"));
    holds("the load runs", || async { load.made() > 50 }).await;
    backends.remove(0).stop().await;
    let killed = load.made();
    holds("calls meet the dead instance", || async { load.made() > killed + 50 }).await;
    let left: Vec<IpAddr> = backends.iter().map(|one| one.address.ip()).collect();
    world.ready_endpoints("shop/product", &left);
    holds("calls go on", || async { load.made() > killed + 200 }).await;
    let summary = load.stop().await;
    assert!(summary.failed.is_empty(), "{summary:?}");
}

#[tokio::test]
async fn s12_maintenance_is_switched_on_and_off() {
    let mut world = World::new();
    let backends = product(&mut world).await;
    world.apply("route", ROUTE);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/product:8080"])).await;
    let address = sidecar.upstream("shop/product:8080").await;
    assert_eq!(get(address, "/product/info").await.unwrap().status, 200);

    let rule = "  - name: maintenance
    matches: [{path: {value: /product/info}}]
    filters:
    - {type: DirectResponse, directResponse: {status: 403, body: \"So long and thanks for all the fish!\", headers: [{name: content-type, value: text/plain}]}}
";
    let with_rule = ROUTE.replace("  - name: strip\n", &format!("{rule}  - name: strip\n"));
    let processed = || backends.iter().map(Backend::total).sum::<usize>();
    for _ in 0..2 {
        world.apply("route", &with_rule);
        holds("maintenance is on", || async { get(address, "/product/info").await.unwrap().status == 403 })
            .await;
        let before = processed();
        for _ in 0..20 {
            let answer = get(address, "/product/info").await.unwrap();
            assert_eq!(answer.status, 403);
            assert_eq!(answer.text(), "So long and thanks for all the fish!");
            assert_eq!(answer.header("content-type"), Some("text/plain"));
        }
        assert_eq!(processed(), before, "the upstream sees no request");
        assert_eq!(get(address, "/product/other").await.unwrap().status, 200);

        world.apply("route", ROUTE);
        holds("it is off", || async { get(address, "/product/info").await.unwrap().status == 200 }).await;
    }
}
