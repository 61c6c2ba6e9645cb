//! Protocols that are no HTTP, spoken by those who own them: MariaDB, where the server speaks first, and Redis; and
//! gRPC that goes on.

use fairlead_tests::cluster::Cluster;
use fairlead_tests::databases::load_databases;
use fairlead_tests::installed::Installed;
use fairlead_tests::workload::Server;

const PODS: &str = "apiVersion: v1
kind: Service
metadata: {name: maria}
spec: {selector: {app: maria}, ports: [{name: mysql, port: 3306}]}
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {selector: {app: redis}, ports: [{name: redis, port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: maria, labels: {app: maria}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 999, fsGroup: 999}
  volumes: [{name: data, emptyDir: {}}]
  containers:
  - name: app
    image: IMAGE
    imagePullPolicy: IfNotPresent
    command: [/usr/sbin/mariadbd, --no-defaults, --skip-grant-tables, --skip-name-resolve, --bind-address=*,
      --datadir=/data, --tmpdir=/data, --socket=/data/socket, --pid-file=/data/pid]
    readinessProbe: {tcpSocket: {port: 3306}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
---
apiVersion: v1
kind: Pod
metadata: {name: redis, labels: {app: redis}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: IMAGE
    imagePullPolicy: IfNotPresent
    command: [/usr/bin/redis-server, --save, '', --protected-mode, 'no', --bind, 0.0.0.0]
    readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: IMAGE, imagePullPolicy: IfNotPresent, command: [/server, idle]}]
";

/// Meshed pods with both servers, and one to call from.
fn databases() -> Cluster {
    let cluster = Installed::get().meshed();
    cluster.apply(&PODS.replace("IMAGE", load_databases()));
    for pod in ["pod/maria", "pod/redis", "pod/client"] {
        cluster.wait(pod, "condition=Ready");
    }
    cluster
}

fn run(cluster: &Cluster, command: &[&str], input: &str) -> String {
    let exec = ["exec", "-i", "client", "-c", "app", "--"];
    let said = cluster.kubectl(&[&exec, command].concat(), input);
    said.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[test]
fn mariadb_and_redis_are_used_as_without_a_mesh() {
    let cluster = databases();
    let sql = |sql: &str| {
        // The server speaks first, with nothing that says who it is.
        let client = ["mariadb", "--no-defaults", "-h", "maria", "-u", "any", "-N", "-B", "-e", sql];
        run(&cluster, &client, "")
    };
    assert!(sql("SELECT VERSION()").contains("MariaDB"));
    sql("CREATE DATABASE shop; USE shop; CREATE TABLE orders (id INT PRIMARY KEY, text VARCHAR(256)); \
         INSERT INTO orders SELECT seq, REPEAT(LPAD(seq, 8, '0'), 32) FROM seq_1_to_20000");
    let said = sql("SELECT * FROM shop.orders ORDER BY id");
    let expected = (1..=20_000).map(|id| format!("{id}\t{}\n", format!("{id:08}").repeat(32)));
    assert!(said == expected.collect::<String>(), "{} bytes", said.len());

    let redis = |command: &[&str], input: &str| {
        run(&cluster, &[&["redis-cli", "-h", "redis"], command].concat(), input).trim_end().to_owned()
    };
    assert_eq!(redis(&["SET", "small", "value"], ""), "OK");
    assert_eq!(redis(&["GET", "small"], ""), "value");
    let big: String = (0..200_000).map(|number| format!("{number:08} ")).collect();
    assert_eq!(redis(&["-x", "SET", "big"], &big), "OK");
    assert_eq!(redis(&["STRLEN", "big"], ""), big.len().to_string());
    assert!(redis(&["GET", "big"], "") == big.trim_end());
    // The sidecars carried it: none of it went past them.
    let page = format!("/api/v1/namespaces/{}/pods/client:15020/proxy/metrics", cluster.namespace);
    let page = cluster.kubectl(&["get", "--raw", &page], "").unwrap();
    for service in ["maria:3306", "redis:6379"] {
        let name = format!("{}/{service}", cluster.namespace);
        assert!(page.lines().any(|line| line.contains(&name)), "{name}: {page}");
    }
}

#[test]
fn a_grpc_stream_goes_on_for_half_a_minute() {
    let cluster = Installed::get().meshed();
    cluster.serve(&Server { service: "chat", name: "chat", replicas: 1, containers: &[Server::GRPC] });
    // `make soak` has one of five minutes.
    let said = cluster.caller("frontend").run(&["stream", "chat:9000", "30"]).unwrap();
    assert!(said.contains("\"failed\":0"), "{said}");
}
