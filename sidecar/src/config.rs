//! What the data path reads: one immutable [`ProxyConfig`] behind an `ArcSwap`, replaced whole.
//!
//! A destination's routes, backends, endpoints and limits switch together, and only when all of them have
//! arrived; what counts (pools, ejections, budgets, buckets) is shared with the configuration before.

pub mod assemble;
mod built;
mod held;
pub mod pieces;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::HashMap;

use crate::cluster::Cluster;
use crate::rate_limit::RateLimiter;
use crate::route::RouteTable;

/// Everything that the data path reads.
#[derive(Debug, Default)]
pub struct ProxyConfig {
    /// By the name that was subscribed: `shop/reviews:9080`, `10.96.3.7:9080`. A destination that is absent
    /// is not known yet.
    pub destinations: HashMap<Arc<str>, Arc<Destination>>,
    /// By the listener's address (`inbound/ADDRESS` without the prefix).
    pub inbound: HashMap<SocketAddr, Arc<Inbound>>,
}

impl ProxyConfig {
    /// The clusters that use endpoints which outlier detection has ejected, because too few are left.
    pub fn panicking(&self) -> BTreeSet<Arc<str>> {
        let services = self.destinations.values().filter_map(|destination| match destination.as_ref() {
            Destination::Known(service) => Some(service),
            Destination::Unknown => None,
        });
        let clusters = services.flat_map(|service| service.clusters.iter().flatten().chain(&service.opaque));
        let panicking = clusters.filter(|cluster| cluster.ejected() > 0 && cluster.panicking());
        panicking.map(|cluster| Arc::clone(&cluster.settings.name)).collect()
    }
}

/// What a call to one Service port needs.
#[derive(Debug)]
pub enum Destination {
    /// The server says that there is no such thing.
    Unknown,
    /// A known Service port.
    Known(Service),
}

/// A known Service port.
#[derive(Debug)]
pub struct Service {
    /// The listener's name.
    pub name: Arc<str>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// None when only bytes are carried.
    pub routes: Option<Arc<RouteTable>>,
    /// As `routes.clusters` counts them; none: that cluster does not exist, its share is answered 500.
    pub clusters: Vec<Option<Arc<Cluster>>>,
    /// Where bytes that are not HTTP go.
    pub opaque: Option<Arc<Cluster>>,
}

/// What is spoken on a port: the listener has an HTTP connection manager, a TCP proxy, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2, told apart by the preface.
    Http,
    /// Bytes.
    Opaque,
    /// The first bytes decide.
    Detect,
}

/// What an endpoint of this pod needs.
#[derive(Debug)]
pub struct Inbound {
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The limits in force, with their live buckets.
    pub limits: Arc<RateLimiter>,
}

/// Endpoints that went out of service when the configuration changed: nothing new is sent to them, and
/// their idle connections are to be closed.
#[derive(Debug, Clone)]
pub struct Retired {
    /// The cluster as it is now, with its live state; as it was last when it has gone altogether.
    pub cluster: Arc<Cluster>,
    /// The addresses that left it.
    pub addresses: Vec<SocketAddr>,
}

/// What is known of a listener that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Not complete yet; says what is missing. Nothing of it is in force.
    Awaited(String),
    /// Its configuration is in force (an update of it may be awaited, or refused).
    InForce,
    /// The server says that there is no such listener.
    Absent,
}
