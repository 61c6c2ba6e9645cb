//! `helm install`, `upgrade`, `rollback`, `uninstall`, `test`: what each changes, and what it must not.

use fairlead_tests::cluster::{Cluster, kubectl};
use fairlead_tests::installed::{Installed, NAMESPACE, RELEASE, helm, upgrade};

const WEBHOOK: &str = "mutatingwebhookconfiguration/fairlead-operator";

fn field(object: &str, path: &str) -> String {
    kubectl(&["get", object, "-n", NAMESPACE, "-o", &format!("jsonpath={path}")], "")
        .unwrap_or_else(|error| panic!("{object}: {error}"))
}

#[test]
fn two_replicas_are_ready_on_two_nodes_under_the_restricted_standard() {
    let installed = Installed::get();
    assert_eq!(field("deployment/fairlead-operator", "{.status.readyReplicas}"), "2");
    for pod in installed.pods() {
        assert_eq!(installed.page(&pod, "/readyz").unwrap(), "ready\n");
    }
    // What a stricter level would refuse is a warning of the API server.
    let level = "pod-security.kubernetes.io/enforce=restricted";
    let dry =
        ["label", "--dry-run=server", "--warnings-as-errors", "--overwrite", "namespace", NAMESPACE, level];
    kubectl(&dry, "").unwrap_or_else(|error| panic!("{error}"));
    let nodes: std::collections::BTreeSet<_> =
        installed.pods().iter().map(|pod| field(&format!("pod/{pod}"), "{.spec.nodeName}")).collect();
    let all = kubectl(&["get", "nodes", "-o", "name"], "").unwrap().lines().count();
    assert_eq!(nodes.len(), all.min(2), "{nodes:?}");
}

#[test]
fn upgrade_and_rollback_keep_the_ca_bundle() {
    let _changed = Installed::get().changed();
    let bundle = "{.webhooks[0].clientConfig.caBundle}";
    kubectl(&["wait", WEBHOOK, &format!("--for=jsonpath={bundle}"), "--timeout=60s"], "").unwrap();
    let before = field(WEBHOOK, bundle);
    upgrade(&["--set", "webhook.failurePolicy=Ignore"]).unwrap();
    assert_eq!(field(WEBHOOK, "{.webhooks[0].failurePolicy}"), "Ignore");
    assert_eq!(field(WEBHOOK, bundle), before);
    helm(&["rollback", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "120s"]).unwrap();
    assert_eq!(field(WEBHOOK, "{.webhooks[0].failurePolicy}"), "Fail");
    assert_eq!(field(WEBHOOK, bundle), before);
}

#[test]
fn uninstalling_keeps_the_definitions_and_what_was_written() {
    let changed = Installed::get().changed();
    let cluster = Cluster::new();
    cluster.apply(
        "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: kept}
spec:
  parentRefs: [{name: reviews}]
",
    );
    helm(&["uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "120s"]).unwrap();
    assert_eq!(cluster.get("serviceroute", "kept")["metadata"]["name"], "kept");
    for gone in [
        WEBHOOK,
        "clusterrole/fairlead-operator",
        "clusterrolebinding/fairlead-operator",
        "deployment/fairlead-operator",
        "service/fairlead-operator",
        "serviceaccount/fairlead-operator",
        "role/fairlead-operator",
    ] {
        let found = kubectl(&["get", gone, "-n", NAMESPACE, "--ignore-not-found", "-o", "name"], "");
        assert_eq!(found.unwrap(), "", "{gone}");
    }
    // What was kept is taken over by the next installation.
    drop(changed);
    assert_eq!(cluster.get("serviceroute", "kept")["metadata"]["name"], "kept");
}

#[test]
fn helm_test_passes() {
    Installed::get();
    helm(&["test", RELEASE, "-n", NAMESPACE, "--timeout", "120s"]).unwrap();
}
