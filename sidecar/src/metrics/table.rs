//! What there is to read at `/metrics`: the table that metrics are registered and written by, and of which
//! docs/reference/metrics.md is made. Tests hold it equal to what is exported.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// Without the `_total` of a counter.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, each with its values.
    pub labels: &'static [(&'static str, &'static str)],
    /// What it tells.
    pub help: &'static str,
}

const DIRECTION: (&str, &str) = ("direction", "`outbound`, `inbound`");
const SERVICE: (&str, &str) = ("service", "`shop/reviews:9080`");
const RULE: (&str, &str) = ("rule", "`shop/reviews#canary`, or `-`");
const POLICY: (&str, &str) = ("policy", "`shop/orders`");
const LIMIT: (&str, &str) = ("limit", "its name in the policy");
const OF_A_RULE: &[(&str, &str)] = &[DIRECTION, SERVICE, RULE];
const OF_A_LIMIT: &[(&str, &str)] = &[SERVICE, POLICY, LIMIT];
const FLAG: (&str, &str) = ("flag", "`-`, or a [response flag](../troubleshooting.md#response-flags)");
const CODE: (&str, &str) = ("code", "`2xx` and so on; `none`: the caller left before");
const SKIPPED: (&str, &str) = (
    "reason",
    "`not_idempotent`, `attempts_spent`, `body_not_replayable`, `deadline_too_short`, `budget_spent`, \
     `below_a_retry`, `spent_below`",
);
const PROTOCOL: (&str, &str) = (
    "protocol",
    "`http1`, `http2`, `opaque`, `passthrough`, `refused`: no request, `surplus`: closed at once, for too many were open",
);
const PASSED: (&str, &str) = (
    "reason",
    "`unknown`: the operator knows no such Service, `awaited`: it has not answered in time, `disconnected`: there \
     is no stream to it, `full`: too many destinations are in use",
);
const EJECTION: (&str, &str) =
    ("kind", "`ejected`, `returned`, `prevented`, `failed_probe`, `shadow`: would have been ejected");

/// All of them.
pub const METRICS: &[Described] = &[
    counter("fairlead_requests", &[DIRECTION, SERVICE, RULE, CODE, FLAG], "Requests that have ended"),
    histogram(
        "fairlead_request_duration_seconds",
        OF_A_RULE,
        "First byte of the request to last byte of the answer",
    ),
    histogram(
        "fairlead_upstream_duration_seconds",
        OF_A_RULE,
        "The last attempt, from sending to the head of the answer",
    ),
    histogram(
        "fairlead_proxy_duration_seconds",
        OF_A_RULE,
        "What the proxy added until the head of the answer: its work, waiting, earlier attempts",
    ),
    counter("fairlead_retries", &[SERVICE, RULE], "Attempts after the first"),
    counter(
        "fairlead_retries_skipped",
        &[SERVICE, RULE, SKIPPED],
        "Retries that the rule asks for and that were not made",
    ),
    counter("fairlead_connections_accepted", &[DIRECTION, PROTOCOL], "Callers' connections"),
    gauge("fairlead_connections", &[DIRECTION], "Callers' connections that are open"),
    counter(
        "fairlead_opaque_bytes",
        &[DIRECTION, SERVICE, ("to", "`upstream`, `caller`")],
        "Bytes carried without looking",
    ),
    counter(
        "fairlead_passthrough_connections",
        &[PASSED],
        "Connections carried to the address that the application dialled",
    ),
    counter(
        "fairlead_on_demand_holds",
        &[DIRECTION, ("outcome", "`answered`, `timeout`, `disconnected`")],
        "Connections that waited for the first configuration of their destination",
    ),
    histogram("fairlead_on_demand_hold_seconds", &[DIRECTION], "How long they waited"),
    gauge("fairlead_pool_connections", &[SERVICE, ("state", "`open`, `idle`")], "Connections to endpoints"),
    gauge("fairlead_pool_pending", &[SERVICE], "Requests that wait for a connection"),
    gauge("fairlead_pool_requests", &[SERVICE], "Requests in flight"),
    gauge(
        "fairlead_endpoints",
        &[SERVICE, ("state", "`in`, `out`: ejected or unhealthy")],
        "Endpoints in and out of rotation",
    ),
    counter("fairlead_ejections", &[SERVICE, EJECTION], "What outlier detection did to endpoints"),
    counter(
        "fairlead_rate_limit_requests",
        &[SERVICE, POLICY, LIMIT, ("decision", "`admitted`, `refused`, `would_refuse`")],
        "Requests that a limit let in, refused, or would have refused",
    ),
    gauge("fairlead_rate_limit_keys", OF_A_LIMIT, "Keys with a bucket of their own"),
    counter(
        "fairlead_rate_limit_overflowed",
        OF_A_LIMIT,
        "Requests whose key found no room and shared a bucket",
    ),
    gauge("fairlead_xds_connected", &[], "1: the stream to the operator is open"),
    gauge("fairlead_xds_config_age_seconds", &[], "Since the last response of the operator was applied"),
    counter("fairlead_xds_responses", &[], "Responses of the operator that were applied"),
    counter("fairlead_xds_nacks", &[], "Responses with something that was refused"),
    counter("fairlead_xds_failures", &[], "Streams that ended or could not be opened"),
    gauge(
        "fairlead_xds_listeners",
        &[("state", "`in_force`, `absent`, `awaited`")],
        "What the operator is asked for",
    ),
    gauge("fairlead_draining", &[], "1: the proxy is leaving"),
    gauge(
        "fairlead_capture_verified",
        &[DIRECTION],
        "1: the rules that redirect traffic were seen to work; only where traffic is captured",
    ),
    gauge(
        "fairlead_started_without_config",
        &[],
        "1: the pod went to work before the operator had answered; only where traffic is captured",
    ),
];

/// What the metric tells.
pub(super) fn help(name: &str) -> &'static str {
    described(name).help
}

/// Begins a metric that is read when the page is asked for.
pub fn begin<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    let described = described(name);
    let kind = if described.kind == "counter" { MetricType::Counter } else { MetricType::Gauge };
    encoder.encode_descriptor(described.name, described.help, None, kind)
}

fn described(name: &str) -> &'static Described {
    METRICS.iter().find(|described| described.name == name).expect("every metric is in the table")
}

type Labels = &'static [(&'static str, &'static str)];

const fn counter(name: &'static str, labels: Labels, help: &'static str) -> Described {
    Described { name, kind: "counter", labels, help }
}

const fn gauge(name: &'static str, labels: Labels, help: &'static str) -> Described {
    Described { name, kind: "gauge", labels, help }
}

const fn histogram(name: &'static str, labels: Labels, help: &'static str) -> Described {
    Described { name, kind: "histogram", labels, help }
}
