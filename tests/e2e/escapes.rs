//! What somebody in a pod of the mesh may try against other pods and the operator: each is refused or bounded, and
//! nobody else notices.

use fairlead_tests::cluster::{Cluster, kubectl, load_test_server};
use fairlead_tests::installed::{Installed, NAMESPACE};
use fairlead_tests::until::blocking;
use fairlead_tests::workload::Server;
use serde_json::{Value, json};

const LISTENER: &str = "listener.v3.Listener";
const ROUTES: &str = "route.v3.RouteConfiguration";

fn web() -> Server<'static> {
    Server { service: "web", name: "web", replicas: 1, containers: &[Server::HTTP] }
}

/// A pod that mounts for itself what its sidecar has: a token that is good for the operator, and the roots.
fn pod(name: &str, inject: bool, arguments: &[&str]) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{fairlead.dev/inject: \"{inject}\"}}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - name: mine
    projected:
      sources:
      - serviceAccountToken: {{audience: fairlead, path: token}}
      - configMap: {{name: fairlead-ca}}
  containers:
  - name: app
    image: {}
    imagePullPolicy: IfNotPresent
    args: {}
    volumeMounts: [{{name: mine, mountPath: /var/run/mine}}]
",
        load_test_server(),
        serde_json::to_string(arguments).unwrap()
    )
}

fn operator(port: u16) -> String {
    format!("fairlead-operator.{NAMESPACE}.svc:{port}")
}

/// What the pod `thief` says of the test server's command.
fn thief(cluster: &Cluster, command: &[&str]) -> Value {
    let exec = ["exec", "thief", "-c", "app", "--", "/server"];
    let said = cluster
        .kubectl(&[&exec, command].concat(), "")
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"))
}

#[test]
fn a_pod_gets_no_configuration_but_its_own_and_not_without_end() {
    let cluster = Installed::get().meshed();
    cluster.serve(&web());
    cluster.apply(&pod("thief", true, &["idle"]));
    cluster.wait("pod/thief", "condition=Ready");
    let web = &cluster.pods("web")[0];
    let address = cluster.get("pod", web)["status"]["podIP"].as_str().unwrap().to_owned();
    let node = |pod: &str| format!("{}/{pod}", cluster.namespace);
    let subscribe = |as_pod: &str, kind: &str, name: &str, count: &str| {
        thief(&cluster, &["subscribe", &operator(15010), &node(as_pod), kind, name, count])
    };
    // As itself it is answered, as another it is not.
    let routes = format!("{}/web:8080", cluster.namespace);
    let said = subscribe("thief", ROUTES, &routes, "1");
    assert_eq!(said["resources"][0], routes, "{said}");
    let said = subscribe(web, ROUTES, &routes, "1");
    assert_eq!(said["refused"], "PermissionDenied", "{said}");
    // What is pushed to the other pod alone.
    let inbound = format!("inbound/{address}:8080");
    let said = subscribe("thief", LISTENER, &inbound, "1");
    assert_eq!((&said["resources"], &said["removed"]), (&Value::Array(Vec::new()), &1.into()), "{said}");
    // As much as anybody may ask for, and one more.
    let said = subscribe("thief", LISTENER, "nowhere-", "10000");
    assert_eq!(said["removed"], 10_000, "{said}");
    let said = subscribe("thief", LISTENER, "nowhere-", "10001");
    assert!(said["refused"].is_string() && said["why"].as_str().unwrap().contains("10000"), "{said}");
    // Its own sidecar, and every other, goes on.
    assert!(cluster.is_connected("thief") && cluster.is_connected(web));
}

#[test]
fn an_object_of_100_mb_is_not_read() {
    let installed = Installed::get();
    let cluster = installed.meshed();
    cluster.apply(&pod("thief", true, &["idle"]));
    cluster.wait("pod/thief", "condition=Ready");
    let said = thief(&cluster, &["flood", &operator(443), "100000000"]);
    println!("{said}");
    assert!(said["taken"].as_u64().unwrap() < 32 << 20, "{said}");
    assert!(said["answer"].is_null() || said["answer"] == "HTTP/1.1 413 Payload Too Large", "{said}");
    // The way that is open to whoever may make pods: the API server takes less than 3 MiB, and of that less than the
    // webhook does, so that the answer is never the webhook's.
    let create = |length: usize| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "large", "annotations": {"a": "x".repeat(length)}},
            "spec": {"containers": [{"name": "app", "image": "none"}]},
        });
        serde_json::to_writer(&file, &pod).unwrap();
        let path = format!("/api/v1/namespaces/{}/pods", cluster.namespace);
        kubectl(&["create", "--raw", &path, "-f", file.path().to_str().unwrap()], "").unwrap_err()
    };
    let said = create(100_000_000);
    assert!(said.contains("too large"), "{said}");
    let said = create(2_900_000);
    assert!(said.contains("metadata.annotations: Too long"), "{said}");
    // And the webhook goes on.
    cluster.caller("frontend");
    assert_eq!(cluster.init_containers("frontend"), ["fairlead-redirect", "fairlead-proxy"]);
    for pod in installed.pods() {
        let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
        assert_eq!(installed.kubectl(&["get", "pod", &pod, "-o", restarts]).unwrap(), "0", "{pod}");
    }
}

#[test]
fn who_refuses_its_configuration_is_named_and_waited_for() {
    let cluster = Installed::get().meshed();
    cluster.serve(&web());
    let caller = cluster.caller("frontend");
    caller.calls("http://web:8080/", 1, &[]);
    let routes = format!("{}/web:8080", cluster.namespace);
    let stubborn = format!("{}/stubborn", cluster.namespace);
    let subscribe = ["subscribe", &operator(15010), &stubborn, ROUTES, &routes, "1", "not with me"];
    cluster.apply(&pod("stubborn", false, &subscribe));
    blocking("it is answered", || {
        cluster.kubectl(&["logs", "stubborn"], "").is_ok_and(|said| said.contains(&routes))
    });
    cluster.apply(
        "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: web}
spec:
  parentRefs: [{name: web}]
  rules: [{name: all, backendRefs: [{name: web, port: 8080}], timeouts: {request: 5s}}]
",
    );
    blocking("the refusal is told", || {
        let status = &cluster.get("serviceroute", "web")["status"];
        status["rollout"]["nacked"] == 1 && status["rollout"]["acked"] == 1
    });
    let status = &cluster.get("serviceroute", "web")["status"];
    assert_eq!(status["rollout"]["lastError"]["client"], stubborn, "{status}");
    assert!(status["rollout"]["lastError"].to_string().contains("not with me"), "{status}");
    let programmed = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Programmed");
    assert_eq!(programmed.unwrap()["status"], "False", "{status}");
    // Without it everybody has it.
    cluster.kubectl(&["delete", "pod", "stubborn"], "").unwrap();
    cluster.wait("serviceroute/web", "condition=Programmed");
}

#[test]
fn ports_of_other_pods_and_the_uid_of_the_proxy_are_refused() {
    let cluster = Installed::get().meshed();
    cluster.serve(&web());
    let caller = cluster.caller("frontend");
    let web = &cluster.pods("web")[0];
    let address = cluster.get("pod", web)["status"]["podIP"].as_str().unwrap().to_owned();
    // Another pod's admin page.
    let said = caller.calls(&format!("http://{address}:15000/config"), 1, &[]);
    assert_eq!(said["failed"], 1, "{said}");
    // Its ports for redirected traffic.
    for port in [15001, 15006] {
        let said = caller.calls(&format!("http://{address}:{port}/"), 1, &[]);
        assert_eq!(said["failed"], 1, "{port}: {said}");
    }
    // The proxy's user, whose traffic is not redirected.
    let escape = "apiVersion: v1
kind: Pod
metadata: {name: escape}
spec:
  containers: [{name: app, image: localhost/any:1, securityContext: {runAsUser: 1337}}]
";
    let refused = cluster.kubectl(&["apply", "-f", "-"], escape).unwrap_err();
    assert!(refused.contains("1337"), "{refused}");
}
