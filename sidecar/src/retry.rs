//! When a request may be sent again, how often, and after how long.
//!
//! Sending twice what was processed once is the worst that a sidecar can do (an order placed twice), so the
//! question is not "did it fail" but "may it have been processed":
//!
//! | what ended the attempt | any method | idempotent only |
//! |---|---|---|
//! | no connection; refused by the endpoint (REFUSED_STREAM, GOAWAY, a remote sidecar without application) | x | |
//! | reset or timeout before any byte of the request was written | x | |
//! | a gRPC status that the rule lists: its own opt-in, for every gRPC call is a POST | x | |
//! | reset or timeout later; 502, 503, 504; a status that the rule lists | | x |
//!
//! Idempotent is what the rule's `methods` say, and any request with an `Idempotency-Key`. Beyond that a
//! retry needs an attempt left, a body that can be replayed, time before the deadline, and a token of the
//! Service's budget, asked in this order, so that nothing is taken from the budget in vain. Whatever stops a
//! retry has a name for log and metric ([`NoRetry`]).
//!
//! Cost: nothing a request beyond the list of endpoints tried, which allocates with the first failure; a
//! retry takes the budget's mutex once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::request::Parts;

pub use crate::cluster::{Budget, BudgetSettings};
use crate::failure::{At, Failure, Kind};

/// What a rule says about retries. `attempts` 0: never.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Besides the first.
    pub attempts: u32,
    /// Failures after which to try again.
    pub conditions: Vec<Condition>,
    /// Statuses after which to try again; idempotent requests only.
    pub codes: Vec<http::StatusCode>,
    /// gRPC statuses (in the header block or the trailers-only answer) after which to try again.
    pub grpc_codes: Vec<u32>,
    /// What counts as idempotent, besides a request with an `Idempotency-Key`.
    pub methods: Vec<http::Method>,
    /// The base of the exponential backoff with full jitter.
    pub backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
}

/// A failure after which to try again; ServiceRoute's `retry.conditions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// No connection.
    ConnectFailure,
    /// REFUSED_STREAM, or GOAWAY with a lower id.
    RefusedStream,
    /// The connection ended before any byte of the request was written.
    ResetBeforeRequest,
    /// A reused connection ended before the first byte of the answer; idempotent requests only.
    ResetOnReuse,
    /// The connection ended before the answer's head; idempotent requests only.
    Reset,
    /// The attempt took longer than its limit; idempotent requests only.
    Timeout,
    /// 502, 503 or 504; idempotent requests only.
    GatewayError,
}

impl RetryPolicy {
    /// No retries at all.
    pub fn never() -> Self {
        Self {
            attempts: 0,
            conditions: Vec::new(),
            codes: Vec::new(),
            grpc_codes: Vec::new(),
            methods: Vec::new(),
            backoff: Duration::ZERO,
            max_backoff: Duration::ZERO,
        }
    }

    /// The methods that RFC 9110 section 9.2.2 calls idempotent: the default of `methods`.
    pub fn idempotent_methods() -> Vec<http::Method> {
        use http::Method;
        vec![Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE]
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub enum Ended<'a> {
    /// Without the head of an answer. After the head an attempt is never repeated.
    Failed(&'a Failure),
    /// With an answer: its status, and for gRPC the `grpc-status` of its header block, if it has one there.
    Answered(StatusCode, Option<u32>),
}

/// Why a request is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoRetry {
    /// It ended in a way after which the rule does not ask for a retry; a success, for instance.
    NotWanted,
    /// The rule asks for it, but the request may have been processed and is not idempotent.
    NotIdempotent,
    /// All attempts are made.
    AttemptsSpent,
    /// The body is larger than the replay buffer, or is gone.
    BodyNotReplayable,
    /// The caller's time would be over before the next attempt.
    DeadlineTooShort,
    /// The Service's retry budget is spent.
    BudgetSpent,
    /// It is made for a call that is a retry itself.
    BelowARetry,
    /// A retry was spent on it further down.
    SpentBelow,
}

impl NoRetry {
    /// Every reason, for the metric's labels.
    pub const ALL: [Self; 8] = [
        Self::NotWanted,
        Self::NotIdempotent,
        Self::AttemptsSpent,
        Self::BodyNotReplayable,
        Self::DeadlineTooShort,
        Self::BudgetSpent,
        Self::BelowARetry,
        Self::SpentBelow,
    ];

    /// The word in log and metric.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotWanted => "not_wanted",
            Self::NotIdempotent => "not_idempotent",
            Self::AttemptsSpent => "attempts_spent",
            Self::BodyNotReplayable => "body_not_replayable",
            Self::DeadlineTooShort => "deadline_too_short",
            Self::BudgetSpent => "budget_spent",
            Self::BelowARetry => "below_a_retry",
            Self::SpentBelow => "spent_below",
        }
    }
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Attempts<'p> {
    policy: &'p RetryPolicy,
    idempotent: bool,
    deadline: Option<Instant>,
    retries: u32,
    tried: Vec<SocketAddr>,
    forbidden: Option<NoRetry>,
}

impl<'p> Attempts<'p> {
    /// The attempts of this request under the rule's policy. `deadline` is when the caller's time is over.
    pub fn new(policy: &'p RetryPolicy, request: &Parts, deadline: Option<Instant>) -> Self {
        let idempotent =
            policy.methods.contains(&request.method) || request.headers.contains_key("idempotency-key");
        Self { policy, idempotent, deadline, retries: 0, tried: Vec::new(), forbidden: None }
    }

    /// No more attempts, whatever the rule says: retries at several hops would multiply.
    pub fn forbid(&mut self, why: NoRetry) {
        self.forbidden = Some(why);
    }

    /// How many retries were granted so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The endpoints that failed so far, for [`crate::cluster::Cluster::pick`] to avoid.
    pub fn tried(&self) -> &[SocketAddr] {
        &self.tried
    }

    /// Remembers an endpoint that an attempt failed at.
    pub fn failed_at(&mut self, endpoint: SocketAddr) {
        if !self.tried.contains(&endpoint) {
            self.tried.push(endpoint);
        }
    }

    /// Whether another attempt could be wanted at all: if not, no body needs to be kept for replay.
    pub fn may_retry(&self) -> bool {
        self.forbidden.is_none() && self.retries < self.policy.attempts
    }

    /// Decides about another attempt: how long to wait before it, or why there is none. A token of the
    /// budget is taken exactly when there is one.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn after(
        &mut self,
        ended: Ended<'_>,
        body_replayable: bool,
        now: Instant,
        budget: &Budget,
    ) -> Result<Duration, NoRetry> {
        let safe_for_any = match self.wanted(ended) {
            Wanted::No => return Err(NoRetry::NotWanted),
            Wanted::AnyMethod => true,
            Wanted::IdempotentOnly => false,
        };
        if !safe_for_any && !self.idempotent {
            return Err(NoRetry::NotIdempotent);
        }
        if let Some(why) = self.forbidden {
            return Err(why);
        }
        if !self.may_retry() {
            return Err(NoRetry::AttemptsSpent);
        }
        if !body_replayable {
            return Err(NoRetry::BodyNotReplayable);
        }
        let wait = self.backoff();
        if self.deadline.is_some_and(|deadline| now + wait >= deadline) {
            return Err(NoRetry::DeadlineTooShort);
        }
        if !budget.withdraw(now) {
            return Err(NoRetry::BudgetSpent);
        }
        self.retries += 1;
        Ok(wait)
    }

    fn wanted(&self, ended: Ended<'_>) -> Wanted {
        if self.policy.attempts == 0 {
            return Wanted::No;
        }
        match ended {
            Ended::Failed(failure) => self.wanted_after_failure(failure),
            Ended::Answered(status, grpc) => self.wanted_after_answer(status, grpc),
        }
    }

    fn wanted_after_failure(&self, failure: &Failure) -> Wanted {
        use Condition::{ConnectFailure, RefusedStream, Reset, ResetBeforeRequest, ResetOnReuse, Timeout};
        if failure.at != At::Upstream {
            return Wanted::No; // The caller's fault, or ours: a second try would end the same way.
        }
        let sent = failure.request_sent;
        let asked = match failure.kind {
            Kind::Connect => self.asks(&[ConnectFailure]),
            // A remote sidecar whose application is down refuses the stream: to the caller, no connection.
            Kind::Refused => self.asks(&[RefusedStream, ConnectFailure]),
            Kind::Reset | Kind::Protocol if !sent => self.asks(&[ResetBeforeRequest, Reset]),
            Kind::Reset if failure.reused => self.asks(&[ResetOnReuse, Reset]),
            Kind::Reset | Kind::Protocol => self.asks(&[Reset]),
            Kind::Timeout => self.asks(&[Timeout]),
            Kind::NoRoute
            | Kind::BadBackend
            | Kind::NoEndpoint
            | Kind::Overflow
            | Kind::RateLimited
            | Kind::BadRequest
            | Kind::HeadTooLarge
            | Kind::HeadTimeout
            | Kind::Gone => false,
        };
        match (asked, failure.provably_unprocessed()) {
            (false, _) => Wanted::No,
            (true, true) => Wanted::AnyMethod,
            (true, false) => Wanted::IdempotentOnly,
        }
    }

    fn wanted_after_answer(&self, status: StatusCode, grpc: Option<u32>) -> Wanted {
        if grpc.is_some_and(|code| self.policy.grpc_codes.contains(&code)) {
            return Wanted::AnyMethod;
        }
        let gateway = matches!(status.as_u16(), 502..=504) && self.asks(&[Condition::GatewayError]);
        if gateway || self.policy.codes.contains(&status) { Wanted::IdempotentOnly } else { Wanted::No }
    }

    fn asks(&self, any: &[Condition]) -> bool {
        self.policy.conditions.iter().any(|condition| any.contains(condition))
    }

    /// Exponential with full jitter, as Envoy has it: before the n-th retry a random time below
    /// (2^n - 1) times the base, and never above the longest wait.
    fn backoff(&self) -> Duration {
        let doublings = self.retries.saturating_add(1).min(31);
        let longest = self.policy.backoff.saturating_mul((1 << doublings) - 1).min(self.policy.max_backoff);
        longest.mul_f64(fastrand::f64())
    }
}

/// Whether the rule asks for a retry, and for which requests.
enum Wanted {
    No,
    AnyMethod,
    IdempotentOnly,
}

#[cfg(test)]
mod tests;
