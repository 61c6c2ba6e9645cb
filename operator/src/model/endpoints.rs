//! The endpoints of a Service port, from all slices of the Service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::slice::{EndpointCondition, EndpointSlice};

/// The endpoints of a Service port that may be called, by address, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoints {
    /// By address.
    pub list: Vec<Endpoint>,
    /// Of the Service's first address.
    family: Option<Family>,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Where calls to a Service port can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The zone that it runs in; empty: not known.
    pub zone: Arc<str>,
}

impl Endpoints {
    /// The endpoints behind the port named `port_name`: the ready ones, or, when there is none, those that
    /// are terminating and still serve. A slice holds one family, a Service may have slices of each; `primary` is
    /// the Service's first address.
    pub fn compile(port_name: &str, slices: &[&EndpointSlice], primary: Option<&IpAddr>) -> Self {
        let mut ready = BTreeMap::new();
        let mut terminating = BTreeMap::new();
        for slice in slices {
            for port in slice.ports.iter().filter(|port| &*port.name == port_name) {
                for endpoint in &slice.endpoints {
                    let chosen = match endpoint.condition {
                        EndpointCondition::Ready => &mut ready,
                        EndpointCondition::TerminatingServing => &mut terminating,
                        EndpointCondition::NotReady => continue,
                    };
                    for address in &endpoint.addresses {
                        // While an endpoint moves from one slice to another it stands in both; the first
                        // zone by name is kept, whatever the order of the slices.
                        let zone = endpoint.zone.clone().unwrap_or_default();
                        chosen
                            .entry(SocketAddr::new(*address, port.number))
                            .and_modify(|known: &mut Arc<str>| {
                                if known.is_empty() || (!zone.is_empty() && zone < *known) {
                                    *known = zone.clone();
                                }
                            })
                            .or_insert(zone);
                    }
                }
            }
        }
        let chosen = if ready.is_empty() { terminating } else { ready };
        let list = chosen.into_iter().map(|(address, zone)| Endpoint { address, zone }).collect();
        Self { list, family: primary.map(|address| Family::of(*address)) }
    }

    /// These, of whatever family.
    pub fn of(list: Vec<Endpoint>) -> Self {
        Self { list, family: None }
    }

    /// Those that calls to the Service go to: of its first family, if any is. A pod of both families is in the
    /// list twice, and is ready when it answers at its first address: an application that listens on IPv4 alone
    /// must get no calls at its IPv6 address. That is as kube-proxy does it for the address most callers resolve.
    pub fn called(&self) -> impl Iterator<Item = &Endpoint> {
        let first = |endpoint: &Endpoint| {
            self.family.is_none_or(|family| Family::of(endpoint.address.ip()) == family)
        };
        let any = self.list.iter().any(first);
        self.list.iter().filter(move |endpoint| !any || first(endpoint))
    }

    /// Whether one of them listens there.
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.list.binary_search_by_key(&address, |endpoint| endpoint.address).is_ok()
    }
}
