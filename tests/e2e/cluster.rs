//! The cluster itself: what every other test stands on.

use fairlead_tests::cluster::{Cluster, kubectl};

#[test]
fn nodes_are_ready_and_have_zones() {
    let cluster = Cluster::new();
    let zones = kubectl(
        &["get", "nodes", "-o", "jsonpath={.items[*].metadata.labels.topology\\.kubernetes\\.io/zone}"],
        "",
    );
    assert!(zones.unwrap().split(' ').count() >= 1);
    kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=30s"], "").unwrap();
    cluster.wait("serviceaccount/default", "jsonpath={.metadata.name}=default");
}
