//! A Deployment of pods with several containers is rolled, and its pods are deleted, while a sidecar on the
//! node calls it: no call fails, and bytes that are not HTTP arrive as they were sent.

use std::collections::BTreeSet;
use std::time::Duration;

use fairlead_tests::client::{Call, get};
use fairlead_tests::cluster::{Cluster, load_test_server};
use fairlead_tests::load::{Load, there_and_back};
use fairlead_tests::sidecar::{Sidecar, SidecarFlags};
use fairlead_tests::until::holds;
use tokio::net::TcpStream;

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
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: mysql, port: 3306}}
  - {{name: tcp-redis, port: 6379}}
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
        args: [serve, \"0.0.0.0:8080\", \"2000\"]
        readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
      - name: mysql
        image: {image}
        imagePullPolicy: IfNotPresent
        args: [echo, \"0.0.0.0:3306\"]
        readinessProbe: {{tcpSocket: {{port: 3306}}, periodSeconds: 1}}
      - name: redis
        image: {image}
        imagePullPolicy: IfNotPresent
        args: [echo, \"0.0.0.0:6379\"]
        readinessProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 1}}
"
    ));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"], "").unwrap();

    let upstreams = [80, 3306, 6379].map(|port| format!("{}/web:{port}", cluster.namespace));
    let flags = SidecarFlags::calling(
        &format!("{}/caller", cluster.namespace),
        &upstreams.each_ref().map(String::as_str),
    );
    let sidecar = Sidecar::start(&flags, operator.xds, &cluster.logs).await;
    let address = sidecar.upstream(&upstreams[0]).await;
    for upstream in &upstreams[1..] {
        let stream = TcpStream::connect(sidecar.upstream(upstream).await).await.unwrap();
        there_and_back(stream).await.unwrap();
    }
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

    let (rolled, victims) = (load.made(), pods());
    let victims: Vec<&str> = victims.iter().take(2).map(String::as_str).collect();
    cluster.kubectl(&[&["delete", "pod", "--wait=true"], &victims[..]].concat(), "").unwrap();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"], "").unwrap();
    holds("calls go on", || async { load.made() > rolled + 100 }).await;
    for upstream in &upstreams[1..] {
        let stream = TcpStream::connect(sidecar.upstream(upstream).await).await.unwrap();
        there_and_back(stream).await.unwrap();
    }
    let summary = load.stop().await;
    println!("{} calls during the rollout, by pod {:?}", summary.calls, summary.backends);
    assert!(summary.failed.is_empty(), "{:?}", summary.failed);
    assert!(summary.backends.keys().any(|pod| !before.contains(pod)));
}
