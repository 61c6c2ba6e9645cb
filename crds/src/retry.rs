//! When a request is sent again, and how much of that a Service may get.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GatewayDuration, not_longer, within};
use crate::route_match::HttpMethod;

/// Retries of one rule. A rule without it has the defaults: two attempts more, provably safe ones only.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = not_longer(
    "backoff", "maxBackoff", false,
    "maxBackoff must not be shorter than backoff (backoff is 25ms, maxBackoff 250ms unless set)"
))]
pub struct Retry {
    /// How often a request is sent again at most, besides the first time, each time to another endpoint
    /// while there is one. 0 switches retries off. Default: 2.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: u32,
    /// After which failures. ConnectFailure: no connection. RefusedStream: the server says that it did not
    /// begin. ResetBeforeRequest: the connection ended before a byte of the request was written. These are
    /// safe for any method. For idempotent requests only: ResetOnReuse: a connection that had served before
    /// ended before the answer. Reset: any connection ended before the answer. Timeout: the attempt took
    /// longer than backendRequest. GatewayError: 502, 503 or 504. Default: ConnectFailure, RefusedStream,
    /// ResetBeforeRequest, ResetOnReuse.
    #[serde(default = "safe_conditions")]
    #[schemars(length(max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub conditions: Vec<RetryCondition>,
    /// After which statuses, 400 to 599; idempotent requests only. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 400, max = 599)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub codes: Vec<u16>,
    /// After which gRPC statuses, by name (UNAVAILABLE). `methods` does not apply to gRPC: naming a status
    /// says that it is safe. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub grpc_codes: Vec<GrpcCode>,
    /// Which methods count as idempotent; a request with the header Idempotency-Key does too. Default: GET,
    /// HEAD, OPTIONS, PUT, DELETE, TRACE.
    #[serde(default = "idempotent_methods")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Vec<HttpMethod>,
    /// Wait before the first retry at most; it doubles each time, and a random part of it is waited.
    /// Default: 25ms.
    #[serde(default = "backoff")]
    #[x_kube(validation = within("1ms", None, "backoff must be at least 1ms"))]
    pub backoff: GatewayDuration,
    /// The longest wait. Default: 250ms.
    #[serde(default = "max_backoff")]
    #[x_kube(validation = within("1ms", None, "maxBackoff must be at least 1ms"))]
    pub max_backoff: GatewayDuration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: two(),
            conditions: safe_conditions(),
            codes: Vec::new(),
            grpc_codes: Vec::new(),
            methods: idempotent_methods(),
            backoff: backoff(),
            max_backoff: max_backoff(),
        }
    }
}

fn two() -> u32 {
    2
}

fn safe_conditions() -> Vec<RetryCondition> {
    use RetryCondition::{ConnectFailure, RefusedStream, ResetBeforeRequest, ResetOnReuse};
    vec![ConnectFailure, RefusedStream, ResetBeforeRequest, ResetOnReuse]
}

fn idempotent_methods() -> Vec<HttpMethod> {
    use HttpMethod::{Delete, Get, Head, Options, Put, Trace};
    vec![Get, Head, Options, Put, Delete, Trace]
}

fn backoff() -> GatewayDuration {
    GatewayDuration::millis(25)
}

fn max_backoff() -> GatewayDuration {
    GatewayDuration::millis(250)
}

/// A failure after which a request may be sent again.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
pub enum RetryCondition {
    /// No connection.
    ConnectFailure,
    /// The server says that it did not begin: REFUSED_STREAM, or GOAWAY with a lower id.
    RefusedStream,
    /// The connection ended before a byte of the request was written.
    ResetBeforeRequest,
    /// A connection that had served before ended before the answer; idempotent requests only.
    ResetOnReuse,
    /// The connection ended before the answer; idempotent requests only.
    Reset,
    /// The attempt took longer than `backendRequest`; idempotent requests only.
    Timeout,
    /// 502, 503 or 504; idempotent requests only.
    GatewayError,
}

impl RetryCondition {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailure => "ConnectFailure",
            Self::RefusedStream => "RefusedStream",
            Self::ResetBeforeRequest => "ResetBeforeRequest",
            Self::ResetOnReuse => "ResetOnReuse",
            Self::Reset => "Reset",
            Self::Timeout => "Timeout",
            Self::GatewayError => "GatewayError",
        }
    }

    /// Whether only idempotent requests may be sent again after it: they may have been processed.
    #[must_use]
    pub fn needs_idempotence(self) -> bool {
        matches!(self, Self::ResetOnReuse | Self::Reset | Self::Timeout | Self::GatewayError)
    }
}

/// A gRPC status other than OK.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schemars(inline)]
#[repr(u32)]
pub enum GrpcCode {
    /// 1.
    Cancelled = 1,
    /// 2.
    Unknown = 2,
    /// 3.
    InvalidArgument = 3,
    /// 4.
    DeadlineExceeded = 4,
    /// 5.
    NotFound = 5,
    /// 6.
    AlreadyExists = 6,
    /// 7.
    PermissionDenied = 7,
    /// 8.
    ResourceExhausted = 8,
    /// 9.
    FailedPrecondition = 9,
    /// 10.
    Aborted = 10,
    /// 11.
    OutOfRange = 11,
    /// 12.
    Unimplemented = 12,
    /// 13.
    Internal = 13,
    /// 14.
    Unavailable = 14,
    /// 15.
    DataLoss = 15,
    /// 16.
    Unauthenticated = 16,
}

impl GrpcCode {
    /// As in the trailer `grpc-status`.
    #[must_use]
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// How many retries a Service may get, over all rules that lead to it, in each sidecar: `budget` of its
/// requests, and `minRetryRate` whatever the budget says.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RetryConstraint {
    /// Share of the requests. Default: 20 percent over 10s.
    #[serde(default)]
    pub budget: RetryBudget,
    /// Retries that are always allowed. Default: 10 in 1s.
    #[serde(default)]
    pub min_retry_rate: RetryRate,
}

/// Retries per hundred requests.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Retries per hundred requests of the interval, 0 to 100. 0: only what minRetryRate allows.
    /// Default: 20.
    #[serde(default = "twenty")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// Over how long requests are counted, 1s to 1h. Default: 10s.
    #[serde(default = "budget_interval")]
    #[x_kube(validation = within("1s", Some("1h"), "interval must be from 1s to 1h"))]
    pub interval: GatewayDuration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: twenty(), interval: budget_interval() }
    }
}

fn twenty() -> u32 {
    20
}

fn budget_interval() -> GatewayDuration {
    GatewayDuration::seconds(10)
}

/// So many retries in so long.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetryRate {
    /// How many. 0: none beyond the budget. Default: 10.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub count: u32,
    /// In how long, 1s to 1h. Default: 1s.
    #[serde(default = "rate_interval")]
    #[x_kube(validation = within("1s", Some("1h"), "interval must be from 1s to 1h"))]
    pub interval: GatewayDuration,
}

impl Default for RetryRate {
    fn default() -> Self {
        Self { count: ten(), interval: rate_interval() }
    }
}

fn ten() -> u32 {
    10
}

fn rate_interval() -> GatewayDuration {
    GatewayDuration::seconds(1)
}
