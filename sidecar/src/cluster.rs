//! A Service port as the callee of this sidecar: its endpoints, who is picked, who is ejected, what is in
//! flight.
//!
//! Settings and the list of endpoints are immutable and replaced with the configuration; what counts
//! (in-flight requests, ejections, the pool, the retry budget) lives in objects that outlive the
//! replacement.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::retry::BudgetSettings;

/// An Envoy `Cluster`, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    /// The resource's name, `shop/reviews:9080`.
    pub name: Arc<str>,
    /// The name of its endpoints' resource: EDS `service_name`, or the cluster's name.
    pub endpoints: EndpointSource,
    /// How endpoints are picked.
    pub balance: Balance,
    /// Limits and times of its connections.
    pub pool: PoolSettings,
    /// None: nobody is ejected.
    pub outlier: Option<OutlierSettings>,
    /// Always on.
    pub budget: BudgetSettings,
    /// What is spoken to its endpoints.
    pub protocol: UpstreamProtocol,
    /// Envoy's `healthy_panic_threshold`, in percent: with fewer endpoints in, all are used.
    pub panic_threshold: f64,
}

/// Where the endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointSource {
    /// EDS, under this name.
    Eds(Arc<str>),
    /// In the cluster itself (`STATIC`).
    Inline(Vec<EndpointSettings>),
}

/// Envoy's `load_balancing_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Power of two choices by requests in flight.
    LeastRequest,
    /// Smooth weighted.
    RoundRobin,
    /// Uniform by weight.
    Random,
}

/// What is spoken to the endpoints of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the caller speaks.
    SameAsCaller,
}

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

/// OutlierDetection.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierSettings {
    /// Shadow: only counted and logged.
    pub shadow: bool,
    /// In a row, after which an endpoint is ejected.
    pub consecutive_errors: u32,
    /// What counts as an error.
    pub errors: Vec<OutlierError>,
    /// The first ejection; the n-th in a row lasts n times as long.
    pub base_time: Duration,
    /// The longest.
    pub max_time: Duration,
    /// Of all endpoints, at the most; at least one while another stays in.
    pub max_percent: u32,
    /// Real requests that a returning endpoint gets first.
    pub probes: u32,
}

/// What counts as an error of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutlierError {
    /// Any 5xx, or a gRPC status that maps to one.
    ServerError,
    /// 502, 503, 504, or a gRPC status that maps to one.
    GatewayError,
    /// No connection.
    ConnectFailure,
    /// No answer in time.
    Timeout,
    /// The connection ended too early.
    Reset,
}

/// One endpoint of a `ClusterLoadAssignment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its weight, at least 1.
    pub weight: u32,
    /// The zone of its locality.
    pub zone: Arc<str>,
    /// False: `UNHEALTHY`, `DRAINING` or `TIMEOUT` from the server; used in panic only.
    pub healthy: bool,
}

/// A Service port as the callee: settings and endpoints of one configuration.
#[derive(Debug)]
pub struct Cluster {
    /// As received.
    pub settings: Arc<ClusterSettings>,
}
