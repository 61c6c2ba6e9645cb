//! The connection pool: limits are exact per sidecar, over all its workers.

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::Call;
use fairlead_tests::load::{Summary, burst};
use fairlead_tests::until::holds;
use fairlead_tests::world::{SidecarFlags, World};

const ROUTE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  connectionPool: {maxConnections: 4, maxPendingRequests: 2, pendingTimeout: 20s}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_connections_two_wait_and_the_rest_is_refused_at_once() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 3).await;
    for backend in &backends {
        backend.set(Behaviour::Stall);
    }
    world.apply("route", ROUTE);
    world.start_operator().await;
    let flags = SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"]).workers(4);
    let sidecar = world.sidecar(&flags).await;
    let address = sidecar.upstream("shop/reviews:9080").await;

    let calls = tokio::spawn(burst(address, 100, 100, |_| Call::get("/")));
    let in_flight = || backends.iter().map(Backend::total).sum::<usize>();
    holds("four calls are with the backends", || async { in_flight() == 4 }).await;
    // The refused ones are answered while the others stall: the metrics say when all have been.
    holds("ninety-four are refused", || async {
        let text = fairlead_tests::client::get(sidecar.metrics, "/metrics").await.unwrap().text();
        let refused = text.lines().filter(|line| line.contains("\"UO\"") && !line.starts_with('#'));
        let count = refused.filter(|line| line.contains("_total{") || line.contains("_count{"));
        count.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).any(|sum| sum >= 94.0)
    })
    .await;
    assert_eq!(in_flight(), 4);
    for done in [4, 6] {
        holds("they are with the backends", || async { in_flight() == done }).await;
        backends.iter().for_each(Backend::release);
    }
    let summary = Summary::of(calls.await.unwrap());
    assert_eq!((summary.status(200), summary.status(503)), (6, 94), "{:?}", summary.statuses);
    assert_eq!(backends.iter().map(Backend::accepted).sum::<usize>(), 4, "connections in all");
}
