//! The mesh as applications meet it: pods of a labelled namespace, none of which knows of a sidecar.

use std::collections::BTreeSet;

use fairlead_tests::cluster::{Cluster, kubectl, load_test_server};
use fairlead_tests::installed::Installed;
use fairlead_tests::workload::{Container, Server};
use serde_json::Value;

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

/// The init containers of the first pod with this label.
fn init_containers(cluster: &Cluster, app: &str) -> Vec<String> {
    let path = "jsonpath={.items[0].spec.initContainers[*].name}";
    let names = cluster.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", path], "").unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

const WEB: Server<'_> = Server { service: "web", name: "web", replicas: 1, containers: &[Server::HTTP] };

#[test]
fn s17_labelled_namespaces_get_exactly_one_proxy_and_others_none() {
    let meshed = Installed::get().meshed();
    let plain = Cluster::new();
    for cluster in [&meshed, &plain] {
        cluster.serve(&WEB);
    }
    assert_eq!(init_containers(&meshed, "web"), ["fairlead-redirect", "fairlead-proxy"]);
    assert_eq!(init_containers(&plain, "web"), [""; 0]);
    let opted_out = "apiVersion: v1
kind: Pod
metadata: {name: out, labels: {app: out}, annotations: {fairlead.dev/inject: \"false\"}}
spec: {containers: [{name: app, image: IMAGE, imagePullPolicy: IfNotPresent, args: [idle]}]}
";
    meshed.apply(&opted_out.replace("IMAGE", load_test_server()));
    meshed.wait("pod/out", "condition=Ready");
    assert_eq!(init_containers(&meshed, "out"), [""; 0]);
    // Callers outside the mesh and inside it reach both.
    let (inside, outside) = (meshed.caller("inside"), plain.caller("outside"));
    for caller in [&inside, &outside] {
        for cluster in [&meshed, &plain] {
            let url = format!("http://web.{}:8080/", cluster.namespace);
            let said = caller.calls(&url, 10, &[]);
            assert_eq!(said["statuses"]["200"], 10, "{url}: {said}");
        }
    }
}

#[test]
fn s1_three_instances_answer_and_one_is_killed_unnoticed() {
    let cluster = Installed::get().meshed();
    let product =
        Container { arguments: &["serve", "0.0.0.0:8080", "0", "text:Product Service."], ..Server::HTTP };
    cluster.serve(&Server { service: "product", name: "product", replicas: 3, containers: &[product] });
    cluster.apply(
        "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: product}
spec:
  parentRefs: [{name: product}]
  retryConstraint: {budget: {percent: 100, interval: 10s}}
  rules:
  - name: strip
    matches: [{path: {value: /product}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    backendRefs: [{name: product, port: 8080}]
    retry: {attempts: 2, conditions: [ConnectFailure, RefusedStream, ResetBeforeRequest, ResetOnReuse, Reset]}
",
    );
    let caller = cluster.caller("frontend");
    let url = "http://product:8080/product/info";
    caller.calls(url, 1, &[]);
    cluster.wait("serviceroute/product", "condition=Programmed");
    let said = caller.calls(url, 100, &[]);
    assert_eq!(said["statuses"]["200"], 100, "{said}");
    assert_eq!(keys(&said["bodies"]), BTreeSet::from(["Product Service."]), "{said}");
    assert_eq!(keys(&said["backends"]).len(), 3, "{said}");

    let mut load = caller.load(url, 100);
    load.goes_on(100);
    let victim = &cluster.pods("product")[0];
    cluster.kubectl(&["delete", "pod", victim, "--force", "--grace-period=0"], "").unwrap();
    load.goes_on(300);
    let said = load.stop();
    assert_eq!(said["failed"], 0, "{said}");
}

#[test]
fn s3_http_in_front_of_grpc() {
    let cluster = Installed::get().meshed();
    cluster.serve(&Server { service: "product", name: "product", replicas: 2, containers: &[Server::GRPC] });
    let order = Container { arguments: &["order", "0.0.0.0:8080", "product:9000"], ..Server::HTTP };
    cluster.serve(&Server { service: "order", name: "order", replicas: 1, containers: &[order] });
    let caller = cluster.caller("frontend");
    let said = caller.calls("http://order:8080/orders", 40, &["--body", "Zwölf große Äpfel, 七つの海"]);
    assert_eq!(said["statuses"]["200"], 40, "{said}");
    let mut backends = BTreeSet::new();
    for body in keys(&said["bodies"]) {
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["same"], &body["status"]), (&true.into(), &0.into()), "{body}");
        assert_eq!(body["end"], body["backend"], "trailers arrive: {body}");
        backends.insert(body["backend"].as_str().unwrap().to_owned());
    }
    assert_eq!(backends.len(), 2, "each call is balanced, though all share one connection: {said}");
}

#[test]
fn s4_only_what_is_idempotent_is_tried_again_after_a_503() {
    let cluster = Installed::get().meshed();
    let broken = Container { arguments: &["serve", "0.0.0.0:8080", "0", "status:503"], ..Server::HTTP };
    cluster.serve(&Server { service: "article", name: "good", replicas: 1, containers: &[Server::HTTP] });
    cluster.serve(&Server { service: "article", name: "broken", replicas: 1, containers: &[broken] });
    let mut route = "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: article}
spec:
  parentRefs: [{name: article}]
  loadBalancer: {type: RoundRobin}
  retryConstraint: {budget: {percent: 100, interval: 10s}}
  rules:
"
    .to_owned();
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    for method in methods {
        let name = method.to_lowercase();
        route += &format!(
            "  - name: {name}
    matches: [{{path: {{value: /articles}}, method: {method}}}]
    filters:
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: {name}}}]}}}}
    backendRefs: [{{name: article, port: 8080}}]
    retry: {{attempts: 2, codes: [503], backoff: 1ms}}
"
        );
    }
    cluster.apply(&route);
    let caller = cluster.caller("frontend");
    caller.calls("http://article:8080/", 1, &[]);
    cluster.wait("serviceroute/article", "condition=Programmed");
    for method in methods {
        let said =
            caller.calls("http://article:8080/articles/7", 20, &["--method", method, "--callers", "1"]);
        assert_eq!(said["last_headers"]["x-rule"], method.to_lowercase(), "{said}");
        let expected = if matches!(method, "GET" | "PUT" | "DELETE") { 20 } else { 10 };
        assert_eq!(said["statuses"]["200"], expected, "{method}: {said}");
    }
}

#[test]
fn s16_a_deployment_is_rolled_three_times_without_a_failed_call() {
    let cluster = Installed::get().meshed();
    let echo = |name, port, arguments| Container { name, arguments, port, protocol: "" };
    let containers = [
        Server::HTTP,
        echo("mysql", 3306, &["echo", "0.0.0.0:3306"]),
        echo("redis", 6379, &["echo", "0.0.0.0:6379"]),
    ];
    cluster.serve(&Server { service: "web", name: "web", replicas: 3, containers: &containers });
    let caller = cluster.caller("frontend");
    let before = cluster.pods("web");
    let mut load = caller.load("http://web:8080/", 200);
    load.goes_on(200);
    for _ in 0..3 {
        cluster.kubectl(&["rollout", "restart", "deployment/web"], "").unwrap();
        cluster.rolled_out("web");
        for port in [3306, 6379] {
            caller.run(&["bytes", &format!("web:{port}")]).unwrap();
        }
    }
    let victim = &cluster.pods("web")[0];
    cluster.kubectl(&["delete", "pod", victim], "").unwrap();
    cluster.rolled_out("web");
    load.goes_on(400);
    let said = load.stop();
    println!("{} calls during three rollouts", said["calls"]);
    assert_eq!(said["failed"], 0, "{said}");
    assert!(keys(&said["backends"]).iter().any(|pod| !before.contains(&(*pod).to_owned())), "{said}");
}

#[test]
fn bytes_uploads_and_websockets_pass_unharmed() {
    let cluster = Installed::get().meshed();
    let echo = Container { name: "echo", arguments: &["echo", "0.0.0.0:7000"], port: 7000, protocol: "" };
    let undeclared =
        Container { name: "web", arguments: &["serve", "0.0.0.0:8081", "0"], port: 8081, protocol: "" };
    cluster.serve(&Server {
        service: "web",
        name: "web",
        replicas: 2,
        containers: &[Server::HTTP, undeclared, echo],
    });
    let caller = cluster.caller("frontend");
    caller.run(&["bytes", "web:7000"]).unwrap();
    for port in [8080, 8081] {
        caller.run(&["upgrade", &format!("http://web:{port}/")]).unwrap();
    }
    // 64 MiB: as many bytes, and the same.
    caller.run(&["upload", "http://web:8080/seen", "67108864"]).unwrap();
    let said = caller.calls("http://web:8080/seen", 1, &[]);
    let body: Value = serde_json::from_str(keys(&said["bodies"]).first().unwrap()).unwrap();
    let headers = body["headers"].to_string();
    assert!(!headers.contains("x-fairlead"), "applications see nothing of the mesh: {headers}");
}

#[test]
fn the_first_and_the_last_call_of_an_application_go_through_the_mesh() {
    let cluster = Installed::get().meshed();
    cluster.serve(&WEB);
    cluster.apply(
        "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: web}
spec:
  parentRefs: [{name: web}]
  rules:
  - backendRefs: [{name: web, port: 8080}]
    filters:
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-meshed, value: \"yes\"}]}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-meshed, value: \"yes\"}]}}
",
    );
    // Calls at once, and never again: a call before its proxy is ready would be seen as one without the rule.
    // A rule that the operator has not told within 250 ms does not hold for the call; then the sidecar says so,
    // and another Job is asked.
    let in_time = (0..5).any(|_| {
        let (said, log) = calls_once(&cluster);
        let carried = said["last_headers"]["x-meshed"] == "yes";
        let late = log.contains("the operator has not said in time what is there");
        assert_eq!((&said["failed"], carried || late), (&0.into(), true), "{said}\n{log}");
        carried
    });
    assert!(in_time, "five times the operator had not said in time what rule holds");

    let leaving = "apiVersion: v1
kind: Pod
metadata: {name: leaving, labels: {app: leaving}}
spec: {containers: [{name: app, image: IMAGE, imagePullPolicy: IfNotPresent, args: [idle, \"http://web:8080/farewell\"]}]}
";
    cluster.apply(&leaving.replace("IMAGE", load_test_server()));
    cluster.wait("pod/leaving", "condition=Ready");
    cluster.kubectl(&["delete", "pod", "leaving", "--wait=true"], "").unwrap();
    let said = cluster.caller("frontend").calls("http://web:8080/seen", 1, &[]);
    let body: Value = serde_json::from_str(keys(&said["bodies"]).first().unwrap()).unwrap();
    assert_eq!(body["farewells"], 1, "{body}");
}

/// Runs a Job that calls once. It completes, although its sidecar would run for ever; what it and its sidecar said.
fn calls_once(cluster: &Cluster) -> (Value, String) {
    let job = "apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: once}}
    spec:
      restartPolicy: Never
      containers:
      - {name: app, image: IMAGE, imagePullPolicy: IfNotPresent, args: [load, \"http://web:8080/\", --count, \"1\"]}
";
    cluster.apply(&job.replace("IMAGE", load_test_server()));
    cluster.wait("job/once", "condition=Complete");
    let logs = |container| cluster.kubectl(&["logs", "job/once", "-c", container], "").unwrap();
    let (said, log) = (logs("app"), logs("fairlead-proxy"));
    cluster.kubectl(&["delete", "job", "once", "--wait=true"], "").unwrap();
    (serde_json::from_str(said.lines().last().unwrap()).unwrap(), log)
}

#[test]
fn s29_a_service_on_two_nodes_is_called_with_both_its_zones_known() {
    let nodes = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"], "").unwrap();
    let nodes: Vec<&str> = nodes.split_whitespace().collect();
    assert_eq!(nodes.len(), 2, "this test needs a cluster of two nodes; there are {nodes:?}");
    let cluster = Installed::get().meshed();
    cluster.serve(&Server { replicas: 2, ..WEB });
    let spread = r#"{"spec": {"template": {"spec": {"topologySpreadConstraints": [{"maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["pod-template-hash"]}]}}}}"#;
    cluster.kubectl(&["patch", "deployment", "web", "-p", spread], "").unwrap();
    cluster.rolled_out("web");
    let caller = cluster.caller("frontend");
    fairlead_tests::until::blocking("the sidecar lists two endpoints in two zones", || {
        let said = caller.calls("http://web:8080/", 4, &[]);
        assert_eq!(said["failed"], 0, "{said}");
        let page = caller.calls("http://127.0.0.1:15000/clusters", 1, &[]);
        let page: Value = serde_json::from_str(keys(&page["bodies"]).first().unwrap()).unwrap();
        let endpoints = page.as_object().unwrap().values().find_map(|one| one["endpoints"].as_array());
        let zones: BTreeSet<_> =
            endpoints.into_iter().flatten().filter_map(|endpoint| endpoint["zone"].as_str()).collect();
        zones.len() == 2 && endpoints.is_some_and(|all| all.len() == 2)
    });
}
