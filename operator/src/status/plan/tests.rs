//! Which status is written when.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::*;
use crate::model::{Kind, ObjectKey};

fn object(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::ServiceRoute, ObjectKey::new("shop", name))
}

fn status(programmed: &str, message: &str) -> Status {
    let condition = Condition {
        type_: condition::PROGRAMMED.to_owned(),
        status: programmed.to_owned(),
        reason: "Some".to_owned(),
        message: message.to_owned(),
        observed_generation: Some(1),
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
    };
    Status { conditions: vec![condition], ..Status::default() }
}

fn wanted(statuses: &[(&str, &str, &str)]) -> BTreeMap<ObjectRef, Status> {
    statuses.iter().map(|(name, programmed, message)| (object(name), status(programmed, message))).collect()
}

#[test]
fn conditions_are_written_at_once_and_counters_now_and_then() {
    let start = Instant::now();
    let mut plan = Plan::new(start);
    let due = |plan: &mut Plan, programmed: &str, message: &str, after: u64| {
        let (writes, next) =
            plan.due(&wanted(&[("a", programmed, message)]), start + Duration::from_secs(after));
        (writes.len(), next.map(|next| next.duration_since(start).as_secs()))
    };
    assert_eq!(due(&mut plan, "False", "1 of 3", 0), (1, None));
    assert_eq!(due(&mut plan, "False", "1 of 3", 1), (0, None));
    assert_eq!(due(&mut plan, "False", "2 of 3", 2), (0, Some(10)));
    assert_eq!(due(&mut plan, "True", "3 of 3", 3), (1, None));
    assert_eq!(due(&mut plan, "True", "4 of 4", 5), (0, Some(13)));
    assert_eq!(due(&mut plan, "True", "5 of 5", 13), (1, None));
}

#[test]
fn how_many_are_in_panic_is_a_counter() {
    let now = Instant::now();
    let mut plan = Plan::new(now);
    let panic = |healthy: &str, message: &str| {
        let mut statuses = wanted(&[("a", healthy, message)]);
        for condition in statuses.values_mut().flat_map(|status| &mut status.conditions) {
            condition.type_ = condition::ENDPOINTS_HEALTHY.to_owned();
        }
        statuses
    };
    assert_eq!(plan.due(&panic("False", "1 of 3"), now).0.len(), 1);
    assert_eq!(plan.due(&panic("False", "2 of 3"), now + Duration::from_secs(1)).0.len(), 0);
    assert_eq!(plan.due(&panic("True", "none"), now + Duration::from_secs(2)).0.len(), 1);
}

#[test]
fn a_restart_writes_nothing_anew() {
    let now = Instant::now();
    let mut plan = Plan::new(now);
    plan.found(&object("a"), &status("True", "3 of 3"));
    assert_eq!(plan.due(&wanted(&[("a", "True", "3 of 3")]), now), (vec![], None));
    assert_eq!(plan.due(&wanted(&[("a", "False", "3 of 3")]), now).0.len(), 1);
}

#[test]
fn the_api_server_gets_so_many_and_no_more() {
    let start = Instant::now();
    let mut plan = Plan::new(start);
    let all: BTreeMap<_, _> = (0..100).map(|n| (object(&format!("r{n}")), status("True", ""))).collect();
    let mut now = start;
    let mut written = 0;
    loop {
        let (writes, next) = plan.due(&all, now);
        written += writes.len();
        let Some(next) = next else { break };
        now = next;
    }
    assert_eq!(written, 100);
    let took = now.duration_since(start).as_secs_f64();
    assert!((3.9..=4.2).contains(&took), "{took}");
}

#[test]
fn a_failed_write_is_due_again_a_little_later() {
    let now = Instant::now();
    let mut plan = Plan::new(now);
    let all = wanted(&[("a", "True", "")]);
    assert_eq!(plan.due(&all, now).0.len(), 1);
    plan.failed(&object("a"), now);
    assert_eq!(plan.due(&all, now), (vec![], Some(now + AGAIN)));
    assert_eq!(plan.due(&all, now + AGAIN).0.len(), 1);
    plan.retain(|_| false);
    assert_eq!(plan.due(&all, now + AGAIN).0.len(), 1);
}
