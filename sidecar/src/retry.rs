//! When a request may be sent again, how often, and after how long.

use std::time::Duration;

/// What a rule says about retries. `attempts` 0: never.
#[derive(Debug, Clone)]
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

/// `retryConstraint`: one a Service and sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetSettings {
    /// Retries per hundred requests in the interval.
    pub percent: f64,
    /// The window.
    pub interval: Duration,
    /// Retries allowed whatever the percentage says...
    pub min_retries: u32,
    /// ...in each of these.
    pub min_retries_interval: Duration,
}
