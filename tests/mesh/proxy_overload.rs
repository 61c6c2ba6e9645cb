//! Twice what a Service port takes: what is admitted is carried to its end, the surplus hears so at once, and
//! the queue is never longer than it may be.

use std::net::SocketAddr;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Answer, Call, Http2, call};
use fairlead_tests::load::{Summary, burst};
use fairlead_tests::until::holds;
use fairlead_tests::world::{Sidecar, SidecarFlags, World};
use tokio::task::JoinHandle;

const PORT: &str = "shop/reviews:9080";

async fn reviews(protocol: &str, pool: &str) -> (World, Backend, Sidecar, SocketAddr) {
    let mut world = World::new();
    let backend = world.backends("shop/reviews", 9080, protocol, 1).await.remove(0);
    backend.set(Behaviour::Stall);
    let route = format!(
        "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {{name: reviews, namespace: shop}}
spec:
  parentRefs: [{{name: reviews}}]
  connectionPool: {{{pool}}}
"
    );
    world.apply("route", &route);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &[PORT]).workers(2)).await;
    let address = sidecar.upstream(PORT).await;
    (world, backend, sidecar, address)
}

/// What the admin page says of the pool: `pending`, `connections`, `requests`.
async fn pool(sidecar: &Sidecar, what: &str) -> Option<u64> {
    sidecar.page("/clusters").await[PORT]["pool"][what].as_u64()
}

async fn refused(sidecar: &Sidecar) -> f64 {
    let text = fairlead_tests::client::get(sidecar.metrics, "/metrics").await.unwrap().text();
    let of_overflow =
        text.lines().filter(|line| line.starts_with("fairlead_requests_total{") && line.contains("\"UO\""));
    of_overflow.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A call with a name, on its way.
fn begin(address: SocketAddr, id: &str) -> JoinHandle<Answer> {
    let get = Call::get("/").header("x-id", id);
    tokio::spawn(async move { call(address, &get).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_twice_the_limit_exactly_the_surplus_is_refused_and_the_queue_stays_short() {
    let limits = "maxConnections: 8, maxPendingRequests: 8, pendingTimeout: 60s";
    let (_world, backend, sidecar, address) = reviews("http", limits).await;
    let rounds = 3;
    for round in 1..=rounds {
        let calls = tokio::spawn(burst(address, 32, 32, |_| Call::get("/")));
        let before = 16 * (round - 1);
        holds("eight are with the backend, eight wait, sixteen have their answer", || async {
            backend.total() == before + 8
                && pool(&sidecar, "pending").await == Some(8)
                && refused(&sidecar).await >= 16.0 * f64::from(u32::try_from(round).unwrap())
        })
        .await;
        assert_eq!(pool(&sidecar, "connections").await, Some(8));
        backend.release();
        holds("those who waited are with the backend", || async { backend.total() == before + 16 }).await;
        assert_eq!(pool(&sidecar, "pending").await, Some(0));
        backend.release();
        let outcomes = calls.await.unwrap();
        for answer in outcomes.iter().flatten().filter(|answer| answer.status != 200) {
            assert!(answer.text().starts_with("UO: maxConnections: 8 are open"), "{}", answer.text());
        }
        let summary = Summary::of(outcomes);
        assert_eq!((summary.status(200), summary.status(503)), (16, 16), "{:?}", summary.failed);
    }
    assert_eq!(backend.accepted(), 8, "the connections were kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_served_in_turn() {
    let limits = "maxConnections: 1, maxPendingRequests: 5, pendingTimeout: 60s";
    let (_world, backend, sidecar, address) = reviews("http", limits).await;
    let mut calls = vec![begin(address, "0")];
    holds("the first is with the backend", || async { backend.total() == 1 }).await;
    for waiting in 1..=5 {
        calls.push(begin(address, &waiting.to_string()));
        holds("one more waits", || async { pool(&sidecar, "pending").await == Some(waiting) }).await;
    }
    assert_eq!(begin(address, "6").await.unwrap().status, 503, "the queue is full");
    // A caller that leaves makes room, and the others keep their order.
    calls.remove(2).abort();
    holds("four wait", || async { pool(&sidecar, "pending").await == Some(4) }).await;
    calls.push(begin(address, "7"));
    holds("five wait", || async { pool(&sidecar, "pending").await == Some(5) }).await;
    for done in 1..=6 {
        holds("the next one is with the backend", || async { backend.total() == done }).await;
        backend.release();
    }
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
    let order: Vec<_> = backend.seen().iter().map(|seen| seen.header("x-id").unwrap().to_owned()).collect();
    assert_eq!(order, ["0", "1", "3", "4", "5", "7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_for_long_enough_is_refused_and_nobody_else_is() {
    let limits = "maxConnections: 2, maxPendingRequests: 4, pendingTimeout: 200ms";
    let (_world, backend, sidecar, address) = reviews("http", limits).await;
    let admitted = [begin(address, "0"), begin(address, "1")];
    holds("two are with the backend", || async { backend.total() == 2 }).await;
    let waiting: Vec<_> = (2..6).map(|id| begin(address, &id.to_string())).collect();
    for call in waiting {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.text(), "UO: no connection came free within 200ms\n");
    }
    assert_eq!((backend.total(), pool(&sidecar, "pending").await), (2, Some(0)));
    backend.release();
    for call in admitted {
        assert_eq!(call.await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_held_to_the_requests_in_flight() {
    let (_world, backend, sidecar, address) = reviews("h2c", "maxConnections: 1, maxRequests: 8").await;
    let connection = Http2::connect(address).await.unwrap();
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.call(&Call::get("/")).await.unwrap() })
        })
        .collect();
    holds("eight are with the backend, eight have their answer", || async {
        backend.total() == 8 && refused(&sidecar).await >= 8.0
    })
    .await;
    backend.release();
    let mut statuses = Vec::new();
    for call in calls {
        let answer = call.await.unwrap();
        assert!(answer.status == 200 || answer.text().starts_with("UO: maxRequests: 8"), "{}", answer.text());
        statuses.push(answer.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 8], [503; 8]].concat());
    assert_eq!((backend.total(), backend.accepted()), (8, 1));
}
