//! Settings as JSON in the words of the three kinds, so that what is in force can be laid beside what was written.
//! Enums whose variants are those words are shown by their names.

use std::fmt::Debug;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::cluster::{BudgetSettings, OutlierSettings};
use crate::matcher::{PathMatcher, RouteMatcher, ValueMatcher};
use crate::pool::PoolSettings;
use crate::retry::RetryPolicy;
use crate::route::{Action, HeaderChanges, Redirect, Rewrite};

/// A variant that is called as the kinds call it.
pub fn word(variant: impl Debug) -> Value {
    format!("{variant:?}").into()
}

fn list<T: Debug>(variants: &[T]) -> Value {
    variants.iter().map(word).collect()
}

/// `2s`, `500ms`: as durations are written.
pub fn time(time: Duration) -> Value {
    let milliseconds = time.as_millis();
    let whole = milliseconds.is_multiple_of(1000);
    if whole { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }.into()
}

/// ServiceRoute's `connectionPool`; null: no limit.
pub fn pool(pool: &PoolSettings) -> Value {
    json!({
        "maxConnections": pool.max_connections,
        "maxPendingRequests": pool.max_pending_requests,
        "pendingTimeout": time(pool.pending_timeout),
        "maxRequests": pool.max_requests,
        "maxRequestsPerConnection": pool.max_requests_per_connection,
        "connectTimeout": time(pool.connect_timeout),
        "idleTimeout": pool.idle_timeout.map(time),
    })
}

/// ServiceRoute's `retryConstraint`.
pub fn budget(budget: &BudgetSettings) -> Value {
    json!({
        "budget": { "percent": budget.percent, "interval": time(budget.interval) },
        "minRetryRate": { "count": budget.min_retries, "interval": time(budget.min_retries_interval) },
    })
}

/// OutlierDetection's spec. `minHealthyPercent` is the cluster's, for Envoy has it there.
pub fn outlier(outlier: &OutlierSettings, min_healthy_percent: f64) -> Value {
    json!({
        "mode": if outlier.shadow { "Shadow" } else { "Enforce" },
        "consecutiveErrors": outlier.consecutive_errors,
        "errors": list(&outlier.errors),
        "ejection": {
            "baseTime": time(outlier.base_time),
            "maxTime": time(outlier.max_time),
            "maxPercent": outlier.max_percent,
            "minHealthyPercent": min_healthy_percent,
        },
        "recovery": { "probes": outlier.probes },
    })
}

/// A rule's `retry`.
pub fn retry(retry: &RetryPolicy) -> Value {
    json!({
        "attempts": retry.attempts,
        "conditions": list(&retry.conditions),
        "codes": retry.codes.iter().map(StatusCode::as_u16).collect::<Vec<_>>(),
        "grpcCodes": retry.grpc_codes,
        "methods": retry.methods.iter().map(Method::as_str).collect::<Vec<_>>(),
        "backoff": time(retry.backoff),
        "maxBackoff": time(retry.max_backoff),
    })
}

/// One item of a rule's `matches`.
pub fn matches(matcher: &RouteMatcher) -> Value {
    let (kind, path) = match &matcher.path {
        PathMatcher::Exact(path) => ("Exact", path.as_str()),
        PathMatcher::SegmentPrefix(path) => ("PathPrefix", path.as_str()),
        PathMatcher::Prefix(path) => ("Prefix", path.as_str()),
        PathMatcher::Regex(regex) => ("RegularExpression", regex.as_str()),
    };
    let mut shown = Map::new();
    shown.insert("path".to_owned(), json!({ "type": kind, "value": path }));
    let headers = matcher.headers.iter().map(|header| {
        let mut condition = value(&header.name.to_string(), &header.value);
        if header.invert {
            condition.insert("invert".to_owned(), true.into());
        }
        condition
    });
    let query = matcher.query.iter().map(|query| value(&query.name, &query.value));
    for (field, conditions) in
        [("headers", headers.collect::<Vec<_>>()), ("queryParams", query.collect::<Vec<_>>())]
    {
        if !conditions.is_empty() {
            shown.insert(field.to_owned(), conditions.into());
        }
    }
    if matcher.grpc {
        shown.insert("grpc".to_owned(), true.into());
    }
    shown.into()
}

fn value(name: &str, value: &ValueMatcher) -> Map<String, Value> {
    let (kind, value): (_, Value) = match value {
        ValueMatcher::Exact(value) => ("Exact", value.as_str().into()),
        ValueMatcher::Prefix(value) => ("Prefix", value.as_str().into()),
        ValueMatcher::Suffix(value) => ("Suffix", value.as_str().into()),
        ValueMatcher::Contains(value) => ("Contains", value.as_str().into()),
        ValueMatcher::Regex(regex) => ("RegularExpression", regex.as_str().into()),
        ValueMatcher::Present(present) => ("Present", (*present).into()),
    };
    [("name", name.into()), ("type", kind.into()), ("value", value)]
        .map(|(field, value)| (field.to_owned(), value))
        .into_iter()
        .collect()
}

/// A rule's filter that answers in place of a backend; null for one that forwards.
pub fn answer(action: &Action) -> Value {
    match action {
        Action::Forward { .. } => Value::Null,
        Action::Respond(response) => json!({ "directResponse": {
            "status": response.status.as_u16(),
            "body": String::from_utf8_lossy(&response.body),
        }}),
        Action::Redirect(redirect) => {
            let Redirect { status, scheme, host, port, path, prefix, strip_query } = redirect;
            json!({ "requestRedirect": {
                "statusCode": status.as_u16(),
                "scheme": scheme,
                "hostname": host,
                "port": port,
                "replaceFullPath": path,
                "replacePrefixMatch": prefix,
                "stripQuery": strip_query,
            }})
        }
    }
}

/// A rule's `urlRewrite`; null: none.
pub fn rewrite(rewrite: &Rewrite) -> Value {
    let Rewrite { prefix, path, regex, host } = rewrite;
    if prefix.is_none() && path.is_none() && regex.is_none() && host.is_none() {
        return Value::Null;
    }
    json!({
        "hostname": host.as_ref().map(text),
        "replacePrefixMatch": prefix,
        "replaceFullPath": path,
        "regex": regex.as_ref().map(|(regex, by)| json!({ "pattern": regex.as_str(), "substitution": by })),
    })
}

/// A rule's `requestHeaderModifier` or `responseHeaderModifier`; null: nothing is changed.
pub fn changes(changes: &HeaderChanges) -> Value {
    let HeaderChanges { remove, set, add } = changes;
    if remove.is_empty() && set.is_empty() && add.is_empty() {
        return Value::Null;
    }
    let pairs = |pairs: &[(HeaderName, HeaderValue)]| -> Value {
        pairs.iter().map(|(name, value)| json!({ "name": name.as_str(), "value": text(value) })).collect()
    };
    let remove: Vec<_> = remove.iter().map(HeaderName::as_str).collect();
    json!({ "set": pairs(set), "add": pairs(add), "remove": remove })
}

fn text(value: &HeaderValue) -> Value {
    String::from_utf8_lossy(value.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::OutlierError;
    use crate::matcher::{HeaderMatcher, whole_regex};
    use crate::retry::Condition;

    #[test]
    fn times_are_written_as_users_write_them() {
        for (milliseconds, written) in [(0, "0s"), (25, "25ms"), (1500, "1500ms"), (90_000, "90s")] {
            assert_eq!(time(Duration::from_millis(milliseconds)), written);
        }
    }

    #[test]
    fn settings_have_the_words_of_the_kinds() {
        let outlier_settings = OutlierSettings {
            shadow: true,
            consecutive_errors: 5,
            errors: vec![OutlierError::GatewayError, OutlierError::Reset],
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_percent: 10,
            probes: 1,
        };
        let expected = json!({
            "mode": "Shadow", "consecutiveErrors": 5, "errors": ["GatewayError", "Reset"],
            "ejection": {"baseTime": "30s", "maxTime": "300s", "maxPercent": 10, "minHealthyPercent": 50.0},
            "recovery": {"probes": 1},
        });
        assert_eq!(outlier(&outlier_settings, 50.0), expected);

        let policy = RetryPolicy {
            attempts: 2,
            conditions: vec![Condition::ResetOnReuse],
            codes: vec![http::StatusCode::BAD_GATEWAY],
            grpc_codes: vec![14],
            methods: vec![http::Method::GET],
            backoff: Duration::from_millis(25),
            max_backoff: Duration::from_millis(250),
        };
        let expected = json!({
            "attempts": 2, "conditions": ["ResetOnReuse"], "codes": [502], "grpcCodes": [14],
            "methods": ["GET"], "backoff": "25ms", "maxBackoff": "250ms",
        });
        assert_eq!(retry(&policy), expected);
    }

    #[test]
    fn a_match_shows_what_it_asks_for_and_no_more() {
        let mut matcher = RouteMatcher {
            path: PathMatcher::SegmentPrefix("/v2".to_owned()),
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        };
        assert_eq!(matches(&matcher), json!({"path": {"type": "PathPrefix", "value": "/v2"}}));
        let value = ValueMatcher::Regex(whole_regex("a|b").unwrap());
        matcher.headers.push(HeaderMatcher { name: "x".parse().unwrap(), value, invert: false });
        let shown = matches(&matcher);
        assert_eq!(shown["headers"][0]["type"], "RegularExpression", "{shown}");
        assert_eq!(changes(&HeaderChanges::default()), Value::Null);
        assert_eq!(rewrite(&Rewrite::default()), Value::Null);
    }
}
