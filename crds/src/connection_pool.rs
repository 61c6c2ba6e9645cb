//! How endpoints are chosen, and how many connections and requests they get.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GatewayDuration, within};

/// How an endpoint is chosen for a request.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// LeastRequest (the default): of two taken at random the one with fewer requests in flight.
    /// RoundRobin: one after the other. Random: any.
    #[serde(default, rename = "type")]
    pub kind: LoadBalancerType,
}

/// How an endpoint is chosen.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[schemars(inline)]
pub enum LoadBalancerType {
    /// Of two taken at random the one with fewer requests in flight.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// Limits to one Service port, exact in each sidecar. What is not set has no limit; that is not the same
/// as 0.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPool {
    /// Connections to all endpoints together. At least 1. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection; one more is answered with 503 (flag UO) at once. 0: none waits.
    /// Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// How long a request waits for a connection before it is answered with 503 (flag UO). Default: 3s.
    #[serde(default = "pending_timeout")]
    #[x_kube(validation = within(
        "1ms", None, "pendingTimeout must be at least 1ms: write maxPendingRequests: 0 when no request shall wait"
    ))]
    pub pending_timeout: GatewayDuration,
    /// Requests in flight; one more is answered with 503 (flag UO). At least 1. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests: Option<u32>,
    /// Requests that one connection carries before it is closed. 1 switches keep-alive off. At least 1.
    /// Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests_per_connection: Option<u32>,
    /// How long it may take to open a connection. Default: 1s.
    #[serde(default = "connect_timeout")]
    #[x_kube(validation = within("1ms", None, "connectTimeout must be at least 1ms"))]
    pub connect_timeout: GatewayDuration,
    /// How long a connection without a request is kept. Default: 90s.
    #[serde(default = "idle_timeout")]
    #[x_kube(validation = within(
        "1ms", None, "idleTimeout must be at least 1ms: write maxRequestsPerConnection: 1 to keep no connection"
    ))]
    pub idle_timeout: GatewayDuration,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_pending_requests: None,
            pending_timeout: pending_timeout(),
            max_requests: None,
            max_requests_per_connection: None,
            connect_timeout: connect_timeout(),
            idle_timeout: idle_timeout(),
        }
    }
}

fn pending_timeout() -> GatewayDuration {
    GatewayDuration::seconds(3)
}

fn connect_timeout() -> GatewayDuration {
    GatewayDuration::seconds(1)
}

fn idle_timeout() -> GatewayDuration {
    GatewayDuration::seconds(90)
}
