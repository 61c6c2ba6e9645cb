//! The endpoints of a Service port, from all slices of the Service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::slice::{EndpointCondition, EndpointSlice};

/// The endpoints of a Service port that may be called, by address, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoints {
    /// By address.
    pub list: Vec<Endpoint>,
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
    /// are terminating and still serve. Both families count: a slice holds one, a Service has slices of each.
    pub fn compile(port_name: &str, slices: &[&EndpointSlice]) -> Self {
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
        Self { list: chosen.into_iter().map(|(address, zone)| Endpoint { address, zone }).collect() }
    }

    /// Whether one of them listens there.
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.list.binary_search_by_key(&address, |endpoint| endpoint.address).is_ok()
    }
}
