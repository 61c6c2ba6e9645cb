//! Who a client is: the service account, and the pod, of the token that it carries.
//!
//! ```text
//! token ──> cache (60 s, never past expiry) ──> review (few at a time, one a token) ──> Caller
//! ```
//!
//! The API server alone decides whether a token is good (TokenReview): it knows the key that signed it, and
//! whether the pod that it was made for still exists. A token is kept as its hash only, and never logged.

mod caller;
pub mod review;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{OnceCell, Semaphore};

pub use self::caller::{Caller, Pod};
use self::review::Reviewer;
use crate::metrics::{Metrics, Outcome};

/// Whom a token must be made for. Those for the API server itself are not taken: who is asked for them could
/// use them.
pub const AUDIENCE: &str = "fairlead";

/// How long an answer counts: a token whose pod was deleted is good for so long at most.
const REMEMBERED: SignedDuration = SignedDuration::from_secs(60);
/// A refusal is asked about again sooner, for it may have been too early.
const REFUSED: SignedDuration = SignedDuration::from_secs(10);
/// Answers that are kept: as many as streams, and again as many strangers.
const KEPT: usize = 20_000;
/// A service-account token has about a thousand bytes.
const TOKEN_BYTES: usize = 16 << 10;
/// Reviews at the same time.
const AT_ONCE: usize = 16;
/// Clients that wait for a review; one more is told to come again.
const WAITING: usize = 2_000;
/// A review takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a client is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It carries no token.
    #[error(
        "no token; send the metadata `authorization: Bearer TOKEN` with a service-account token for the audience fairlead"
    )]
    NoToken,
    /// The token is not good.
    #[error("the token is refused: {0}")]
    Refused(String),
    /// The token was good.
    #[error("the token is expired; send the one that the kubelet has renewed")]
    Expired,
    /// Nobody can say.
    #[error("the token cannot be checked now: {0}; keep your config and connect again")]
    Unavailable(String),
}

type Answer = Result<Arc<Caller>, Unknown>;

/// Finds out who clients are.
#[derive(Debug)]
pub struct Identities {
    reviewer: Box<dyn Reviewer>,
    answers: Mutex<HashMap<[u8; 32], Asked>>,
    slots: Semaphore,
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// One question, that everybody with this token waits for.
#[derive(Clone, Debug)]
struct Asked {
    at: Timestamp,
    answer: Arc<OnceCell<Answer>>,
}

impl Asked {
    fn counts(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.at);
        let remembered = match self.answer.get() {
            None => return true, // It is being asked.
            Some(Ok(_)) => REMEMBERED,
            Some(Err(Unknown::Unavailable(_))) => return false,
            Some(Err(_)) => REFUSED,
        };
        // A clock that was put back makes no answer last longer.
        !age.is_negative() && age < remembered
    }
}

impl Identities {
    /// Asks this one.
    #[must_use]
    pub fn new(reviewer: Box<dyn Reviewer>, metrics: Arc<Metrics>) -> Self {
        Self {
            reviewer,
            answers: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
            waiting: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Whose token that is. `authorization` is the value of the metadata of that name.
    pub async fn identify(&self, authorization: Option<&str>, now: Timestamp) -> Answer {
        let token = bearer(authorization).ok_or(Unknown::NoToken)?;
        if token.len() > TOKEN_BYTES {
            return Err(Unknown::Refused(format!("it has more than {TOKEN_BYTES} bytes")));
        }
        let caller = self.ask(token, now).await?;
        if caller.expires <= now { Err(Unknown::Expired) } else { Ok(caller) }
    }

    async fn ask(&self, token: &str, now: Timestamp) -> Answer {
        let asked = self.question(token, now);
        if let Some(answer) = asked.answer.get() {
            return answer.clone();
        }
        let Some(_waiting) = Waiting::begin(&self.waiting) else {
            return Err(Unknown::Unavailable("too many clients wait for it".into()));
        };
        asked.answer.get_or_init(|| self.review(token)).await.clone()
    }

    /// The question about this token, an old one where it still counts.
    fn question(&self, token: &str, now: Timestamp) -> Asked {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = answers.get(&key).filter(|asked| asked.counts(now)) {
            return asked.clone();
        }
        if answers.len() >= KEPT {
            answers.retain(|_, asked| asked.counts(now));
        }
        let asked = Asked { at: now, answer: Arc::default() };
        // Full of what still counts: this one is asked, and not remembered.
        if answers.len() < KEPT {
            answers.insert(key, asked.clone());
        }
        asked
    }

    async fn review(&self, token: &str) -> Answer {
        let review = async {
            let _slot = self.slots.acquire().await;
            self.reviewer.review(token).await
        };
        let unavailable = |reason: String| {
            self.metrics.token_reviewed(Outcome::Failed);
            tracing::warn!(reason, "a token could not be reviewed");
            Err(Unknown::Unavailable("the API server does not answer".into()))
        };
        match tokio::time::timeout(PATIENCE, review).await {
            Ok(Ok(status)) => {
                self.metrics.token_reviewed(Outcome::Done);
                Caller::read(&status, token).map(Arc::new).map_err(Unknown::Refused)
            }
            Ok(Err(error)) => unavailable(error.to_string()),
            Err(_) => unavailable(format!("no answer within {PATIENCE:?}")),
        }
    }
}

/// One that waits; no more when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::AcqRel);
        let waiting = Self(count);
        (before < WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(authorization: Option<&str>) -> Option<&str> {
    let (scheme, token) = authorization?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests;
