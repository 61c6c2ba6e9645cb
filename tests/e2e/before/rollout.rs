//! A Deployment is rolled while a sidecar on the node calls it: no call fails.

use std::collections::BTreeSet;
use std::time::Duration;

use fairlead_tests::client::{Call, get};
use fairlead_tests::cluster::{Cluster, load_test_server};
use fairlead_tests::load::Load;
use fairlead_tests::sidecar::{Sidecar, SidecarFlags};
use fairlead_tests::until::holds;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s16_a_rolling_deployment_is_followed_without_a_failed_call() {
    let image = load_test_server();
    let cluster = Cluster::new();
    let operator = cluster.operator().await;
    cluster.apply(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: {image}
        imagePullPolicy: IfNotPresent
        args: [\"0.0.0.0:8080\", \"2000\"]
        readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
"
    ));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"], "").unwrap();

    let upstream = format!("{}/web:80", cluster.namespace);
    let flags = SidecarFlags::calling(&format!("{}/caller", cluster.namespace), &[&upstream]);
    let sidecar = Sidecar::start(&flags, operator.xds, &cluster.logs).await;
    let address = sidecar.upstream(&upstream).await;
    let pods = || -> BTreeSet<String> {
        let names = cluster
            .kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"], "");
        names.unwrap().split(' ').map(str::to_owned).collect()
    };
    let before = pods();
    assert_eq!(before.len(), 3);
    let load = Load::start(address, 4, Duration::from_millis(5), |_| Call::get("/"));
    holds("the load runs", || async { load.made() > 100 }).await;

    cluster.kubectl(&["rollout", "restart", "deployment/web"], "").unwrap();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"], "").unwrap();
    holds("a new pod is called", || async {
        let answer = get(address, "/").await.unwrap();
        !before.contains(answer.backend())
    })
    .await;
    let summary = load.stop().await;
    println!("{} calls during the rollout, by pod {:?}", summary.calls, summary.backends);
    assert!(summary.failed.is_empty(), "{:?}", summary.failed);
    assert!(summary.backends.keys().any(|pod| !before.contains(pod)));
}
