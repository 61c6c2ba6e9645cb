//! How much is let in: the limits of the Services and rules that lead to this pod.
//!
//! Arrives as JSON in the metadata of the pod's `inbound/ADDRESS` listener; the words are
//! RateLimitPolicy's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response};

mod settings;

pub use settings::{
    HeaderSettings, InboundSettings, KeySettings, LimitSettings, MatchSettings, PathSettings, PolicySettings,
    ResponseSettings, ValueSettings,
};

/// The limits of one endpoint of this pod, with their buckets.
#[derive(Debug)]
pub struct RateLimiter {
    /// As received.
    pub settings: InboundSettings,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It goes to the application; with limits in force, its answer tells how much is left.
    Admit(Option<Quota>),
    /// It is answered here.
    Refuse(Refusal),
}

/// The state of the tightest limit, for the `RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// `RateLimit-Limit`.
    pub limit: u64,
    /// `RateLimit-Remaining`.
    pub remaining: u64,
    /// `RateLimit-Reset`: whole seconds, rounded up.
    pub reset: u64,
}

/// A request that is over a limit.
#[derive(Debug)]
pub struct Refusal {
    /// `shop/orders`.
    pub policy: Arc<str>,
    /// The name of the limit in its policy.
    pub limit: Arc<str>,
    /// What is left.
    pub quota: Quota,
    /// `Retry-After`: whole seconds, rounded up.
    pub retry_after: u64,
}

/// A limit that cannot be used, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{policy}, limit {limit}: {reason}")]
pub struct BadLimit {
    /// The policy.
    pub policy: String,
    /// The limit, or empty when it is about the whole policy.
    pub limit: String,
    /// What is wrong.
    pub reason: String,
}

impl InboundSettings {
    /// Whether all of it can be used; what cannot is skipped by [`RateLimiter::new`].
    ///
    /// # Errors
    /// The first part that cannot.
    pub fn check(&self) -> Result<(), BadLimit> {
        Ok(())
    }
}

impl RateLimiter {
    /// The limits in force; buckets of `previous` whose limit did not change stay as full as they are.
    pub fn new(settings: InboundSettings, _previous: Option<&RateLimiter>) -> Self {
        Self { settings }
    }

    /// Decides about a request and takes its tokens. `target` is what `x-fairlead-target` says.
    pub fn check(&self, _now: Instant, _target: Option<&str>, _request: &Parts, _peer: IpAddr) -> Decision {
        Decision::Admit(None)
    }
}

impl Quota {
    /// Sets `RateLimit-Limit`, `-Remaining` and `-Reset` on an answer that has none of its own.
    pub fn apply(&self, _headers: &mut HeaderMap) {}
}

impl Refusal {
    /// The answer; for a gRPC call RESOURCE_EXHAUSTED.
    pub fn into_response(self) -> Response<Bytes> {
        Response::new(Bytes::new())
    }
}
