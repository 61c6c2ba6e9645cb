//! What every connection of a worker sees: the configuration in force, and where things are counted.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::access_log::AccessLog;
use crate::cli::Probe;
use crate::config::{Destination, Inbound, ProxyConfig};
use crate::drain::Drain;
use crate::hops::Hops;
use crate::http1;
use crate::metrics::Metrics;
use crate::pool::Asker;

/// One a worker; what is in it is shared by all.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Which worker this is.
    pub worker: usize,
    /// What is in force.
    pub config: Arc<ArcSwap<ProxyConfig>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// None: switched off.
    pub access_log: Option<AccessLog>,
    /// How far the end has come.
    pub drain: Drain,
    /// The calls in flight to this pod.
    pub hops: Arc<Hops>,
    /// Connections that callers may have, all together.
    pub most_callers: usize,
    /// What callers may send.
    pub http1: Arc<http1::Limits>,
    /// What kubelet asks of the application.
    pub probes: Arc<[Probe]>,
    /// The addresses of the pod whose traffic is captured; the same for the life of the process.
    pub pod: &'static [IpAddr],
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Its address.
    pub peer: SocketAddr,
    /// It speaks HTTP/2.
    pub http2: bool,
}

impl Proxy {
    /// A worker's view; `worker` counts from 0.
    pub fn new(
        worker: usize,
        config: Arc<ArcSwap<ProxyConfig>>,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Self {
        Self {
            worker,
            config,
            metrics,
            access_log: None,
            drain,
            hops: Arc::default(),
            most_callers: usize::MAX,
            http1: Arc::default(),
            probes: Arc::default(),
            pod: &[],
        }
    }

    /// What is known of a destination; None: nothing yet.
    pub fn destination(&self, name: &str) -> Option<Arc<Destination>> {
        self.config.load().destinations.get(name).cloned()
    }

    /// Who looks for a connection to an endpoint.
    pub fn asker(&self) -> Asker {
        Asker { worker: self.worker, pod: self.pod }
    }

    /// Whether a request for `path` at the application's `port` is a probe: answered as without us.
    pub fn is_probe(&self, port: u16, path: &str) -> bool {
        self.probes.iter().any(|probe| probe.is(port, path))
    }

    /// What is known of an endpoint of this pod; None: nobody lists it, as far as we know.
    pub fn inbound(&self, address: SocketAddr) -> Option<Arc<Inbound>> {
        self.config.load().inbound.get(&address).cloned()
    }
}

/// The clock of the data path; stands still in tests with paused time.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
