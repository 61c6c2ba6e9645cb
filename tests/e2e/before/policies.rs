//! Policies applied with `kubectl` reach a sidecar, and `kubectl wait` knows when.

use std::net::SocketAddr;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::get;
use fairlead_tests::cluster::{Cluster, node_address};
use fairlead_tests::sidecar::{Sidecar, SidecarFlags};

/// A Service without a selector, with a slice for each backend: they are processes on the node.
fn service(name: &str, backends: &[&Backend]) -> String {
    let mut yaml = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  ports: [{{name: http, port: 8080}}]
"
    );
    for backend in backends {
        let (address, port) = (backend.address.ip(), backend.address.port());
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
    cluster.apply(&service("reviews", &[&old]));
    cluster.apply(&service("reviews-v2", &[&new]));
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
