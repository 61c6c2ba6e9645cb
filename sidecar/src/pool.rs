//! Connections to the endpoints of one Service port: opened, kept, shared, limited.
//!
//! One pool a Service port and sidecar, used by all workers, so that its limits are exact.

use std::time::Duration;

pub mod admission;

/// ServiceRoute's `connectionPool`; none is no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// Open connections of this sidecar to the whole Service port.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection; 0 never queues.
    pub max_pending_requests: Option<u32>,
    /// How long a request waits.
    pub pending_timeout: Duration,
    /// Requests in flight.
    pub max_requests: Option<u32>,
    /// 1 switches keep-alive off.
    pub max_requests_per_connection: Option<u32>,
    /// For the TCP handshake.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Pool {}
