//! `fairlead check` of the installation: all is well, and each thing that is not has its line.

use std::fs;

use fairlead_tests::blocks;
use fairlead_tests::check::check;
use fairlead_tests::cluster::{Cluster, kubectl, load_test_server};
use fairlead_tests::installed::{Installed, NAMESPACE};
use fairlead_tests::until;
use serde_json::{Value, json};

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: app, image: IMAGE, imagePullPolicy: IfNotPresent, args: [serve, \"0.0.0.0:8080\", \"0\"]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080}]
";

fn serve(cluster: &Cluster) {
    cluster.apply(&DEPLOYMENT.replace("IMAGE", load_test_server()));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"], "").unwrap();
}

#[test]
fn all_is_well_and_a_policy_that_is_not_in_force_is_a_warning() {
    let cluster = Installed::get().meshed();
    serve(&cluster);
    let flags = ["--only", &cluster.namespace, "-o", "json"];
    let checked = check(&flags, None);
    assert!(checked.lines().iter().all(|line| line["result"] == "pass"), "{}", checked.text);
    assert_eq!(checked.code, 0, "{checked:?}");
    let expected = [
        "kubernetes-version",
        "node-kernel",
        "operator-ready",
        "operator-version",
        "crd",
        "lease",
        "certificate",
        "ca-bundle",
        "webhook",
        "pod-security",
        "namespace-ca",
        "pod-sidecar",
        "policy",
    ];
    let ids: Vec<Value> = checked.lines().iter().map(|line| line["id"].clone()).collect();
    assert_eq!(ids, expected, "one line a check");
    let pods = checked.line("pod-sidecar", "pass");
    assert_eq!(pods["message"], "2 pods have a sidecar of this version, connected and up to date");

    cluster.apply(
        "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: lost}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{name: nobody, port: 80}]}]
",
    );
    cluster.wait("serviceroute/lost", "condition=ResolvedRefs=False");
    let checked = check(&flags, None);
    let line = checked.line("policy", "warn");
    let name = format!("{}/lost", cluster.namespace);
    assert!(line["message"].as_str().unwrap().contains(&name), "{line}");
    assert_eq!(checked.code, 0, "a warning is no failure");
    let text = check(&["--only", &cluster.namespace], None).text;
    assert!(text.contains("\nOperator\n  pass  deployment/fairlead-operator: "), "{text}");
    assert!(text.ends_with("12 passed, 0 skipped, 1 warned, 0 failed\n"), "{text}");
}

#[test]
fn a_pod_that_is_older_than_the_label_shows_and_its_line_mends_it() {
    Installed::get();
    let cluster = Cluster::new();
    serve(&cluster);
    kubectl(&["label", "namespace", &cluster.namespace, "fairlead.dev/inject=enabled"], "").unwrap();
    let flags = ["--only", &cluster.namespace, "-o", "json"];
    let checked = check(&flags, None);
    assert_eq!(checked.code, 1, "{checked:?}");
    let line = checked.line("pod-sidecar", "fail");
    assert_eq!(line["subject"], format!("namespace/{}", cluster.namespace));
    assert!(line["message"].as_str().unwrap().starts_with("2 pods have no sidecar"), "{line}");
    let restart = format!("kubectl -n {} rollout restart deployment/web; or", cluster.namespace);
    assert!(line["action"].as_str().unwrap().starts_with(&restart), "{line}");
    cluster.kubectl(&["rollout", "restart", "deployment/web"], "").unwrap();
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"], "").unwrap();
    until::blocking("the old pods are gone and all is well", || check(&flags, None).code == 0);
}

#[test]
fn a_namespace_that_refuses_the_redirection_shows() {
    Installed::get();
    let cluster = Cluster::new();
    let labels = ["fairlead.dev/inject=enabled", "pod-security.kubernetes.io/enforce=restricted"];
    kubectl(&["label", "namespace", &cluster.namespace, labels[0], labels[1]], "").unwrap();
    let checked = check(&["--only", &cluster.namespace, "-o", "json"], None);
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(
        checked.line("pod-security", "fail")["message"].as_str().unwrap().contains("enforces restricted")
    );
    let line = checked.line("webhook", "skip");
    assert!(line["message"].as_str().unwrap().contains("Pod Security refuses sidecars"), "{line}");
    let none = check(&["--only", "no-such-namespace", "-o", "json"], None);
    assert_eq!(none.line("namespace-label", "warn")["message"], "does not exist");
    // A label that means nothing is told as well.
    kubectl(&["label", "--overwrite", "namespace", &cluster.namespace, "fairlead.dev/inject=true"], "")
        .unwrap();
    let checked = check(&["--only", &cluster.namespace, "-o", "json"], None);
    let line = checked.line("namespace-label", "warn");
    assert!(line["action"].as_str().unwrap().contains("fairlead.dev/inject=enabled --overwrite"), "{line}");
}

/// A kubeconfig of a new service account of this namespace, which has no rights yet.
fn account(cluster: &Cluster) -> tempfile::NamedTempFile {
    cluster.kubectl(&["create", "serviceaccount", "viewer"], "").unwrap();
    let token = cluster.kubectl(&["create", "token", "viewer"], "").unwrap();
    let config = kubectl(&["config", "view", "--raw", "--minify", "-o", "json"], "").unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"] = json!({"token": token.trim()});
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), config.to_string()).unwrap();
    file
}

#[test]
fn who_may_not_see_is_told_which_right_it_takes() {
    let cluster = Installed::get().meshed();
    serve(&cluster);
    let file = account(&cluster);
    let subject = format!("--serviceaccount={}:viewer", cluster.namespace);
    cluster.kubectl(&["create", "rolebinding", "viewer", "--clusterrole=view", &subject], "").unwrap();
    let config = Some(file.path().as_os_str());
    let checked = check(&["--only", &cluster.namespace, "-o", "json"], config);
    assert_eq!(checked.code, 0, "what is not seen is not broken: {}", checked.text);
    for (id, needs) in [
        ("node-kernel", "list nodes"),
        ("operator-ready", &*format!("get deployments in namespace {NAMESPACE}")),
        ("crd", "get customresourcedefinitions"),
        ("ca-bundle", "get mutatingwebhookconfigurations"),
        ("webhook", &*format!("create pods in namespace {}", cluster.namespace)),
    ] {
        let line = checked.line(id, "warn");
        let message = line["message"].as_str().unwrap();
        assert!(message.contains("may not see") && message.contains(&format!("(needs {needs})")), "{line}");
    }
    let checked = check(&["--pre", "-o", "json"], config);
    assert_eq!(checked.code, 1, "{checked:?}");
    let line = checked.line("install-rights", "fail");
    assert!(line["message"].as_str().unwrap().contains("create customresourcedefinitions"), "{line}");
}

/// The roles of docs/check.md, bound to the service account of a test.
struct Documented {
    roles: String,
    binding: String,
}

impl Documented {
    fn bound(cluster: &Cluster) -> Self {
        let blocks = blocks::of("docs/check.md");
        let roles = blocks.into_iter().find(|block| block.info == "yaml").expect("the roles").text;
        kubectl(&["apply", "-f", "-"], &roles).unwrap();
        let subject = format!("--serviceaccount={}:viewer", cluster.namespace);
        let binding = format!("{}-check", cluster.namespace);
        kubectl(&["create", "clusterrolebinding", &binding, "--clusterrole=fairlead-check", &subject], "")
            .unwrap();
        let role = ["create", "rolebinding", &binding, "--role=fairlead-check", &subject, "-n", NAMESPACE];
        kubectl(&role, "").unwrap();
        Self { roles, binding }
    }
}

impl Drop for Documented {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "clusterrolebinding", &self.binding], "");
        let _ = kubectl(&["delete", "rolebinding", &self.binding, "-n", NAMESPACE], "");
        let _ = kubectl(&["delete", "-f", "-"], &self.roles);
    }
}

#[test]
fn the_documented_roles_are_enough() {
    let cluster = Installed::get().meshed();
    serve(&cluster);
    let file = account(&cluster);
    let _bound = Documented::bound(&cluster);
    let flags = ["--only", &cluster.namespace, "-o", "json"];
    let checked = check(&flags, Some(file.path().as_os_str()));
    assert!(checked.lines().iter().all(|line| line["result"] == "pass"), "{}", checked.text);
}
