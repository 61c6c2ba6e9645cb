//! `RetryPolicy`: when, how often and after how long a request is sent again.
//!
//! With our metadata the conditions, codes and methods are taken from it, and `retry_on` is for Envoy alone
//! (there the rule is sent several times, for what only idempotent requests may have). Without it
//! `retry_on` is mapped, with one deliberate difference: what may have been processed is sent again only
//! for idempotent methods, whatever Envoy would do.
//!
//! Ignored: host predicates and `host_selection_retry_max_attempts` (a retry always goes to another
//! endpoint), `retry_priority`, `rate_limited_retry_back_off`, `refresh_cluster_on_retry`.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::RetryPolicy as EnvoyPolicy;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::first_lack;
use crate::retry::{Condition, RetryPolicy};
use crate::xds::decode::{Rejection, duration, limit};

/// Envoy's default, and how much longer the longest wait is than the first.
const BACKOFF: Duration = Duration::from_millis(25);
const MAX_BACKOFF_FACTOR: u32 = 10;

/// The retries of a rule as its author wrote them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OurRetry {
    #[serde(default)]
    conditions: Vec<OurCondition>,
    #[serde(default)]
    codes: Vec<u16>,
    #[serde(default)]
    grpc_codes: Vec<u32>,
    methods: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum OurCondition {
    ConnectFailure,
    RefusedStream,
    ResetBeforeRequest,
    ResetOnReuse,
    Reset,
    Timeout,
    GatewayError,
}

/// Decodes the policy, and the limit of one attempt that stands in it.
pub(super) fn decode(
    policy: Option<&EnvoyPolicy>,
    ours: Option<&OurRetry>,
) -> Result<(RetryPolicy, Option<Duration>), Rejection> {
    let Some(policy) = policy else {
        return match ours {
            None => Ok((RetryPolicy::never(), None)),
            Some(_) => Err(Rejection::new("there is metadata `retry`, but no retry_policy")),
        };
    };
    one(policy, ours).map_err(|error| error.within("retry_policy"))
}

fn one(policy: &EnvoyPolicy, ours: Option<&OurRetry>) -> Result<(RetryPolicy, Option<Duration>), Rejection> {
    first_lack(&[
        (policy.per_try_idle_timeout.is_some(), "per_try_idle_timeout", "use `per_try_timeout`"),
        (!policy.retriable_headers.is_empty(), "retriable_headers", "use `retriable_status_codes`"),
        (!policy.retriable_request_headers.is_empty(), "retriable_request_headers", "use a route of its own"),
        (!policy.retry_options_predicates.is_empty(), "retry_options_predicates", "retries are all alike"),
    ])?;
    let back_off = policy.retry_back_off.unwrap_or_default();
    let backoff = limit("retry_back_off.base_interval", back_off.base_interval)?.unwrap_or(BACKOFF);
    let max_backoff = match back_off.max_interval {
        Some(interval) => duration("retry_back_off.max_interval", interval)?.max(backoff),
        None => backoff.saturating_mul(MAX_BACKOFF_FACTOR),
    };
    let mut retry = RetryPolicy {
        attempts: policy.num_retries.map_or(1, |count| count.value), // Envoy's default.
        conditions: Vec::new(),
        codes: Vec::new(),
        grpc_codes: Vec::new(),
        methods: RetryPolicy::idempotent_methods(),
        backoff,
        max_backoff,
    };
    match ours {
        Some(ours) => ours.fill(&mut retry)?,
        None => fill_from_retry_on(policy, &mut retry)?,
    }
    Ok((retry, limit("per_try_timeout", policy.per_try_timeout)?))
}

impl OurRetry {
    fn fill(&self, retry: &mut RetryPolicy) -> Result<(), Rejection> {
        retry.conditions = self.conditions.iter().map(|condition| (*condition).into()).collect();
        for code in &self.codes {
            retry.codes.push(status(u32::from(*code))?);
        }
        retry.grpc_codes.clone_from(&self.grpc_codes);
        if let Some(methods) = &self.methods {
            let parsed = methods.iter().map(|method| {
                Method::from_bytes(method.as_bytes())
                    .map_err(|_| Rejection::new(format!("{method:?} is no method")))
            });
            retry.methods = parsed.collect::<Result<_, _>>()?;
        }
        Ok(())
    }
}

fn status(code: u32) -> Result<StatusCode, Rejection> {
    let code = u16::try_from(code).ok().filter(|code| (100..600).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Rejection::new("a status code is unknown"))
}

fn fill_from_retry_on(policy: &EnvoyPolicy, retry: &mut RetryPolicy) -> Result<(), Rejection> {
    /// Envoy counts every end of a stream without an answer among these.
    const NO_ANSWER: [Condition; 6] = [
        Condition::ConnectFailure,
        Condition::RefusedStream,
        Condition::ResetBeforeRequest,
        Condition::ResetOnReuse,
        Condition::Reset,
        Condition::Timeout,
    ];
    for word in policy.retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word {
            "connect-failure" => retry.conditions.push(Condition::ConnectFailure),
            "refused-stream" => retry.conditions.push(Condition::RefusedStream),
            "reset-before-request" => retry.conditions.push(Condition::ResetBeforeRequest),
            "reset" => retry.conditions.extend(NO_ANSWER),
            "gateway-error" => {
                retry.conditions.extend(NO_ANSWER);
                retry.conditions.push(Condition::GatewayError);
            }
            "5xx" => {
                retry.conditions.extend(NO_ANSWER);
                for code in 500..600 {
                    retry.codes.push(status(code)?);
                }
            }
            "retriable-4xx" => retry.codes.push(StatusCode::CONFLICT),
            "retriable-status-codes" => {
                for code in &policy.retriable_status_codes {
                    retry.codes.push(status(*code)?);
                }
            }
            "cancelled" => retry.grpc_codes.push(1),
            "deadline-exceeded" => retry.grpc_codes.push(4),
            "resource-exhausted" => retry.grpc_codes.push(8),
            "internal" => retry.grpc_codes.push(13),
            "unavailable" => retry.grpc_codes.push(14),
            "http3-post-connect-failure" => {} // There is no HTTP/3.
            other => {
                let what = format!("retry_on {other:?}");
                return Err(Rejection::unsupported(&what, "leave it out"));
            }
        }
    }
    let mut seen = Vec::new();
    retry.conditions.retain(|condition| {
        !seen.contains(condition) && {
            seen.push(*condition);
            true
        }
    });
    Ok(())
}

impl From<OurCondition> for Condition {
    fn from(condition: OurCondition) -> Self {
        match condition {
            OurCondition::ConnectFailure => Self::ConnectFailure,
            OurCondition::RefusedStream => Self::RefusedStream,
            OurCondition::ResetBeforeRequest => Self::ResetBeforeRequest,
            OurCondition::ResetOnReuse => Self::ResetOnReuse,
            OurCondition::Reset => Self::Reset,
            OurCondition::Timeout => Self::Timeout,
            OurCondition::GatewayError => Self::GatewayError,
        }
    }
}
