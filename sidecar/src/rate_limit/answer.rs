//! What a caller is told about its limits.
//!
//! `RateLimit-Limit` is the most that the bucket admits at once (`burst`, or `requests` of a FixedWindow),
//! `RateLimit-Remaining` what it would admit now, `RateLimit-Reset` the time until it is full again, and
//! `Retry-After` the time until it admits one request; times in whole seconds, rounded up. With several
//! limits it is the tightest that speaks: the one with the least left, of a refused request the one that
//! refuses longest. An admitted request's answer carries the three `RateLimit-*` as well, unless the
//! application has its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::Charge;
use super::bucket::Verdict;
use crate::decimal;
use crate::matcher::is_grpc;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It goes to the application; with limits in force, its answer tells how much is left.
    Admit(Option<Quota>),
    /// It is answered here.
    Refuse(Box<Refusal>),
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
    /// Whether the caller speaks gRPC.
    pub grpc: bool,
    response: super::policy::Response,
}

/// Makes one answer of what all the limits said.
pub(super) fn tightest(charges: &[Charge<'_>], verdicts: &[Verdict], request: &Parts) -> Decision {
    let said = || charges.iter().zip(verdicts);
    let refusing = said().filter_map(|(charge, verdict)| Some((charge, verdict, verdict.wait?)));
    if let Some((charge, verdict, wait)) = refusing.max_by_key(|(_, _, wait)| *wait) {
        return Decision::Refuse(Box::new(Refusal {
            policy: Arc::clone(&charge.limit.policy),
            limit: Arc::clone(&charge.limit.name),
            quota: Quota::new(charge, verdict),
            retry_after: whole_seconds(wait),
            grpc: is_grpc(&request.headers),
            response: charge.policy.response.clone(),
        }));
    }
    let least = said().min_by_key(|(_, verdict)| (verdict.remaining, std::cmp::Reverse(verdict.full_in)));
    Decision::Admit(least.map(|(charge, verdict)| Quota::new(charge, verdict)))
}

impl Quota {
    fn new(charge: &Charge<'_>, verdict: &Verdict) -> Self {
        Self {
            limit: charge.limit.shape.most(),
            remaining: verdict.remaining,
            reset: whole_seconds(verdict.full_in),
        }
    }

    /// Sets `RateLimit-Limit`, `-Remaining` and `-Reset` on an application's answer that has none of them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if ![LIMIT, REMAINING, RESET].iter().any(|name| headers.contains_key(name)) {
            self.set(headers);
        }
    }

    fn set(&self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, decimal::header(self.limit));
        headers.insert(REMAINING, decimal::header(self.remaining));
        headers.insert(RESET, decimal::header(self.reset));
    }
}

impl Refusal {
    /// The answer. A gRPC call gets RESOURCE_EXHAUSTED in a header block that is its trailers as well; the
    /// policy's status, body and headers are for HTTP.
    pub fn into_response(self) -> Response<Bytes> {
        let mut response = if self.grpc {
            let mut response = Response::new(Bytes::new());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("8"));
            headers.insert("grpc-message", HeaderValue::from_static("rate limit exceeded"));
            response
        } else {
            let mut response = Response::new(self.response.body);
            *response.status_mut() = self.response.status;
            *response.headers_mut() = self.response.headers;
            response
        };
        self.quota.set(response.headers_mut());
        response.headers_mut().insert(RETRY_AFTER, self.retry_after.into());
        response
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
