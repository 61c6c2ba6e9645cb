//! The listeners of a pod whose traffic is redirected here, and what watches over the rules that do it.
//!
//! ```text
//! 127.0.0.1:15001 [::1]:15001   outbound      0.0.0.0:15006 [::]:15006   inbound      one each a worker
//! ```
//!
//! A machine without IPv6 has none of it redirected either.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::accept;
use crate::accept::captured::{Captured, PAGES_WAITING, Visitor};
use crate::admin::Pod;
use crate::capture::{self, Capture};
use crate::cli::Options;
use crate::config::ProxyConfig;
use crate::metrics::{Direction, Metrics};
use crate::ports::{INBOUND_PORT, OUTBOUND_PORT};
use crate::spawn;
use crate::xds::client::Handle;

/// The listeners, one a worker for each address.
pub(super) struct Doors {
    pub bound: Vec<(Direction, Vec<StdListener>)>,
    /// Whether there is IPv6.
    ipv6: bool,
}

impl Doors {
    pub fn bind(workers: usize) -> anyhow::Result<Self> {
        let mut doors = Self { bound: Vec::new(), ipv6: false };
        for (direction, v4, v6, port) in [
            (Direction::Outbound, Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, OUTBOUND_PORT),
            (Direction::Inbound, Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, INBOUND_PORT),
        ] {
            let v4 = SocketAddr::new(IpAddr::V4(v4), port);
            let bound = accept::bind_apart(v4, workers);
            doors
                .bound
                .push((direction, bound.with_context(|| format!("--capture: cannot listen at {v4}"))?));
            if let Some(bound) = bind_v6(SocketAddr::new(IpAddr::V6(v6), port), workers)? {
                doors.ipv6 |= direction == Direction::Outbound;
                doors.bound.push((direction, bound));
            }
        }
        Ok(doors)
    }

    /// A line for each address.
    pub fn lines(&self) -> anyhow::Result<Vec<String>> {
        let line = |(direction, bound): &(Direction, Vec<StdListener>)| {
            Ok(format!("listening captured {} {}", direction.word(), super::address(bound)?))
        };
        self.bound.iter().map(line).collect()
    }
}

/// None: this machine has no IPv6, or it is switched off.
pub(super) fn bind_v6(address: SocketAddr, workers: usize) -> anyhow::Result<Option<Vec<StdListener>>> {
    match accept::bind_apart(address, workers) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if has_no_ipv6(&error) => {
            tracing::info!(%address, %error, "no IPv6 here");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("--capture: cannot listen at {address}")),
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// What carries captured traffic, and what the pages show of it.
pub(super) struct Parts {
    pub captured: Arc<Captured>,
    pub pod: Pod,
}

/// None: nothing is captured. Asks for what is known before anybody calls: the endpoints that are probed, and
/// that of `/ready`. Whatever the operator says of them, it has answered.
pub(super) fn parts(
    options: &Options,
    doors: Option<&Doors>,
    (xds, config): (&Handle, &Arc<ArcSwap<ProxyConfig>>),
    metrics: &Arc<Metrics>,
) -> Option<Parts> {
    let (flags, doors) = (options.capture.as_ref()?, doors?);
    let capture = Arc::new(Capture::new(&capture::checked(doors.ipv6)));
    let (ready, ready_visitors) = mpsc::channel::<Visitor>(PAGES_WAITING);
    let (page, metrics_visitors) = mpsc::channel::<Visitor>(PAGES_WAITING);
    let pages = vec![(options.ready.port(), ready), (options.metrics.port(), page)];
    let addresses = flags.pod_ips.clone();
    let captured = Captured::new(addresses.clone(), Arc::clone(&capture), pages, (xds, config), metrics);
    let mut ports: Vec<u16> = flags.probes.iter().map(|probe| probe.port).collect();
    ports.push(options.ready.port());
    ports.sort_unstable();
    ports.dedup();
    let mut first: Vec<Arc<str>> = Vec::new();
    for address in addresses.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))) {
        captured.expect(address);
        first.push(format!("inbound/{address}").into());
    }
    let pod = Pod { addresses, capture, first, ready_visitors, metrics_visitors };
    Some(Parts { captured: Arc::new(captured), pod })
}

/// Finds out whether the rules hold, and waits for the first configuration.
pub(super) fn watch(capture: &Arc<Capture>, xds: &Handle, first: &[Arc<str>]) {
    let (checked, configured) = (Arc::clone(capture), Arc::clone(capture));
    spawn::task(async move { checked.verify().await });
    let (xds, first) = (xds.clone(), first.to_vec());
    spawn::task(async move { configured.first_config(&xds, &first).await });
}
