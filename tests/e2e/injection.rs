//! What the webhook refuses and warns of, that sidecars of ugly pods work, and what is said of pods that it missed.

use fairlead_tests::cluster::{Cluster, load_test_server};
use fairlead_tests::installed::Installed;
use fairlead_tests::until::{eventually, holds};

fn pod(name: &str, annotations: &str, spec: &str) -> String {
    let image = load_test_server();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{{annotations}}}}}
spec:
  terminationGracePeriodSeconds: 1
  {spec}
  containers:
  - name: app
    image: {image}
    imagePullPolicy: IfNotPresent
    args: [serve, \"0.0.0.0:8080\", \"0\"]
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
---
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_of_every_kind_of_pod_are_connected() {
    let installed = Installed::get();
    let meshed = installed.meshed();
    // The kubelet gives a token to the one user of all containers, or to the pod's group, or to everybody: the
    // sidecar reads it in each case, or it would not be connected.
    meshed.apply(&pod("one-user", "", "securityContext: {runAsNonRoot: true, runAsUser: 1000}"));
    meshed.apply(&pod("group", "", "securityContext: {runAsUser: 1000, fsGroup: 2000}"));
    meshed.apply(&pod("bare", "", "automountServiceAccountToken: false\n  shareProcessNamespace: true"));
    for name in ["one-user", "group", "bare"] {
        meshed.wait(&format!("pod/{name}"), "condition=Ready");
        holds(&format!("{name} is connected"), || async { meshed.is_connected(name) }).await;
    }
}

#[test]
fn what_cannot_work_is_refused_and_a_wrong_name_is_warned_about() {
    let meshed = Installed::get().meshed();
    let refused = |yaml: &str| meshed.kubectl(&["apply", "-f", "-"], yaml).unwrap_err();
    let error = refused(&pod("uid", "", "securityContext: {runAsUser: 1337}"));
    assert!(error.contains("runs as uid 1337") && error.contains("write another"), "{error}");
    let error = refused(&pod("bad", "fairlead.dev/workers: many", ""));
    assert!(error.contains("write a number of threads from 1 to 64"), "{error}");
    let strict = ["apply", "--warnings-as-errors", "--dry-run=server", "-f", "-"];
    let error = meshed.kubectl(&strict, &pod("typo", "fairlead.dev/worker: \"2\"", "")).unwrap_err();
    assert!(error.contains("did you mean fairlead.dev/workers?"), "{error}");
    // Opted out, nothing of it matters, and nobody asks us.
    meshed.apply(&pod("out", "fairlead.dev/inject: \"false\"", "securityContext: {runAsUser: 1337}"));
    assert_eq!(meshed.init_containers("out"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missed_pod_gets_an_event_and_counts() {
    let installed = Installed::get();
    let late = Cluster::new();
    late.apply(&pod("early", "", ""));
    late.kubectl(&["label", "namespace", &late.namespace, "fairlead.dev/inject=enabled"], "").unwrap();
    late.apply(&(pod("host", "", "hostNetwork: true") + &pod("typo", "fairlead.dev/worker: \"2\"", "")));
    for (name, reason, note) in [
        ("early", "SidecarMissing", "restart it"),
        ("host", "HostNetworkNotInjected", "must not be redirected"),
        ("typo", "UnknownAnnotation", "did you mean fairlead.dev/workers?"),
    ] {
        eventually(&format!("{name} has its event"), || async {
            late.events(name).into_iter().find(|(found, text)| found == reason && text.contains(note))
        })
        .await;
        let said = late.events(name).into_iter().filter(|(found, _)| found == reason).count();
        assert_eq!(said, 1, "{name}");
    }
    eventually("the holder counts it", || async {
        let pages = installed.pods().into_iter().filter_map(|pod| installed.page(&pod, "/metrics").ok());
        let counted = "fairlead_operator_missed_pods{reason=\"no_sidecar\"}";
        pages.into_iter().any(|page| page.contains(counted)).then_some(())
    })
    .await;
}
