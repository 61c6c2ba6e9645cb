//! `fairlead check` before an install. Other tests have objects of ours in the cluster at the same time, so only
//! what cannot depend on them is looked at.

use std::process::Command;

use fairlead_tests::check::check;
use fairlead_tests::cluster::{Cluster, install_crds, kubectl};

#[test]
fn before_an_install_the_cluster_is_judged_and_a_level_that_refuses_is_mended_as_said() {
    install_crds();
    let cluster = Cluster::new();
    let namespace = cluster.namespace.as_str();
    let labels = ["fairlead.dev/inject=enabled", "pod-security.kubernetes.io/enforce=restricted"];
    kubectl(&["label", "namespace", namespace, labels[0], labels[1]], "").unwrap();
    let flags = ["--pre", "--only", namespace, "-o", "json"];
    let checked = check(&flags, None);
    assert_eq!(checked.code, 1, "{checked:?}");
    for id in ["kubernetes-version", "install-rights", "node-kernel", "crd"] {
        checked.line(id, "pass");
    }
    let line = checked.line("pod-security", "fail");
    assert_eq!(line["subject"], format!("namespace/{namespace}"));
    // What it says is what one types.
    let action = line["action"].as_str().unwrap();
    assert!(Command::new("sh").args(["-c", action]).status().unwrap().success(), "{action}");
    check(&flags, None).line("pod-security", "pass");
}
