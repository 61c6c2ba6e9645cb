//! The kubelet's probes pass with the mesh exactly where they pass without it.

use fairlead_tests::cluster::load_test_server;
use fairlead_tests::installed::Installed;
use fairlead_tests::until::blocking;

const TCP: &str = "tcpSocket: {port: 8080}";
const HTTP: &str = "httpGet: {port: 8080, path: /}";
const GRPC: &str = "grpc: {port: 8080}";
const EXEC: &str = "exec: {command: [/server, check, \"http://127.0.0.1:8080/\"]}";

/// Where the application listens, how it is probed, and whether that passes.
const CASES: [(&str, &str, &str, bool); 14] = [
    ("all-tcp", "0.0.0.0:8080", TCP, true),
    ("all-http", "0.0.0.0:8080", HTTP, true),
    ("all-grpc", "0.0.0.0:8080", GRPC, true),
    ("all-exec", "0.0.0.0:8080", EXEC, true),
    ("six-tcp", "[::]:8080", TCP, true),
    ("six-http", "[::]:8080", HTTP, true),
    ("six-grpc", "[::]:8080", GRPC, true),
    ("loopback-tcp", "127.0.0.1:8080", TCP, false),
    ("loopback-http", "127.0.0.1:8080", HTTP, false),
    ("loopback-grpc", "127.0.0.1:8080", GRPC, false),
    ("nobody-tcp", "0.0.0.0:8081", TCP, false),
    ("nobody-http", "0.0.0.0:8081", HTTP, false),
    ("nobody-grpc", "0.0.0.0:8081", GRPC, false),
    ("nobody-exec", "0.0.0.0:8081", EXEC, false),
];

#[test]
fn probes_tell_the_truth() {
    let cluster = Installed::get().meshed();
    let pods = CASES.iter().map(|(name, address, probe, _)| {
        let serve = if *probe == GRPC {
            format!("grpc, \"{address}\"")
        } else {
            format!("serve, \"{address}\", \"0\"")
        };
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: {}
    imagePullPolicy: IfNotPresent
    args: [{serve}]
    readinessProbe: {{{probe}, periodSeconds: 1, timeoutSeconds: 5}}
---
",
            load_test_server()
        )
    });
    cluster.apply(&pods.collect::<String>());
    for (name, ..) in CASES.iter().filter(|(.., passes)| *passes) {
        cluster.wait(&format!("pod/{name}"), "condition=Ready");
    }
    // The kubelet has asked these, too, and heard no.
    for (name, ..) in CASES.iter().filter(|(.., passes)| !*passes) {
        let failed = format!("involvedObject.name={name},reason=Unhealthy");
        blocking(&format!("{name} fails its probe"), || {
            let events = cluster.kubectl(&["get", "events", "--field-selector", &failed, "-o", "name"], "");
            !events.unwrap().is_empty()
        });
        let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
        let ready = cluster.kubectl(&["get", "pod", name, "-o", &format!("jsonpath={ready}")], "").unwrap();
        assert_eq!(ready, "False", "{name}");
    }
}
