//! A Service port as the callee of this sidecar: its endpoints, who is picked, who is ejected, what is in
//! flight.
//!
//! ```text
//! Cluster (one configuration)          ClusterState (by name, outlives configurations)
//!   settings                             pool, budget, counters
//!   endpoints --> Endpoint (one configuration: weight, zone, healthy)
//!                    \--> live state by address: in flight, errors in a row, ejection
//! pick --> Picked (counts as in flight until dropped) --record--> outlier
//! ```
//!
//! Settings and the list of endpoints are immutable and replaced with the configuration; what counts
//! (in-flight requests, ejections, the pool, the retry budget) lives in objects that outlive the
//! replacement. An endpoint that leaves the list takes its state along: if it comes back, it starts fresh.
//!
//! Cost of a request with every endpoint in: two reference counts and two counters; picking is constant for
//! least request and random with equal weights, and linear in the number of endpoints, under a mutex, for
//! round robin. A good outcome of a healthy endpoint takes no lock. While an endpoint is out, a pick walks
//! the list of endpoints once or twice (an atomic each), and an error takes the endpoint's mutex.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use crate::pool::PoolSettings;

mod balance;
mod budget;
mod endpoint;
mod outlier;
mod picked;

pub use budget::{Budget, BudgetSettings};
pub use endpoint::{Endpoint, EndpointSettings, EndpointStatus};
pub use outlier::{EjectionCounters, OutlierError, OutlierSettings};
pub use picked::{Outcome, Picked};

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

/// A Service port as the callee: settings and endpoints of one configuration.
#[derive(Debug)]
pub struct Cluster {
    /// As received.
    pub settings: Arc<ClusterSettings>,
    /// In the order received, each address once.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// What outlives this configuration.
    pub live: Arc<ClusterState>,
    /// Those of the endpoints that the server calls healthy.
    healthy: Box<[Arc<Endpoint>]>,
    /// Whether all endpoints weigh the same.
    uniform: bool,
}

/// What counts for a Service port, whatever its configuration.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// Its connections.
    pub pool: crate::pool::Pool,
    /// Its retries.
    pub budget: Budget,
    /// What outlier detection did.
    pub ejections: EjectionCounters,
    /// How many endpoint states are ejected or probing; of endpoints that left as well, until their last
    /// request ends. Zero: nobody needs to be looked at.
    out: Arc<AtomicUsize>,
    /// Held while round robin walks the credits.
    turn: Mutex<()>,
    /// Held while it is decided whether one more endpoint may be ejected.
    ejecting: Mutex<()>,
}

impl Cluster {
    /// A cluster of these endpoints. What is live in `previous`, the same cluster's last configuration, is
    /// kept: by address for the endpoints, as a whole for the rest. Ejections survive new numbers in the
    /// outlier settings (which count from the next error on); when detection is switched on, off, to shadow
    /// or from it, they are forgotten.
    pub fn new(
        settings: Arc<ClusterSettings>,
        endpoints: &[EndpointSettings],
        previous: Option<&Cluster>,
    ) -> Self {
        let live = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.live));
        live.budget.configure(&settings.budget);
        let mode = |settings: &ClusterSettings| settings.outlier.as_ref().map(|outlier| outlier.shadow);
        let same_mode = previous.is_none_or(|previous| mode(&previous.settings) == mode(&settings));
        let mut before: std::collections::HashMap<SocketAddr, &Arc<Endpoint>> = previous
            .iter()
            .flat_map(|previous| previous.endpoints.iter())
            .map(|endpoint| (endpoint.settings.address, endpoint))
            .collect();
        let mut seen = std::collections::HashSet::with_capacity(endpoints.len());
        let mut list = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints.iter().filter(|endpoint| seen.insert(endpoint.address)) {
            let before = before.remove(&endpoint.address);
            if let Some(before) = before.filter(|_| !same_mode) {
                before.forget();
            }
            list.push(Endpoint::new(endpoint, before, &live.out));
        }
        let healthy = list.iter().filter(|endpoint| endpoint.settings.healthy).cloned().collect();
        let mut weights = list.iter().map(|endpoint| endpoint.settings.weight);
        let first = weights.next();
        let uniform = weights.all(|weight| Some(weight) == first);
        Self { settings, endpoints: list.into(), live, healthy, uniform }
    }

    /// An endpoint for the next attempt, which counts as in flight until the [`Picked`] is dropped. Those in
    /// `exclude` (tried before for this request) only when there is no other. None: there is no endpoint.
    pub fn pick(self: &Arc<Self>, now: Instant, exclude: &[SocketAddr]) -> Option<Picked> {
        let (endpoint, probe) = self.choose(now, exclude)?;
        Some(Picked::new(Arc::clone(self), Arc::clone(endpoint), probe))
    }

    /// This very endpoint for the next attempt, if it is still one and gets ordinary requests: a connection to
    /// it came free while another was waited for.
    pub fn claim(self: &Arc<Self>, address: SocketAddr) -> Option<Picked> {
        let endpoint = self.healthy.iter().find(|endpoint| endpoint.settings.address == address)?;
        (!self.is_out(endpoint)).then(|| Picked::new(Arc::clone(self), Arc::clone(endpoint), false))
    }

    /// Whether so few endpoints are in that all are used: Envoy's panic, `minHealthyPercent`.
    pub fn panicking(&self) -> bool {
        self.too_few(self.in_rotation())
    }

    /// How many endpoints are ejected or probed at present.
    pub fn ejected(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| self.is_out(endpoint)).count()
    }

    /// How many endpoints get ordinary requests at present.
    pub fn in_rotation(&self) -> usize {
        self.healthy.iter().filter(|endpoint| !self.is_out(endpoint)).count()
    }

    fn too_few(&self, in_rotation: usize) -> bool {
        (in_rotation as f64) * 100.0 < self.settings.panic_threshold * (self.endpoints.len() as f64)
    }

    /// Whether the endpoint gets no ordinary requests under these settings. An ejection that the configuration
    /// before brought about at its last moment binds nobody who detects nothing, or only looks on.
    fn is_out(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_out() && self.settings.outlier.as_ref().is_some_and(|outlier| !outlier.shadow)
    }

    fn nobody_out(&self) -> bool {
        self.live.out.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests;
