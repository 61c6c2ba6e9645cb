//! Nobody runs the operator for a while: calls go on, what runs goes on and starts again, and what is new waits, or
//! goes unmeshed where `failurePolicy` is Ignore.

use std::time::{Duration, Instant};

use fairlead_tests::check::check;
use fairlead_tests::cluster::load_test_server;
use fairlead_tests::installed::{Installed, upgrade};
use fairlead_tests::until::blocking;

use super::shop::{Shop, URL, ends_well};

/// What a person reads.
const NAME: &str = "operator-unreachable-no-injection.fairlead.dev";

/// A pod whose containers see each other's processes, with a readiness probe.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 5
  containers:
  - name: app
    image: {image}
    imagePullPolicy: IfNotPresent
    args: [serve, \"0.0.0.0:8080\", \"0\"]
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
  - name: other
    image: {image}
    imagePullPolicy: IfNotPresent
    args: [idle]
",
        image = load_test_server()
    )
}

fn deployment(name: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers: [{{name: app, image: \"{}\", imagePullPolicy: IfNotPresent, args: [idle]}}]
",
        load_test_server()
    )
}

#[test]
fn without_an_operator_for_ninety_seconds_no_call_fails() {
    let installed = Installed::get();
    let _changed = installed.changed();
    let shop = Shop::open();
    shop.with_grpc();
    let cluster = &shop.cluster;
    let caller = cluster.caller("frontend");
    shop.mark("before");
    cluster.apply(&pod("restarted"));
    cluster.wait("pod/restarted", "condition=Ready");
    let mut load = caller.load(URL, 200);
    let mut chat = caller.begin(&["stream", "chat:9000", "100"]);
    load.goes_on(200);
    chat.goes_on(20);

    installed.scale(0);
    let gone = Instant::now();
    // Containers that end are started again in place, the sidecar as well.
    for (process, container) in [("fairlead-proxy", "initContainerStatuses"), ("server", "containerStatuses")]
    {
        let kill = ["exec", "restarted", "-c", "other", "--", "/server", "kill", process];
        cluster.kubectl(&kill, "").unwrap();
        blocking(&format!("{process} was started again"), || {
            let pod = cluster.get("pod", "restarted");
            let statuses = pod["status"][container].as_array().unwrap().clone();
            statuses.iter().any(|one| one["restartCount"] == 1 && one["ready"] == true)
        });
        cluster.wait("pod/restarted", "condition=Ready");
    }
    // New pods are refused, and it is said by whom.
    let refused = cluster.kubectl(&["apply", "-f", "-"], &pod("new")).unwrap_err();
    assert!(refused.contains(NAME), "{refused}");
    let flags = ["--only", cluster.namespace.as_str(), "-o", "json"];
    let checked = check(&flags, None);
    let line = checked.line("operator-ready", "fail");
    assert!(line["message"].as_str().unwrap().starts_with("is scaled to 0"), "{line}");
    checked.line("pod-connected", "skip");
    while gone.elapsed() < Duration::from_secs(90) {
        load.goes_on(100);
    }
    // Late, for who makes pods tries again at ever longer intervals.
    cluster.apply(&deployment("late"));
    cluster.wait("deployment/late", "condition=ReplicaFailure");
    let late = cluster.get("deployment", "late");
    assert!(late["status"]["conditions"].to_string().contains(NAME), "{late}");
    let events = cluster.kubectl(&["get", "events", "--field-selector", "reason=FailedCreate"], "").unwrap();
    assert!(events.contains(NAME), "{events}");
    shop.is_marked(&caller, "before");

    installed.scale(2);
    cluster.rolled_out("late");
    let late = &cluster.pods("late")[0];
    assert_eq!(cluster.init_containers(late), ["fairlead-redirect", "fairlead-proxy"]);
    shop.are_connected(&["restarted".to_owned(), "frontend".to_owned(), late.clone()]);
    // The one sidecar that started while nobody could tell it anything.
    let line = check(&flags, None).line("pod-config", "warn");
    let message = line["message"].as_str().unwrap();
    assert!(message.starts_with("1 pod went to work before") && message.ends_with(": restarted"), "{line}");
    shop.mark("after");
    shop.is_marked(&caller, "after");
    load.goes_on(200);
    ends_well(load, "90 seconds without an operator");
    ends_well(chat, "a stream without an operator");
}

#[test]
fn with_failure_policy_ignore_pods_start_and_are_reported() {
    let installed = Installed::get();
    let _changed = installed.changed();
    upgrade(&["--set", "webhook.failurePolicy=Ignore"]).unwrap();
    let cluster = installed.meshed();
    installed.scale(0);
    cluster.apply(&deployment("early"));
    cluster.rolled_out("early");
    let early = &cluster.pods("early")[0];
    assert_eq!(cluster.init_containers(early), Vec::<String>::new());

    installed.scale(2);
    blocking("it is reported", || {
        cluster
            .events(early)
            .iter()
            .any(|(reason, note)| reason == "SidecarMissing" && note.contains("restart it"))
    });
    // An operator that is ready is reached once kube-proxy has led its Service there.
    blocking("pods are injected again", || {
        let pod = ["run", "probe", "--image=none", "--dry-run=server", "--output=json"];
        cluster.kubectl(&pod, "").unwrap().contains("fairlead-proxy")
    });
    cluster.kubectl(&["rollout", "restart", "deployment/early"], "").unwrap();
    cluster.rolled_out("early");
    let early = &cluster.pods("early")[0];
    assert_eq!(cluster.init_containers(early), ["fairlead-redirect", "fairlead-proxy"]);
}
