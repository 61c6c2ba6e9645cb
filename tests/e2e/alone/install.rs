//! `helm install`, `upgrade`, `rollback`, `uninstall`, `test`: what each changes, and what it must not.

use fairlead_tests::cluster::kubectl;
use fairlead_tests::installed::{Installed, NAMESPACE, RELEASE, helm, load_next_images, upgrade};
use fairlead_tests::until::blocking;

use super::shop::{Shop, URL, ends_well, sidecar_image};

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
fn upgraded_and_rolled_back_under_load() {
    let installed = Installed::get();
    let _changed = installed.changed();
    let shop = Shop::open();
    let caller = shop.cluster.caller("frontend");
    shop.mark("before");
    let bundle = "{.webhooks[0].clientConfig.caBundle}";
    kubectl(&["wait", WEBHOOK, &format!("--for=jsonpath={bundle}"), "--timeout=60s"], "").unwrap();
    let before = (field(WEBHOOK, bundle), installed.pods(), revision());
    let mut load = caller.load(URL, 200);
    load.goes_on(200);

    // A value that rolls the operator's pods.
    upgrade(&["--set", "webhook.failurePolicy=Ignore", "--set-string", "operator.podAnnotations.round=1"])
        .unwrap();
    assert_eq!(field(WEBHOOK, "{.webhooks[0].failurePolicy}"), "Ignore");
    assert_eq!(field(WEBHOOK, bundle), before.0);
    assert!(installed.pods().iter().all(|pod| !before.1.contains(pod)), "{before:?}");
    shop.mark("upgraded");
    load.goes_on(200);

    // The next version, of operator and sidecars.
    let tag = load_next_images();
    let [operator, proxy] = ["operator", "proxy"].map(|name| format!("image.{name}.tag={tag}"));
    upgrade(&["--set-string", &operator, "--set-string", &proxy]).unwrap();
    shop.mark("next");
    shop.is_marked(&caller, "next");
    let old = &shop.cluster.pods("web")[0];
    blocking("an old sidecar is reported", || {
        shop.cluster.events(old).iter().any(|(reason, _)| reason == "SidecarOfAnotherVersion")
    });
    shop.restart();
    for pod in shop.cluster.pods("web") {
        let pod = shop.cluster.get("pod", &pod);
        assert!(sidecar_image(&pod).ends_with(&format!(":{tag}")), "{pod}");
    }
    load.goes_on(200);

    // And back to what was there first; sidecars of the next version go on with it.
    helm(&["rollback", RELEASE, &before.2, "-n", NAMESPACE, "--wait", "--timeout", "120s"]).unwrap();
    assert_eq!(field(WEBHOOK, "{.webhooks[0].failurePolicy}"), "Fail");
    assert_eq!(field(WEBHOOK, bundle), before.0);
    shop.mark("back");
    shop.is_marked(&caller, "back");
    load.goes_on(200);
    ends_well(load, "two upgrades and a rollback");
}

/// The release's revision.
fn revision() -> String {
    let status = helm(&["status", RELEASE, "-n", NAMESPACE, "-o", "json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["version"].to_string()
}

#[test]
fn uninstalled_and_installed_again_under_load() {
    let changed = Installed::get().changed();
    let shop = Shop::open();
    let caller = shop.cluster.caller("frontend");
    shop.mark("kept");
    let secret = "secret/fairlead-operator-tls";
    let roots = field(secret, "{.data.ca\\.crt}");
    let mut load = caller.load(URL, 200);
    load.goes_on(200);

    helm(&["uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "120s"]).unwrap();
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
    // Definitions, objects, and what the sidecars were told stay.
    assert_eq!(shop.cluster.get("serviceroute", "web")["metadata"]["name"], "web");
    shop.is_marked(&caller, "kept");
    load.goes_on(400);
    // A new pod is one without a mesh, and calls those who have it.
    let plain = shop.cluster.caller("plain");
    assert_eq!(shop.cluster.init_containers("plain"), Vec::<String>::new());
    let said = plain.calls(URL, 10, &[]);
    assert_eq!(
        (&said["failed"], &said["last_headers"]["x-mark"]),
        (&0.into(), &serde_json::Value::Null),
        "{said}"
    );

    // What was kept is taken over by the next installation: roots, objects, sidecars.
    drop(changed);
    assert_eq!(field(secret, "{.data.ca\\.crt}"), roots);
    let mut pods = shop.cluster.pods("web");
    pods.push("frontend".to_owned());
    shop.are_connected(&pods);
    shop.is_marked(&caller, "kept");
    shop.mark("again");
    shop.is_marked(&caller, "again");
    let late = shop.cluster.caller("late");
    assert_eq!(shop.cluster.init_containers("late"), ["fairlead-redirect", "fairlead-proxy"]);
    shop.is_marked(&late, "again");
    load.goes_on(200);
    ends_well(load, "uninstalling and installing");
}

#[test]
fn helm_test_passes() {
    Installed::get();
    helm(&["test", RELEASE, "-n", NAMESPACE, "--timeout", "120s"]).unwrap();
}
