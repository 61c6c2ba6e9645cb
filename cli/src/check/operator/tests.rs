use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::check::ask::Why;
use crate::check::line::Verdict;

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn deployment(wanted: i32, ready: i32, updated: i32) -> Deployment {
    read(json!({
        "spec": {"replicas": wanted, "selector": {}, "template": {
            "metadata": {"labels": {"app.kubernetes.io/version": "0.1.0"}},
            "spec": {"containers": [{"name": "operator", "env": [{"name": "FAIRLEAD_PROXY_IMAGE", "value": "proxy:1"}]}]}}},
        "status": {"readyReplicas": ready, "updatedReplicas": updated},
    }))
}

fn forbidden() -> Unseen {
    Unseen { what: "leases".to_owned(), needs: "get leases".to_owned(), why: Why::Forbidden }
}

#[test]
fn replicas_are_counted() {
    for (wanted, ready, updated, verdict) in [
        (2, 2, 2, Verdict::Pass),
        (2, 2, 1, Verdict::Warn),
        (2, 1, 2, Verdict::Warn),
        (2, 0, 2, Verdict::Fail),
        (0, 0, 0, Verdict::Fail),
    ] {
        let line = replicas(&deployment(wanted, ready, updated), Policy::Fail, "mesh");
        assert_eq!(line.verdict, verdict, "{wanted} {ready} {updated}: {}", line.message);
        assert!(verdict == Verdict::Pass || line.action.contains("-n mesh"), "{}", line.action);
    }
    // One replica, and the next that does not come up.
    let mut one = deployment(1, 1, 1);
    one.status.as_mut().unwrap().unavailable_replicas = Some(1);
    assert_eq!(replicas(&one, Policy::Fail, "mesh").verdict, Verdict::Warn);
    let ignoring = replicas(&deployment(0, 0, 0), Policy::Ignore, "mesh");
    assert!(ignoring.message.contains("start without a sidecar"), "{}", ignoring.message);
}

#[test]
fn versions_are_compared() {
    let deployment = deployment(1, 1, 1);
    assert_eq!(version(&deployment, "0.1.0").verdict, Verdict::Pass);
    let line = version(&deployment, "0.2.0");
    assert_eq!(line.verdict, Verdict::Warn);
    assert_eq!(line.action, "use fairlead 0.1.0, or helm upgrade to 0.2.0");
    assert_eq!(version(&Deployment::default(), "0.1.0").verdict, Verdict::Warn);
    assert_eq!(proxy_image(&deployment), Some("proxy:1"));
}

#[test]
fn definitions_are_served_and_ours() {
    let ours = fairlead_crds::definition::all().unwrap();
    let served = |change: fn(&mut Value)| {
        let each = ours.iter().map(|one| {
            let mut value = serde_json::to_value(one).unwrap();
            value["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
            change(&mut value);
            (one.metadata.name.clone().unwrap(), Ok(Some(read(value))))
        });
        each.collect::<Vec<_>>()
    };
    let lines = definitions(&served(|_| {}), &ours);
    assert_eq!((lines.len(), lines[0].verdict), (1, Verdict::Pass), "{lines:?}");
    let lines = definitions(
        &served(|one| one["spec"]["versions"][0]["schema"] = json!({"openAPIV3Schema": {"type": "object"}})),
        &ours,
    );
    assert_eq!((lines.len(), lines[0].verdict), (3, Verdict::Warn), "{lines:?}");
    let conflict = json!({"conditions": [{"type": "NamesAccepted", "status": "False", "message": "taken"}]});
    let mut found = served(|_| {});
    let mut broken = serde_json::to_value(&ours[0]).unwrap();
    broken["status"] = conflict;
    found[0].1 = Ok(Some(read(broken)));
    found[1].1 = Ok(None);
    let lines = definitions(&found, &ours);
    assert_eq!(lines.iter().map(|line| line.verdict).collect::<Vec<_>>(), [Verdict::Fail, Verdict::Fail]);
    assert!(lines[0].message.contains("taken"), "{}", lines[0].message);
    assert!(lines[1].message.contains("missing"), "{}", lines[1].message);
    found[2].1 = Err(forbidden());
    assert_eq!(definitions(&found, &ours)[0].verdict, Verdict::Warn);
}

#[test]
fn the_lease_is_held_by_one_that_lives() {
    let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
    let pods = Ok(vec![read::<Pod>(json!({"metadata": {"name": "fairlead-operator-1"}}))]);
    let judge = |holder: &str, renewed: &str| {
        let spec = json!({"holderIdentity": holder, "renewTime": renewed});
        lease(&Ok(Some(read(json!({"spec": spec})))), &pods, "mesh", now).verdict
    };
    let lately = "2026-11-25T11:59:58.000000Z";
    assert_eq!(judge("fairlead-operator-1_ab", lately), Verdict::Pass);
    assert_eq!(judge("fairlead-operator-1_ab", "2026-11-25T11:58:00.000000Z"), Verdict::Warn);
    assert_eq!(judge("fairlead-operator-0_ab", lately), Verdict::Fail);
    assert_eq!(judge("", lately), Verdict::Fail);
    assert_eq!(lease(&Ok(None), &pods, "mesh", now).verdict, Verdict::Fail);
    assert_eq!(lease(&Err(forbidden()), &pods, "mesh", now).verdict, Verdict::Warn);
}

#[test]
fn certificates_have_days_left() {
    let now = Timestamp::from_second(1_000_000_000).unwrap();
    let judge = |leaf: i64, root: i64| {
        let line = |name: &str, days: i64| {
            let end = 1_000_000_000 + days * 86_400 + 60;
            format!(
                "fairlead_operator_certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}} {end}\n"
            )
        };
        let page = line("leaf", leaf) + &line("root", root);
        certificates(&Ok(Vec::new()), &[("operator-1".to_owned(), Ok(page))], "mesh", now)
    };
    let lines = judge(20, 300);
    assert_eq!(lines[0].verdict, Verdict::Pass);
    assert_eq!(lines[0].message, "the operator's certificate is good for 20 days, its root for 300");
    assert_eq!(judge(3, 300)[0].verdict, Verdict::Warn);
    assert_eq!(judge(20, 30)[0].verdict, Verdict::Warn);
    let lines = judge(-1, 300);
    assert_eq!((lines[0].verdict, lines[0].subject.as_str()), (Verdict::Fail, "pod/operator-1"));
    assert_eq!(certificates(&Ok(Vec::new()), &[], "mesh", now)[0].verdict, Verdict::Warn);
    let unseen = certificates(&Err(forbidden()), &[], "mesh", now);
    assert!(unseen[0].message.starts_with("may not see"), "{unseen:?}");
    let silent = [("operator-1".to_owned(), Err(forbidden()))];
    assert_eq!(certificates(&Ok(Vec::new()), &silent, "mesh", now)[0].verdict, Verdict::Warn);
}

#[test]
fn a_webhook_without_roots_is_not_trusted() {
    let judge = |bundle: Value| {
        let found =
            read(json!({"webhooks": [{"name": "x", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": bundle}}]}));
        hook(&Ok(Some(found)), "fairlead", "mesh").verdict
    };
    assert_eq!(judge(json!("QUJD")), Verdict::Pass);
    assert_eq!(judge(Value::Null), Verdict::Fail);
    assert_eq!(hook(&Ok(None), "fairlead", "mesh").verdict, Verdict::Fail);
}

#[test]
fn the_trial_tells_who_refused() {
    let judge = |trial| webhook(&trial, Policy::Fail, "fairlead", "mesh");
    let made = |name: &str| Trial::Made("shop".to_owned(), vec![name.to_owned()]);
    let refused = |why: &str| Trial::Refused("shop".to_owned(), why.to_owned());
    assert_eq!(judge(made("fairlead-proxy")).verdict, Verdict::Pass);
    assert_eq!(judge(made("other")).verdict, Verdict::Fail);
    let bare = webhook(&made("other"), Policy::Nothing, "fairlead", "mesh");
    assert!(bare.message.ends_with("there is no webhook configuration"), "{}", bare.message);
    let line =
        judge(refused("failed calling webhook \"operator-unreachable-no-injection.fairlead.dev\": EOF"));
    assert_eq!((line.verdict, line.subject.as_str()), (Verdict::Fail, "namespace/shop"));
    assert_eq!(judge(refused("exceeded quota: small")).verdict, Verdict::Warn);
    assert_eq!(judge(Trial::Nowhere("no namespace".to_owned())).verdict, Verdict::Skip);
    assert_eq!(judge(Trial::Unseen(forbidden())).verdict, Verdict::Warn);
}
