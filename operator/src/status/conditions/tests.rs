//! Problems and answers in, conditions out.

use std::sync::Arc;

use super::*;
use crate::model::{Kind, ObjectKey, ObjectRef};
use crate::status::report::ClientState;

fn object() -> ObjectRef {
    ObjectRef::new(Kind::ServiceRoute, ObjectKey::new("shop", "reviews"))
}

fn declared(generation: i64) -> Declared {
    let written = serde_json::json!({"metadata": {"name": "reviews", "generation": generation}});
    let route = serde_json::json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute", "metadata": {"name": "reviews"},
        "spec": {"parentRefs": [{"name": "reviews"}]},
    });
    let route = serde_json::from_value(route).unwrap();
    let content = Ok(crate::watch::Typed::ServiceRoute(Arc::new(route)));
    Declared { generation, content, written: Arc::new(written), status: Status::default() }
}

fn tally(generation: i64, clients: &[(&str, ClientState)]) -> Tally {
    let clients: Vec<(Arc<str>, ClientState)> =
        clients.iter().map(|(client, state)| ((*client).into(), state.clone())).collect();
    Tally::of(generation, clients.iter().map(|(client, state)| (client, state.clone())))
}

fn problem(condition: model::Condition, severity: Severity, reason: &'static str, message: &str) -> Problem {
    Problem { object: object(), condition, severity, reason, message: message.to_owned() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Type, status and reason of every condition.
fn short(status: &Status) -> Vec<String> {
    status.conditions.iter().map(|it| format!("{}={} {}", it.type_, it.status, it.reason)).collect()
}

#[test]
fn without_problems_and_subscribers_all_is_true() {
    let status = status(&declared(3), &[], &tally(3, &[]), &Status::default(), at(10));
    assert_eq!(
        short(&status),
        ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs", "Programmed=True NoSubscribers"]
    );
    assert_eq!(status.observed_generation, Some(3));
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(3)));
}

#[test]
fn programmed_follows_the_clients() {
    let nacked = ClientState::Nacked("bad regex".into());
    for (clients, expected, message) in [
        (
            vec![("a", ClientState::Acked), ("b", ClientState::Acked)],
            "True Programmed",
            "2 of 2 sidecars run generation 3",
        ),
        (
            vec![("a", ClientState::Acked), ("b", ClientState::Pending)],
            "False Pending",
            "1 of 2 sidecars run generation 3; waiting for b",
        ),
        (
            vec![("a", ClientState::Pending), ("b", nacked)],
            "False Rejected",
            "1 of 2 sidecars refused generation 3; b says: bad regex",
        ),
    ] {
        let status = status(&declared(3), &[], &tally(3, &clients), &Status::default(), at(10));
        let programmed = status.conditions.last().unwrap();
        assert_eq!(format!("{} {}", programmed.status, programmed.reason), expected);
        assert_eq!(programmed.message, message);
        let rollout = status.rollout.unwrap();
        assert_eq!(rollout.subscribed, rollout.acked + rollout.nacked + rollout.pending);
    }
}

#[test]
fn a_replica_that_is_behind_makes_it_unknown() {
    let tally =
        Tally { replicas: 2, behind: vec!["operator-b".into()], ..tally(3, &[("a", ClientState::Acked)]) };
    let status = status(&declared(3), &[], &tally, &Status::default(), at(10));
    assert_eq!(short(&status)[2], "Programmed=Unknown ReplicaBehind");
    assert_eq!(
        status.conditions[2].message,
        "1 of 2 replicas of the operator have not reported generation 3; waiting for operator-b"
    );
}

#[test]
fn problems_are_told_where_they_belong() {
    let problems = [
        problem(model::Condition::Accepted, Severity::Note, "LeftOut", "left to kube-proxy"),
        problem(model::Condition::ResolvedRefs, Severity::Error, "BackendNotFound", "no Service shop/a"),
        problem(model::Condition::ResolvedRefs, Severity::Error, "BackendNotFound", "no Service shop/b"),
        problem(model::Condition::Conflicted, Severity::Error, "Conflicted", "shop/older decides"),
    ];
    let status = status(&declared(1), &problems, &tally(1, &[]), &Status::default(), at(10));
    assert_eq!(
        short(&status),
        [
            "Accepted=True Accepted",
            "ResolvedRefs=False BackendNotFound",
            "Conflicted=True Conflicted",
            "Programmed=True NoSubscribers"
        ]
    );
    assert_eq!(status.conditions[0].message, "left to kube-proxy");
    assert_eq!(status.conditions[1].message, "no Service shop/a; no Service shop/b");
}

#[test]
fn what_is_not_accepted_is_not_programmed() {
    let invalid =
        Declared { content: Err(vec!["spec.a: x".to_owned(), "spec.b: y".to_owned()]), ..declared(2) };
    let status = status(&invalid, &[], &tally(2, &[]), &Status::default(), at(10));
    assert_eq!(short(&status)[0], "Accepted=False Invalid");
    assert_eq!(status.conditions[0].message, "spec.a: x; spec.b: y");
    assert_eq!(short(&status)[2], "Programmed=False Invalid");
}

#[test]
fn a_transition_has_the_time_of_its_change() {
    let first =
        status(&declared(1), &[], &tally(1, &[("a", ClientState::Pending)]), &Status::default(), at(10));
    let second = status(&declared(2), &[], &tally(2, &[("a", ClientState::Acked)]), &first, at(20));
    let times: Vec<i64> = second.conditions.iter().map(|it| it.last_transition_time.0.as_second()).collect();
    assert_eq!(times, [10, 10, 20]);
}

fn outlier_detection(mode: &str) -> Declared {
    let policy = serde_json::json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "OutlierDetection", "metadata": {"name": "reviews"},
        "spec": {"targetRefs": [{"name": "reviews"}], "mode": mode, "ejection": {"minHealthyPercent": 40}},
    });
    let policy = serde_json::from_value(policy).unwrap();
    Declared { content: Ok(Typed::OutlierDetection(Arc::new(policy))), ..declared(3) }
}

#[test]
fn panic_is_a_condition_of_an_outlier_detection_that_ejects() {
    let panicking = ClientState::Panicking("shop/reviews:9080".into());
    let clients = [
        ("shop/a", panicking.clone()),
        ("shop/b", ClientState::Acked),
        ("shop/c", panicking.clone()),
        ("shop/d", ClientState::Pending),
    ];
    let of = |declared: &Declared, problems: &[Problem], clients: &[(&str, ClientState)]| {
        status(declared, problems, &tally(3, clients), &Status::default(), at(10))
    };
    let healthy = |status: &Status| {
        status
            .conditions
            .iter()
            .find(|it| it.type_ == "EndpointsHealthy")
            .map(|it| (it.status.clone(), it.reason.clone(), it.message.clone()))
    };
    let found = of(&outlier_detection("Enforce"), &[], &clients);
    assert_eq!(found.rollout.as_ref().map(|rollout| (rollout.acked, rollout.pending)), Some((3, 1)));
    let message = "2 of 4 sidecars use all endpoints, ejected ones too, since fewer than 40 percent are left: \
                   shop/a those of shop/reviews:9080, shop/c those of shop/reviews:9080";
    assert_eq!(healthy(&found), Some(("False".to_owned(), "Panic".to_owned(), message.to_owned())));
    let many: Vec<_> =
        (0..9).map(|n| (["e", "f", "g", "h", "i", "j", "k", "l", "m"][n], panicking.clone())).collect();
    let (_, _, message) = healthy(&of(&outlier_detection("Enforce"), &[], &many)).unwrap();
    assert!(message.ends_with("g those of shop/reviews:9080, and others"), "{message}");

    let calm = healthy(&of(&outlier_detection("Enforce"), &[], &clients[1..2])).unwrap();
    assert_eq!((calm.0.as_str(), calm.1.as_str()), ("True", "EnoughEndpoints"));
    assert_eq!(healthy(&of(&outlier_detection("Shadow"), &[], &clients)), None);
    assert_eq!(healthy(&of(&declared(3), &[], &clients)), None, "of a ServiceRoute");
    let refused =
        problem(model::Condition::Accepted, Severity::Error, "TargetNotFound", "there is no Service");
    assert_eq!(healthy(&of(&outlier_detection("Enforce"), &[refused], &clients)), None);
}
