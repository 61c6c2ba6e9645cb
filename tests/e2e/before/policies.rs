//! Policies applied with `kubectl` reach a sidecar, and `kubectl wait` knows when.

use std::net::SocketAddr;
use std::time::Instant;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Call, call, get};
use fairlead_tests::cluster::{Cluster, node_address};
use fairlead_tests::program::measured;
use fairlead_tests::sidecar::{Sidecar, SidecarFlags};
use fairlead_tests::until::eventually;

/// A Service without a selector, with a slice for each address: what listens there are processes on the node.
fn service_at(name: &str, addresses: &[SocketAddr]) -> String {
    let mut yaml = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  ports: [{{name: http, port: 8080}}]
"
    );
    for address in addresses {
        let (address, port) = (address.ip(), address.port());
        yaml += &format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{port}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
"
        );
    }
    yaml
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_programmed_and_a_dangling_one_says_so() {
    let cluster = Cluster::new();
    let operator = cluster.operator().await;
    let any = SocketAddr::new(node_address(), 0);
    let old = Backend::start("old", any, Behaviour::Ok).await;
    let new = Backend::start("new", any, Behaviour::Ok).await;
    cluster.apply(&service_at("reviews", &[old.address]));
    cluster.apply(&service_at("reviews-v2", &[new.address]));
    let upstream = format!("{}/reviews:8080", cluster.namespace);
    let flags = SidecarFlags::calling(&format!("{}/frontend", cluster.namespace), &[&upstream]);
    let sidecar = Sidecar::start(&flags, operator.xds, &cluster.logs).await;
    let address = sidecar.upstream(&upstream).await;
    assert_eq!(get(address, "/").await.unwrap().backend(), "old");

    let route = "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - backendRefs: [{name: reviews-v2, port: 8080}]
";
    cluster.apply(route);
    cluster.wait("serviceroute/reviews", "condition=Programmed");
    // No waiting here: Programmed means that the sidecar runs it.
    assert_eq!(get(address, "/").await.unwrap().backend(), "new");
    let status = &cluster.get("serviceroute", "reviews")["status"];
    assert_eq!(status["rollout"]["subscribed"], 1, "{status}");
    assert_eq!(status["rollout"]["acked"], 1, "{status}");

    cluster.apply(&route.replace("reviews-v2", "nowhere"));
    cluster.wait("serviceroute/reviews", "condition=ResolvedRefs=false");
    let object = cluster.get("serviceroute", "reviews");
    let conditions = object["status"]["conditions"].as_array().unwrap();
    for condition in conditions {
        assert_eq!(condition["observedGeneration"], object["metadata"]["generation"], "{condition}");
    }
    let resolved = conditions.iter().find(|one| one["type"] == "ResolvedRefs").unwrap();
    assert!(resolved["message"].as_str().unwrap().contains("nowhere"), "{resolved}");
    cluster.wait("serviceroute/reviews", "condition=Programmed");
    assert_eq!(get(address, "/").await.unwrap().status, 500);

    cluster.kubectl(&["delete", "serviceroute", "reviews"], "").unwrap();
    fairlead_tests::until::holds("without the route, the service itself answers", || async {
        get(address, "/").await.unwrap().backend() == "old"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_ejections_are_programmed_and_hold() {
    let cluster = Cluster::new();
    let operator = cluster.operator().await;
    let application = Backend::start("application", SocketAddr::new(node_address(), 0), Behaviour::Ok).await;
    // The endpoint is the sidecar in front of the application.
    let listen = free_address().await;
    cluster.apply(&service_at("orders", &[listen]));
    let inbound =
        SidecarFlags::serving(&format!("{}/orders-0", cluster.namespace), listen, application.address);
    let _serving = Sidecar::start(&inbound, operator.xds, &cluster.logs).await;
    let upstream = format!("{}/orders:8080", cluster.namespace);
    let flags = SidecarFlags::calling(&format!("{}/frontend", cluster.namespace), &[&upstream]);
    let calling = Sidecar::start(&flags, operator.xds, &cluster.logs).await;
    let address = calling.upstream(&upstream).await;
    assert_eq!(get(address, "/").await.unwrap().status, 200);

    cluster.apply(
        "apiVersion: fairlead.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: orders}
spec:
  targetRefs: [{kind: Service, name: orders}]
  limits: [{name: posts, matches: [{method: POST}], requests: 2, per: 1h}]
---
apiVersion: fairlead.dev/v1alpha1
kind: OutlierDetection
metadata: {name: orders}
spec:
  targetRefs: [{kind: Service, name: orders}]
  consecutiveErrors: 2
  errors: [ServerError]
",
    );
    cluster.wait("ratelimitpolicy/orders", "condition=Programmed");
    cluster.wait("outlierdetection/orders", "condition=Programmed");
    for kind in ["ratelimitpolicy", "outlierdetection"] {
        let rollout = &cluster.get(kind, "orders")["status"]["rollout"];
        assert_eq!((&rollout["subscribed"], &rollout["acked"]), (&1.into(), &1.into()), "{kind}: {rollout}");
    }
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(call(address, &Call::post("/", "order")).await.unwrap());
    }
    assert_eq!(statuses.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 429]);
    assert_eq!(statuses[2].number("ratelimit-limit"), Some(2));
    assert!(statuses[2].number("retry-after").is_some_and(|seconds| (1..=3600).contains(&seconds)));

    // The last endpoint is never ejected, and its errors are counted.
    application.set(Behaviour::Status(500));
    for _ in 0..3 {
        assert_eq!(get(address, "/").await.unwrap().status, 500);
    }
    cluster.kubectl(&["delete", "ratelimitpolicy", "orders"], "").unwrap();
    fairlead_tests::until::holds("without the policy nothing is limited", || async {
        call(address, &Call::post("/", "order")).await.unwrap().status == 500
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_change_in_the_api_reaches_calls() {
    let cluster = Cluster::new();
    let operator = cluster.operator().await;
    let any = SocketAddr::new(node_address(), 0);
    let backends =
        [Backend::start("one", any, Behaviour::Ok).await, Backend::start("two", any, Behaviour::Ok).await];
    cluster.apply(&service_at("reviews", &[backends[0].address]));
    let upstream = format!("{}/reviews:8080", cluster.namespace);
    let flags = SidecarFlags::calling(&format!("{}/frontend", cluster.namespace), &[&upstream]);
    let sidecar = Sidecar::start(&flags, operator.xds, &cluster.logs).await;
    let address = sidecar.upstream(&upstream).await;

    let mut times = Vec::new();
    let slice = format!("reviews-{}", backends[0].address.port());
    for round in 0..10 {
        let next = &backends[(round + 1) % 2];
        let patch = format!(
            r#"{{"ports": [{{"name": "http", "port": {}}}], "endpoints": [{{"addresses": ["{}"], "conditions": {{"ready": true}}}}]}}"#,
            next.address.port(),
            next.address.ip()
        );
        cluster.kubectl(&["patch", "endpointslice", &slice, "--type=merge", "-p", &patch], "").unwrap();
        // From the answer of the API server, without kubectl's own time.
        let start = Instant::now();
        eventually("the new endpoint is called", || async {
            let answer = get(address, "/").await.unwrap();
            assert_eq!(answer.status, 200);
            (answer.backend() == next.name).then_some(())
        })
        .await;
        times.push(start.elapsed());
    }
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    measured(&format!("endpoint change in the API to first call: median {median:?}, slowest {slowest:?}"));
}

/// An address of the node where nobody listens now.
async fn free_address() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((node_address(), 0)).await.unwrap();
    listener.local_addr().unwrap()
}
