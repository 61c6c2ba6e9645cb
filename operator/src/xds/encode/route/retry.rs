//! Retries, as far as Envoy can be told.
//!
//! Envoy does not know which requests are idempotent. Where a rule asks for retries that only those may have,
//! its routes stand three times: for the methods that count as idempotent, for requests with an
//! `Idempotency-Key`, and for the rest, with what is safe for any request. (`retriable_request_headers` would
//! need one route only, but forbid the safe retries of a POST.)

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, retry_host_predicate,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RetryPolicy, header_matcher};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::util::pack_any;
use fairlead_crds::{GrpcCode, HttpMethod, Retry, RetryCondition, ValueMatchType};
use serde_json::{Value as Json, json};

use super::{count, duration, header, value};

/// How often Envoy looks for an endpoint that was not tried before it takes any.
const OTHER_HOST_ATTEMPTS: i64 = 5;

/// The requests of a rule that have the same retries.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// A condition on the request besides the rule's own.
    pub only_for: Option<HeaderMatcher>,
    idempotent: bool,
}

/// In the order in which they must stand.
pub fn variants(retry: &Retry, method: Option<HttpMethod>, forwards: bool) -> Vec<Variant> {
    let all = |idempotent| vec![Variant { only_for: None, idempotent }];
    if !forwards || retry.attempts == 0 || retry_on(retry, true) == retry_on(retry, false) {
        return all(false);
    }
    if method.is_some_and(|method| retry.methods.contains(&method)) {
        return all(true);
    }
    let with_key = HeaderMatcher {
        name: "idempotency-key".to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    };
    let mut variants = Vec::new();
    if method.is_none() && !retry.methods.is_empty() {
        let methods: Vec<_> = retry.methods.iter().map(|method| method.as_str()).collect();
        let methods = header(":method", value(ValueMatchType::RegularExpression, &methods.join("|")));
        variants.push(Variant { only_for: Some(methods), idempotent: true });
    }
    variants.push(Variant { only_for: Some(with_key), idempotent: true });
    variants.push(Variant { only_for: None, idempotent: false });
    variants
}

impl Variant {
    /// None: never.
    pub fn policy(&self, retry: &Retry, attempt: Option<Duration>) -> Option<RetryPolicy> {
        if retry.attempts == 0 {
            return None;
        }
        let by_status = self.idempotent && !retry.codes.is_empty();
        let codes = retry.codes.iter().filter(|_| by_status);
        Some(RetryPolicy {
            retry_on: retry_on(retry, self.idempotent).join(","),
            num_retries: Some(count(retry.attempts)),
            per_try_timeout: attempt.map(duration),
            retriable_status_codes: codes.map(|code| u32::from(*code)).collect(),
            retry_back_off: Some(RetryBackOff {
                base_interval: Some(duration(retry.backoff.get())),
                max_interval: Some(duration(retry.max_backoff.get().max(retry.backoff.get()))),
            }),
            retry_host_predicate: vec![RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
                config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack_any(
                    PreviousHostsPredicate::default(),
                ))),
            }],
            host_selection_retry_max_attempts: OTHER_HOST_ATTEMPTS,
            ..Default::default()
        })
    }
}

/// Envoy's words. It cannot tell a reused connection from a new one, so ResetOnReuse is left to the sidecar;
/// an attempt that took too long is a reset to it.
fn retry_on(retry: &Retry, idempotent: bool) -> Vec<&'static str> {
    let mut words = Vec::new();
    for condition in &retry.conditions {
        let word = match condition {
            RetryCondition::ConnectFailure => "connect-failure",
            RetryCondition::RefusedStream => "refused-stream",
            RetryCondition::ResetBeforeRequest => "reset-before-request",
            RetryCondition::ResetOnReuse => continue,
            RetryCondition::Reset | RetryCondition::Timeout => "reset",
            RetryCondition::GatewayError => "gateway-error",
        };
        if (idempotent || !condition.needs_idempotence()) && !words.contains(&word) {
            words.push(word);
        }
    }
    if idempotent && !retry.codes.is_empty() {
        words.push("retriable-status-codes");
    }
    words.extend(retry.grpc_codes.iter().filter_map(|code| match code {
        GrpcCode::Cancelled => Some("cancelled"),
        GrpcCode::DeadlineExceeded => Some("deadline-exceeded"),
        GrpcCode::Internal => Some("internal"),
        GrpcCode::ResourceExhausted => Some("resource-exhausted"),
        GrpcCode::Unavailable => Some("unavailable"),
        // Envoy and gRPC know the five above.
        _ => None,
    }));
    words
}

/// What was meant, for the sidecar.
pub fn metadata(retry: &Retry) -> Json {
    json!({
        "conditions": retry.conditions.iter().map(|condition| condition.as_str()).collect::<Vec<_>>(),
        "codes": retry.codes,
        "grpcCodes": retry.grpc_codes.iter().map(|code| code.number()).collect::<Vec<_>>(),
        "methods": retry.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>(),
    })
}
