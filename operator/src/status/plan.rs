//! Which status to write when: a changed condition at once, mere counters now and then, and never
//! more than the API server should have to take.

use std::collections::BTreeMap;
use std::time::Duration;

use fairlead_crds::Status;
use fairlead_crds::status::condition;
use tokio::time::Instant;

use crate::model::ObjectRef;

/// Counters of an object are written at most so often.
const COUNTERS: Duration = Duration::from_secs(10);
/// Writes a second, over all objects; as many may come at once.
const WRITES: u32 = 20;
/// After a failed write; the client has retried by then.
const AGAIN: Duration = Duration::from_secs(2);

/// What was written, and when.
#[derive(Debug)]
pub struct Plan {
    written: BTreeMap<ObjectRef, Written>,
    /// Writes that may go out at `at`.
    allowed: f64,
    at: Instant,
}

#[derive(Debug)]
struct Written {
    status: Status,
    when: Option<Instant>,
    not_before: Option<Instant>,
}

impl Plan {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { written: BTreeMap::new(), allowed: f64::from(WRITES), at: now }
    }

    /// Notes what an object's status was before we first wrote it, so that a restart, or another replica that
    /// takes over, writes nothing anew.
    pub fn found(&mut self, object: &ObjectRef, status: &Status) {
        if !self.written.contains_key(object) {
            let written = Written { status: status.clone(), when: None, not_before: None };
            self.written.insert(object.clone(), written);
        }
    }

    /// Forgets objects that are gone.
    pub fn retain(&mut self, exists: impl Fn(&ObjectRef) -> bool) {
        self.written.retain(|object, _| exists(object));
    }

    /// The statuses to write now, and when to ask again if others have to wait.
    pub fn due(
        &mut self,
        wanted: &BTreeMap<ObjectRef, Status>,
        now: Instant,
    ) -> (Vec<(ObjectRef, Status)>, Option<Instant>) {
        let earned = now.duration_since(self.at).as_secs_f64() * f64::from(WRITES);
        self.allowed = (self.allowed + earned).min(f64::from(WRITES));
        self.at = now;
        let mut due: Vec<(bool, &ObjectRef, &Status)> = Vec::new();
        let mut next: Option<Instant> = None;
        let mut ask = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for (object, status) in wanted {
            let written = self.written.get(object);
            if written.is_some_and(|written| written.status == *status) {
                continue;
            }
            let urgent = written.is_none_or(|written| conditions_differ(&written.status, status));
            let mut at = now;
            if let Some(written) = written {
                at = at.max(written.not_before.unwrap_or(now));
                if !urgent {
                    at = at.max(written.when.map_or(now, |when| when + COUNTERS));
                }
            }
            if at > now { ask(at) } else { due.push((!urgent, object, status)) }
        }
        due.sort_by_key(|(later, object, _)| (*later, (*object).clone()));
        let mut writes = Vec::new();
        for (_, object, status) in due {
            if self.allowed < 1.0 {
                ask(now + Duration::from_secs(1) / WRITES);
                break;
            }
            self.allowed -= 1.0;
            let written = Written { status: status.clone(), when: Some(now), not_before: None };
            self.written.insert(object.clone(), written);
            writes.push((object.clone(), status.clone()));
        }
        (writes, next)
    }

    /// A write failed: it is due again, a little later.
    pub fn failed(&mut self, object: &ObjectRef, now: Instant) {
        if let Some(written) = self.written.get_mut(object) {
            *written = Written { status: Status::default(), when: None, not_before: Some(now + AGAIN) };
        }
    }
}

/// Whether more than counters differs. Some messages have counters in them.
fn conditions_differ(one: &Status, other: &Status) -> bool {
    let without_counters = |status: &Status| {
        let mut conditions = status.conditions.clone();
        let counted = [condition::PROGRAMMED, condition::ENDPOINTS_HEALTHY];
        for counting in conditions.iter_mut().filter(|it| counted.contains(&it.type_.as_str())) {
            counting.message.clear();
        }
        conditions
    };
    without_counters(one) != without_counters(other)
}

#[cfg(test)]
mod tests;
