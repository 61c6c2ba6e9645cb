//! What an object's status says: pure. All conditions are made at once, of one generation.

use fairlead_crds::status::{condition, reason};
use fairlead_crds::{Mode, Status};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::records::Tally;
use crate::model::{self, Problem, Severity};
use crate::watch::{Declared, Typed};

/// The API server's limit is 32,768 characters; nobody reads so much.
const MESSAGE_CHARACTERS: usize = 4096;

/// So many sidecars are named as examples.
const NAMED: usize = 3;

/// The status of an object, of its problems and of what the clients said. `previous` is the one
/// before: where a condition's status is the same, so is the time of its last transition.
#[must_use]
pub fn status(
    declared: &Declared,
    problems: &[Problem],
    tally: &Tally,
    previous: &Status,
    now: Timestamp,
) -> Status {
    let generation = declared.generation;
    let accepted = accepted(declared, problems);
    let mut said = vec![accepted, resolved(problems)];
    said.extend(conflicted(problems));
    said.push(match said.first() {
        Some(accepted) if !accepted_at_all(&said) => Said {
            kind: condition::PROGRAMMED,
            status: "False",
            reason: accepted.reason.clone(),
            message: "not in force: see the condition Accepted".to_owned(),
        },
        _ => programmed(tally),
    });
    if accepted_at_all(&said) {
        said.extend(endpoints_healthy(declared, tally));
    }
    let conditions = said.into_iter().map(|said| said.condition(generation, previous, now)).collect();
    Status { observed_generation: Some(generation), conditions, rollout: Some(tally.rollout.clone()) }
}

fn accepted_at_all(said: &[Said]) -> bool {
    said.first().is_some_and(|accepted| accepted.status != "False")
}

/// Of an OutlierDetection that ejects: whether its sidecars do without the endpoints that they ejected.
fn endpoints_healthy(declared: &Declared, tally: &Tally) -> Option<Said> {
    let Ok(Typed::OutlierDetection(policy)) = &declared.content else { return None };
    if policy.spec.mode != Mode::Enforce {
        return None;
    }
    let kind = condition::ENDPOINTS_HEALTHY;
    let (panicking, subscribed) = (&tally.panicking, tally.rollout.subscribed);
    if panicking.is_empty() {
        let message = "no sidecar says that too few endpoints are left".to_owned();
        return Some(good(kind, reason::ENOUGH_ENDPOINTS, message));
    }
    let some: Vec<_> =
        panicking.iter().take(NAMED).map(|(client, port)| format!("{client} those of {port}")).collect();
    let more = if panicking.len() > NAMED { ", and others" } else { "" };
    let message = format!(
        "{} of {subscribed} sidecars use all endpoints, ejected ones too, since fewer than {} percent are left: \
         {}{more}",
        panicking.len(),
        policy.spec.ejection.min_healthy_percent,
        some.join(", ")
    );
    Some(Said { kind, status: "False", reason: reason::PANIC.to_owned(), message })
}

/// A condition without its bookkeeping.
struct Said {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Said {
    fn condition(self, generation: i64, previous: &Status, now: Timestamp) -> Condition {
        debug_assert!(
            reason::is_known(self.kind, self.status, &self.reason),
            "{} {}",
            self.kind,
            self.reason
        );
        let before = previous.conditions.iter().find(|before| before.type_ == self.kind);
        let since = before.filter(|before| before.status == self.status);
        Condition {
            type_: self.kind.to_owned(),
            status: self.status.to_owned(),
            reason: self.reason,
            message: self.message.chars().take(MESSAGE_CHARACTERS).collect(),
            observed_generation: Some(generation),
            last_transition_time: since
                .map_or_else(|| Time(whole_seconds(now)), |before| before.last_transition_time.clone()),
        }
    }
}

fn accepted(declared: &Declared, problems: &[Problem]) -> Said {
    if let Err(messages) = &declared.content {
        let message = messages.join("; ");
        return Said {
            kind: condition::ACCEPTED,
            status: "False",
            reason: reason::INVALID.to_owned(),
            message,
        };
    }
    of(problems, model::Condition::Accepted, condition::ACCEPTED, "False").unwrap_or_else(|| {
        good(condition::ACCEPTED, reason::ACCEPTED, notes(problems, model::Condition::Accepted))
    })
}

fn resolved(problems: &[Problem]) -> Said {
    of(problems, model::Condition::ResolvedRefs, condition::RESOLVED_REFS, "False").unwrap_or_else(|| {
        good(condition::RESOLVED_REFS, reason::RESOLVED_REFS, notes(problems, model::Condition::ResolvedRefs))
    })
}

/// Only there when there is a conflict.
fn conflicted(problems: &[Problem]) -> Option<Said> {
    of(problems, model::Condition::Conflicted, condition::CONFLICTED, "True")
}

/// What the errors of a condition say together; none without an error.
fn of(
    problems: &[Problem],
    about: model::Condition,
    kind: &'static str,
    status: &'static str,
) -> Option<Said> {
    let errors = || problems.iter().filter(|it| it.condition == about && it.severity == Severity::Error);
    let reason = errors().next()?.reason.to_owned();
    let message = errors().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
    Some(Said { kind, status, reason, message })
}

fn notes(problems: &[Problem], about: model::Condition) -> String {
    let notes = problems.iter().filter(|it| it.condition == about && it.severity == Severity::Note);
    notes.map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ")
}

fn good(kind: &'static str, reason: &str, message: String) -> Said {
    Said { kind, status: "True", reason: reason.to_owned(), message }
}

/// Whether every sidecar that is concerned runs this generation.
fn programmed(tally: &Tally) -> Said {
    let Tally { rollout, waiting, replicas, behind, panicking: _ } = tally;
    let generation = rollout.generation;
    let (status, reason, message) = if let Some(first) = behind.first() {
        let behind = behind.len();
        (
            "Unknown",
            reason::REPLICA_BEHIND,
            format!(
                "{behind} of {replicas} replicas of the operator have not reported generation {generation}; waiting for {first}"
            ),
        )
    } else if rollout.subscribed == 0 {
        ("True", reason::NO_SUBSCRIBERS, "no sidecar wants what this object contributes to".to_owned())
    } else if let Some(error) = &rollout.last_error {
        let (nacked, subscribed) = (rollout.nacked, rollout.subscribed);
        let message = format!(
            "{nacked} of {subscribed} sidecars refused generation {generation}; {} says: {}",
            error.client, error.message
        );
        ("False", reason::REJECTED, message)
    } else if rollout.pending > 0 {
        let waiting = waiting.as_deref().unwrap_or_default();
        let (acked, subscribed) = (rollout.acked, rollout.subscribed);
        (
            "False",
            reason::PENDING,
            format!("{acked} of {subscribed} sidecars run generation {generation}; waiting for {waiting}"),
        )
    } else {
        let subscribed = rollout.subscribed;
        (
            "True",
            reason::PROGRAMMED,
            format!("{subscribed} of {subscribed} sidecars run generation {generation}"),
        )
    };
    Said { kind: condition::PROGRAMMED, status, reason: reason.to_owned(), message }
}

/// What the API server stores of a time.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests;
