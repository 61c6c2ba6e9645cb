//! A Service whose pods run on two nodes: its endpoints are those pods, each in the zone of its node.

use std::collections::BTreeSet;

use fairlead_tests::cluster::{Cluster, kubectl, load_test_server};
use fairlead_tests::sidecar::{Sidecar, SidecarFlags};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s29_a_service_on_two_nodes_has_two_endpoints_each_with_its_zone() {
    let nodes = words(&kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"], "").unwrap());
    assert_eq!(
        nodes.len(),
        2,
        "this test needs a cluster of two nodes: make cluster-up NODES=2; there are {nodes:?}"
    );
    let image = load_test_server();
    let cluster = Cluster::new();
    let operator = cluster.operator().await;
    let mut yaml = "apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
"
    .to_owned();
    for node in &nodes {
        yaml += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, labels: {{app: web}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {image}
    imagePullPolicy: IfNotPresent
    args: [serve, \"0.0.0.0:8080\", \"0\"]
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
"
        );
    }
    cluster.apply(&yaml);
    for node in &nodes {
        cluster.wait(&format!("pod/web-{node}"), "condition=Ready");
    }
    let mut pods = BTreeSet::new();
    for node in &nodes {
        let address =
            cluster.get("pod", &format!("web-{node}"))["status"]["podIP"].as_str().unwrap().to_owned();
        let labels = cluster.get("node", node)["metadata"]["labels"].clone();
        let zone = labels["topology.kubernetes.io/zone"].as_str().unwrap().to_owned();
        pods.insert((format!("{address}:8080"), zone));
    }
    let zones: BTreeSet<_> = pods.iter().map(|(_, zone)| zone).collect();
    assert_eq!(zones.len(), 2, "the nodes are in two zones: {pods:?}");

    let upstream = format!("{}/web:80", cluster.namespace);
    let flags = SidecarFlags::calling(&format!("{}/caller", cluster.namespace), &[&upstream]);
    let sidecar = Sidecar::start(&flags, operator.xds, &cluster.logs).await;
    fairlead_tests::until::holds("the endpoints are the two pods, each with its zone", || async {
        let page = sidecar.page("/clusters").await;
        let endpoints = page[&upstream]["endpoints"].as_array().unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let listed: Vec<_> =
            endpoints.iter().map(|one| (text(&one["address"]), text(&one["zone"]))).collect();
        listed.len() == 2 && listed.into_iter().collect::<BTreeSet<_>>() == pods
    })
    .await;
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
