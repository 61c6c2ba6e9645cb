use serde_json::json;

use super::*;
use crate::check::ask::Why;

const NOW: &str = "2026-11-25T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A meshed pod of the Deployment `web` that is as it should be.
fn good(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-11-25T11:00:00Z",
            "labels": {"pod-template-hash": "7d4b9"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9", "uid": "u", "controller": true}]},
        "spec": {"containers": [], "initContainers": [
            {"name": "fairlead-redirect", "image": "proxy:1"}, {"name": "fairlead-proxy", "image": "proxy:1"}]},
        "status": {"phase": "Running", "initContainerStatuses": [
            {"name": "fairlead-redirect", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "message": "redirecting inbound listening\n"}}},
            {"name": "fairlead-proxy", "image": "", "imageID": "", "ready": true, "restartCount": 0, "started": true}]},
    })
}

fn connected(names: &[&str]) -> Clients {
    let mut clients = Clients::default();
    let each = names
        .iter()
        .map(|name| json!({"client": format!("shop/{name}"), "connected": true, "nacked": 0, "pending": 0}));
    clients.take(&json!({"clients": each.collect::<Vec<_>>()}));
    clients
}

fn judge(pods: Vec<Value>, clients: &Clients) -> Vec<Line> {
    let pods = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
    let meshed = Meshed::from([("shop".to_owned(), Ok(pods))]);
    lines(&meshed, Some("proxy:1"), clients, "fairlead-system", now())
}

/// The only line about a single pod.
fn only(change: impl FnOnce(&mut Value), clients: &Clients) -> Line {
    let mut pod = good("web-1");
    change(&mut pod);
    let mut lines = judge(vec![pod], clients);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[test]
fn good_pods_are_one_line() {
    let lines = judge(vec![good("web-1"), good("web-2")], &connected(&["web-1", "web-2"]));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].verdict, Verdict::Pass);
    assert_eq!(lines[0].message, "2 pods have a sidecar of this version, connected and up to date");
}

#[test]
fn a_pod_that_missed_injection_is_mended_by_a_restart() {
    let without = |name: &str| {
        let mut pod = good(name);
        pod["spec"]["initContainers"] = json!([]);
        pod
    };
    let lines = judge(vec![good("web-1"), without("web-2"), without("web-3")], &connected(&["web-1"]));
    assert_eq!(
        (lines[0].id, lines[0].verdict, lines[0].subject.as_str()),
        ("pod-sidecar", Verdict::Fail, "namespace/shop")
    );
    assert!(
        lines[0].message.starts_with("2 pods have no sidecar") && lines[0].message.ends_with("web-2, web-3"),
        "{}",
        lines[0].message
    );
    assert!(
        lines[0].action.starts_with("kubectl -n shop rollout restart deployment/web; or"),
        "{}",
        lines[0].action
    );
    assert_eq!(lines[1].message, "1 of 3 pods are as they should be");
    let mut alone = without("one");
    alone["metadata"]["ownerReferences"] = json!([]);
    let lines = judge(vec![alone], &Clients::default());
    assert!(lines[0].action.contains("kubectl -n shop delete pod one"), "{}", lines[0].action);
}

#[test]
fn who_cannot_be_meshed_is_not_missed() {
    for change in [
        json!({"metadata": {"annotations": {"fairlead.dev/inject": "false"}}}),
        json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
        json!({"spec": {"hostNetwork": true, "containers": [], "initContainers": []}}),
        json!({"spec": {"os": {"name": "windows"}, "containers": []}}),
    ] {
        let line = only(
            |pod| {
                for (part, fields) in change.as_object().unwrap() {
                    pod[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
                }
            },
            &Clients::default(),
        );
        assert_eq!(line.verdict, Verdict::Skip, "{change}");
        assert_eq!(line.message, "no pod is to be meshed; 1 opted out, or cannot have one");
    }
    let line = only(|pod| pod["status"]["phase"] = json!("Succeeded"), &Clients::default());
    assert_eq!(line.message, "no pod is to be meshed");
}

#[test]
fn each_finding_has_its_line() {
    let clients = connected(&["web-1"]);
    let line = only(|pod| pod["spec"]["initContainers"][1]["image"] = json!("proxy:0"), &clients);
    assert_eq!((line.id, line.verdict), ("pod-version", Verdict::Warn));
    assert!(line.message.contains("another sidecar than proxy:1"), "{}", line.message);
    let everything = json!({"terminated": {"exitCode": 0, "message": "redirecting inbound everything\n"}});
    let line = only(|pod| pod["status"]["initContainerStatuses"][0]["state"] = everything, &clients);
    assert_eq!((line.id, line.verdict), ("pod-redirect", Verdict::Warn));
    let line = only(|_| {}, &Clients::default());
    assert_eq!((line.id, line.verdict), ("pod-connected", Verdict::Fail));
    assert_eq!(line.action, "kubectl -n shop logs web-1 -c fairlead-proxy");
    for (field, value, verdict) in [
        ("nacked", json!(1), Verdict::Fail),
        ("pending", json!(1), Verdict::Warn),
        ("startedWithoutConfig", json!(true), Verdict::Warn),
    ] {
        let mut client = json!({"client": "shop/web-1", "connected": true});
        client[field] = value;
        let mut clients = Clients::default();
        clients.take(&json!({"clients": [client]}));
        let line = only(|_| {}, &clients);
        assert_eq!((line.id, line.verdict), ("pod-config", verdict), "{field}");
    }
}

#[test]
fn a_sidecar_that_does_not_start_says_why_after_a_minute() {
    let waiting = |pod: &mut Value| {
        let proxy = &mut pod["status"]["initContainerStatuses"][1];
        proxy["started"] = json!(false);
        proxy["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
    };
    let line = only(waiting, &Clients::default());
    assert_eq!((line.id, line.verdict), ("pod-started", Verdict::Fail));
    assert!(line.message.contains("(ImagePullBackOff)"), "{}", line.message);
    let young = |pod: &mut Value| {
        waiting(pod);
        pod["metadata"]["creationTimestamp"] = json!("2026-11-25T11:59:30Z");
    };
    let line = only(young, &Clients::default());
    assert_eq!(line.verdict, Verdict::Skip);
    assert_eq!(line.message, "1 sidecar has not started yet (ImagePullBackOff): web-1");
    let unplaced = |pod: &mut Value| pod["status"]["initContainerStatuses"] = json!([]);
    let line = only(unplaced, &Clients::default());
    assert_eq!(line.verdict, Verdict::Skip);
    assert!(line.message.contains("no node has taken the pod"), "{}", line.message);
}

#[test]
fn an_open_stream_counts_wherever_it_is() {
    let page = |connected: bool| json!({"clients": [{"client": "shop/web-1", "connected": connected}]});
    for order in [[true, false], [false, true]] {
        let mut clients = Clients::default();
        order.into_iter().for_each(|connected| clients.take(&page(connected)));
        assert!(clients.known["shop/web-1"].connected);
    }
}

#[test]
fn a_replica_that_cannot_be_asked_makes_nobody_disconnected() {
    let why = Why::Forbidden;
    let unseen = Unseen { what: "port 15014".to_owned(), needs: "create pods/portforward".to_owned(), why };
    let clients = Clients { unseen: vec![unseen], ..Clients::default() };
    let lines = judge(vec![good("web-1")], &clients);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].id, lines[0].verdict), ("pod-connected", Verdict::Warn));
    assert!(lines[0].message.contains("needs create pods/portforward"), "{}", lines[0].message);
}

#[test]
fn who_is_on_the_way_is_asked_again() {
    let pods = Ok(vec![serde_json::from_value(good("web-1")).unwrap()]);
    let meshed = Meshed::from([("shop".to_owned(), pods)]);
    assert!(!is_settled(&meshed, &Clients::default(), now()));
    assert!(is_settled(&meshed, &connected(&["web-1"]), now()));
}

#[test]
fn without_an_operator_the_pods_are_not_to_blame() {
    let clients = Clients { nobody: true, ..Clients::default() };
    let lines = judge(vec![good("web-1")], &clients);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].id, lines[0].verdict), ("pod-connected", Verdict::Skip));
}

#[test]
fn an_annotation_that_does_nothing_is_named_with_the_one_that_was_meant() {
    let misspelt = |pod: &mut Value| {
        pod["metadata"]["annotations"] = json!({"fairlead.dev/drain-tme": "5s", "fairlead.dev/injected": "1", "other.dev/drain-tme": "5s"});
    };
    let line = only(misspelt, &connected(&["web-1"]));
    assert_eq!((line.id, line.verdict), ("pod-annotation", Verdict::Warn));
    assert_eq!(
        line.message,
        "annotation fairlead.dev/drain-tme is unknown and has no effect; did you mean fairlead.dev/drain-time?: web-1"
    );
}
