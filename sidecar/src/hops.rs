//! What a call has to know of the call that it is made for: how much time is left, whether that one is a retry
//! already, and, on the way back, that a retry was spent below.
//!
//! ```text
//! A --deadline, attempt--> inbound of B ... application B ... outbound of B --deadline, attempt--> C
//!   <--no-retry----------     | enter           trace id            | above        <--no-retry---
//!                             '-------------- Hops (by trace id) <--'
//! ```
//!
//! Applications copy the headers of their trace from the call that they serve to the calls that they make, and
//! no others, so the trace is what ties the two together. An application that copies nothing has no such
//! protection. Where several calls of one trace are in flight at this pod, nobody knows which of them a call is
//! made for: then the mildest of what holds for them counts, so that none is cut short by its neighbour.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderValue};

use crate::decimal;
use crate::said::{ATTEMPT, DEADLINE, NO_RETRY, Said};

/// Calls that are remembered at once: what a pod has in flight, and a bound on what strangers can fill. One
/// more is carried all the same, only without what this module does.
const MOST: usize = 10_000;

/// The calls in flight to this pod. One a process.
#[derive(Debug, Default)]
pub struct Hops {
    /// By a hash of the trace id, whose key nobody outside knows.
    by_trace: Mutex<HashMap<u64, Vec<Arc<Hop>>>>,
    count: AtomicUsize,
    hasher: RandomState,
}

/// One call in flight to this pod.
#[derive(Debug)]
struct Hop {
    deadline: Option<Instant>,
    retry: bool,
    spent: AtomicBool,
}

/// Remembers a call for as long as it lives.
#[derive(Debug)]
pub struct Inside {
    hops: Arc<Hops>,
    trace: u64,
    hop: Arc<Hop>,
}

/// The calls that a call may be made for; none where nothing is known.
#[derive(Debug, Default)]
pub struct Above(Vec<Arc<Hop>>);

impl Hops {
    /// A call has come in, of which the caller's sidecar said this. None: it has no trace, or there are too many.
    pub fn enter(self: &Arc<Self>, headers: &HeaderMap, said: &Said, now: Instant) -> Option<Inside> {
        let trace = self.hasher.hash_one(trace(headers)?);
        let milliseconds = said.deadline.as_ref().and_then(|value| value.to_str().ok()?.parse().ok());
        let deadline = milliseconds.and_then(|left| now.checked_add(Duration::from_millis(left)));
        let hop = Arc::new(Hop { deadline, retry: said.attempt.is_some(), spent: AtomicBool::new(false) });
        if self.count.fetch_add(1, Ordering::Relaxed) >= MOST {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.locked().entry(trace).or_default().push(Arc::clone(&hop));
        Some(Inside { hops: Arc::clone(self), trace, hop })
    }

    /// What a call of this pod may be made for.
    pub fn above(&self, headers: &HeaderMap) -> Above {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Above::default();
        }
        let Some(trace) = trace(headers) else { return Above::default() };
        let trace = self.hasher.hash_one(trace);
        Above(self.locked().get(&trace).cloned().unwrap_or_default())
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Vec<Arc<Hop>>>> {
        self.by_trace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Marks the answer if a retry was spent below.
    pub fn mark(&self, answer: &mut HeaderMap) {
        if self.hop.spent.load(Ordering::Relaxed) {
            answer.insert(NO_RETRY, HeaderValue::from_static("1"));
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut by_trace = self.hops.locked();
        if let Some(calls) = by_trace.get_mut(&self.trace) {
            calls.retain(|call| !Arc::ptr_eq(call, &self.hop));
            if calls.is_empty() {
                by_trace.remove(&self.trace);
            }
        }
        self.hops.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Above {
    /// When nobody waits any more; None: somebody waits for ever.
    pub fn deadline(&self) -> Option<Instant> {
        self.0
            .iter()
            .map(|call| call.deadline)
            .max_by_key(|deadline| (deadline.is_none(), *deadline))
            .flatten()
    }

    /// Whether it is made for a retry, so that another one here would multiply them.
    pub fn is_retry(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|call| call.retry)
    }

    /// A retry was spent on this call, here or below.
    pub fn spent(&self) {
        for call in &self.0 {
            call.spent.store(true, Ordering::Relaxed);
        }
    }
}

/// Says to the next sidecar when nobody waits any more, and which attempt this is. A deadline that has come is said
/// to be one millisecond away.
pub fn tell(headers: &mut HeaderMap, attempt: u32, deadline: Option<Instant>, now: Instant) {
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(now).as_millis();
        headers.insert(DEADLINE, milliseconds(u64::try_from(left).unwrap_or(u64::MAX).max(1)));
    }
    if attempt > 1 {
        headers.insert(ATTEMPT, HeaderValue::from(attempt));
    }
}

/// As a header. At its first attempt a call has all the time of its rule, so most often it is what it was before.
fn milliseconds(left: u64) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static("0"))) };
    }
    LAST.with_borrow_mut(|last| {
        if last.0 != left {
            *last = (left, decimal::header(left));
        }
        last.1.clone()
    })
}

/// The id of the trace that a request belongs to: W3C's `traceparent`, B3 in one header or in several, or the
/// request's own id.
pub fn trace(headers: &HeaderMap) -> Option<&[u8]> {
    let value = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let part =
        |name: &str, at: usize| value(name)?.split(|byte| *byte == b'-').nth(at).filter(|id| !id.is_empty());
    part("traceparent", 1)
        .or_else(|| part("b3", 0))
        .or_else(|| value("x-b3-traceid"))
        .or_else(|| value("x-request-id"))
        .filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn enter(hops: &Arc<Hops>, arriving: &mut HeaderMap, now: Instant) -> Option<Inside> {
        let said = Said::take(arriving);
        hops.enter(arriving, &said, now)
    }

    const TRACE: (&str, &str) = ("traceparent", "00-4bf92f35-00f067aa-01");

    #[test]
    fn a_call_knows_of_the_one_that_it_is_made_for() {
        let (hops, now) = (Arc::new(Hops::default()), now());
        let mut arriving = headers(&[TRACE, ("x-fairlead-deadline", "1000"), ("x-fairlead-attempt", "2")]);
        let inside = enter(&hops, &mut arriving, now).unwrap();
        assert_eq!(arriving, headers(&[TRACE]), "applications do not see what sidecars say");
        let leaving = headers(&[("traceparent", "00-4bf92f35-11111111-01")]);
        let above = hops.above(&leaving);
        assert_eq!((above.deadline(), above.is_retry()), (Some(now + SECOND), true));
        let mut answer = headers(&[]);
        inside.mark(&mut answer);
        assert!(answer.is_empty());
        above.spent();
        inside.mark(&mut answer);
        assert_eq!(answer[NO_RETRY], "1");
        drop(inside);
        assert!(hops.above(&leaving).0.is_empty());
        assert!(hops.locked().is_empty());
    }

    #[test]
    fn of_several_the_mildest_counts() {
        let (hops, now) = (Arc::new(Hops::default()), now());
        let entered = |more: &[(&'static str, &'static str)]| {
            enter(&hops, &mut headers(&[&[TRACE], more].concat()), now).unwrap()
        };
        let _short = entered(&[("x-fairlead-deadline", "1000"), ("x-fairlead-attempt", "2")]);
        let _long = entered(&[("x-fairlead-deadline", "2000"), ("x-fairlead-attempt", "3")]);
        let above = hops.above(&headers(&[TRACE]));
        assert_eq!((above.deadline(), above.is_retry()), (Some(now + 2 * SECOND), true));
        let _first = entered(&[]);
        let above = hops.above(&headers(&[TRACE]));
        assert_eq!((above.deadline(), above.is_retry()), (None, false));
    }

    #[test]
    fn nothing_is_known_of_strangers() {
        let (hops, now) = (Arc::new(Hops::default()), now());
        assert!(enter(&hops, &mut headers(&[("x-fairlead-deadline", "5")]), now).is_none(), "no trace");
        let _inside = enter(&hops, &mut headers(&[TRACE]), now).unwrap();
        let above = hops.above(&headers(&[("traceparent", "00-another-00f067aa-01")]));
        assert_eq!((above.deadline(), above.is_retry()), (None, false));
        for rubbish in ["", "-1", "soon", "99999999999999999999"] {
            let mut arriving = headers(&[TRACE]);
            arriving.insert(DEADLINE, HeaderValue::from_static(rubbish));
            assert_eq!(enter(&hops, &mut arriving, now).unwrap().hop.deadline, None, "{rubbish}");
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let (hops, now) = (Arc::new(Hops::default()), now());
        let all: Vec<_> = (0..MOST).map(|_| enter(&hops, &mut headers(&[TRACE]), now).unwrap()).collect();
        assert!(enter(&hops, &mut headers(&[TRACE]), now).is_none());
        drop(all);
        assert!(enter(&hops, &mut headers(&[TRACE]), now).is_some());
    }

    #[test]
    fn what_is_told() {
        let now = now();
        let mut leaving = headers(&[]);
        tell(&mut leaving, 1, None, now);
        assert!(leaving.is_empty());
        tell(&mut leaving, 2, Some(now + SECOND), now);
        assert_eq!(leaving, headers(&[("x-fairlead-deadline", "1000"), ("x-fairlead-attempt", "2")]));
        tell(&mut leaving, 3, Some(now), now + SECOND);
        assert_eq!(leaving[DEADLINE], "1");
    }
}
