//! The mesh as xDS resources: each encoded at the first request for it, once, and kept for as long as the
//! parts of the mesh that it was made of stay.
//!
//! A snapshot is cheap: it is the mesh and a store of encoded resources that it shares with the snapshots
//! before it. What an endpoint change costs is one Service's endpoints and what was asked for of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::encode;
use super::name::{self, Named};
pub use super::resource::{NamedResource, Resource, ResourceKind, ResourceName};
use crate::model::endpoints::Endpoints;
use crate::model::limits::Inbound;
use crate::model::mesh::{Listener, Port, PortName};
use crate::model::policy::Cluster;
use crate::model::route::Routes;
use crate::model::{Mesh, ObjectRef};

/// All resources of one mesh. Cheap to make and to clone.
#[derive(Debug, Clone)]
pub struct Snapshot {
    mesh: Arc<Mesh>,
    encoded: Arc<Store>,
}

/// What was encoded, with the parts that it was made of: it holds for every mesh that has the same ones.
type Store = Mutex<HashMap<ResourceName, (Parts, Arc<Resource>)>>;

impl Snapshot {
    /// The resources of `mesh`. What is equal in `previous` is taken from there.
    pub fn new(mesh: Arc<Mesh>, previous: Option<&Self>) -> Self {
        let Some(previous) = previous else { return Self { mesh, encoded: Arc::default() } };
        let snapshot = Self { mesh, encoded: previous.encoded.clone() };
        let gone = snapshot.changed(previous);
        let mut encoded = snapshot.encoded();
        for name in gone {
            encoded.remove(&name);
        }
        drop(encoded);
        snapshot
    }

    /// The mesh that it was made of.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// The resource of that name; none when there is no such thing.
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<Arc<Resource>> {
        let named = name::resolve(&self.mesh, kind, name)?;
        let parts = Parts::of(kind, &named);
        let key = (kind, Arc::from(name));
        if let Some((made_of, resource)) = self.encoded().get(&key)
            && made_of.are_same(&parts)
        {
            return Some(resource.clone());
        }
        // Encoded outside the lock: a second one that asks meanwhile does it too, with the same result.
        let any = Bytes::from(encode(kind, name, &named));
        let resource = Arc::new(Resource::new(kind, key.1.clone(), version(&any), any));
        self.encoded().insert(key, (parts, resource.clone()));
        Some(resource)
    }

    /// The names of the resources that a wildcard subscription gets, sorted: of listeners those with an
    /// address that callers dial, of everything else all.
    pub fn names(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        if kind == ResourceKind::Listener {
            names.extend(self.mesh.service_addresses.iter().map(|(address, _)| address.to_string().into()));
        }
        for (name, port) in self.mesh.ports.iter() {
            let by_name = match kind {
                ResourceKind::Listener => false,
                ResourceKind::Route => name::has_routes(port),
                ResourceKind::Cluster | ResourceKind::Endpoints => true,
            };
            if by_name {
                names.push(name.clone());
            }
            names.extend(name::pod_names(kind, port, &port.endpoints));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The resources that a wildcard subscription gets, in the order of their names.
    pub fn wildcard(&self, kind: ResourceKind) -> impl Iterator<Item = Arc<Resource>> + '_ {
        self.names(kind).into_iter().filter_map(move |name| self.get(kind, &name))
    }

    /// The resources that may differ from those in `previous`: changed, new or gone, under each of their
    /// names, sorted. Found by comparing pointers; a resource in it may turn out to be equal, one that is not
    /// in it is equal.
    pub fn changed(&self, previous: &Self) -> Vec<ResourceName> {
        let mut changed = BTreeSet::new();
        let same = |old: &Arc<Port>, new: &Arc<Port>| Arc::ptr_eq(old, new) || old.is_same(new);
        self.mesh.ports.differences(&previous.mesh.ports, same, |_, old, new| match (old, new) {
            (Some(old), Some(new)) => differences(old, new, &mut changed),
            (old, new) => {
                for port in old.into_iter().chain(new) {
                    changed.extend(name::all(port));
                }
            }
        });
        changed.into_iter().collect()
    }

    /// The resources that this object has a part in.
    pub fn contributions(&self, object: &ObjectRef) -> Vec<ResourceName> {
        let Some(contribution) = self.mesh.contributions.get(object) else { return Vec::new() };
        let ports = |names: &BTreeSet<PortName>| -> Vec<Arc<Port>> {
            names.iter().filter_map(|name| self.mesh.ports.get(name)).cloned().collect()
        };
        let mut resources = BTreeSet::new();
        for port in ports(&contribution.listeners) {
            resources.extend(name::addresses(&port).map(|name| (ResourceKind::Listener, name)));
        }
        for (kind, names) in
            [(ResourceKind::Route, &contribution.routes), (ResourceKind::Cluster, &contribution.clusters)]
        {
            for port in ports(names) {
                resources.extend(name::pod_names(kind, &port, &port.endpoints).map(|name| (kind, name)));
                resources.insert((kind, port.name.clone()));
            }
        }
        for port in ports(&contribution.inbound) {
            resources.extend(name::inbound(&port.endpoints).map(|name| (ResourceKind::Listener, name)));
        }
        resources.into_iter().collect()
    }

    /// Nothing in it is ever half written, so a panic elsewhere does no harm.
    fn encoded(&self) -> MutexGuard<'_, HashMap<ResourceName, (Parts, Arc<Resource>)>> {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What differs between two states of a Service port.
fn differences(old: &Port, new: &Port, changed: &mut BTreeSet<ResourceName>) {
    if !Arc::ptr_eq(&old.listener, &new.listener) || old.port_name != new.port_name {
        // The protocol is in all of them.
        changed.extend(name::all(old));
        changed.extend(name::all(new));
        return;
    }
    let mut part = |kind: ResourceKind| {
        changed.insert((kind, new.name.clone()));
        for port in [old, new] {
            changed.extend(name::pod_names(kind, port, &port.endpoints).map(|name| (kind, name)));
        }
    };
    if !Arc::ptr_eq(&old.routes, &new.routes) {
        part(ResourceKind::Route);
    }
    if !Arc::ptr_eq(&old.cluster, &new.cluster) {
        part(ResourceKind::Cluster);
    }
    if !Arc::ptr_eq(&old.inbound, &new.inbound) {
        for port in [old, new] {
            changed.extend(name::inbound(&port.endpoints).map(|name| (ResourceKind::Listener, name)));
        }
    }
    if !Arc::ptr_eq(&old.endpoints, &new.endpoints) {
        changed.insert((ResourceKind::Endpoints, new.name.clone()));
        let moved = moved(&old.endpoints, &new.endpoints);
        changed.extend(name::inbound(&moved).map(|name| (ResourceKind::Listener, name)));
        for kind in ResourceKind::ALL {
            changed.extend(name::pod_names(kind, new, &moved).map(|name| (kind, name)));
        }
    }
}

/// The endpoints that are in one of the two only.
fn moved(old: &Endpoints, new: &Endpoints) -> Endpoints {
    let gone = old.list.iter().filter(|endpoint| !new.contains(endpoint.address));
    let come = new.list.iter().filter(|endpoint| !old.contains(endpoint.address));
    Endpoints::of(gone.chain(come).cloned().collect())
}

/// What a resource is made of, besides its name.
#[derive(Debug, Default)]
struct Parts {
    listener: Option<Arc<Listener>>,
    routes: Option<Arc<Routes>>,
    cluster: Option<Arc<Cluster>>,
    endpoints: Option<Arc<Endpoints>>,
    inbound: Vec<(PortName, Arc<Inbound>)>,
    /// Whose port it is: an address may pass from one Service to another.
    port: Option<PortName>,
}

impl Parts {
    fn of(kind: ResourceKind, named: &Named) -> Self {
        let port = match named {
            Named::Port { port, .. } | Named::Api(port) | Named::Pod { port, .. } => port,
            Named::Inbound { ports, .. } => return Self { inbound: ports.clone(), ..Self::default() },
        };
        let mut parts = Self { port: Some(port.name.clone()), ..Self::default() };
        match kind {
            ResourceKind::Listener => parts.listener = Some(port.listener.clone()),
            ResourceKind::Route => parts.routes = Some(port.routes.clone()),
            ResourceKind::Cluster => parts.cluster = Some(port.cluster.clone()),
            ResourceKind::Endpoints => parts.endpoints = Some(port.endpoints.clone()),
        }
        parts
    }

    fn are_same(&self, other: &Self) -> bool {
        fn same<T>(left: Option<&Arc<T>>, right: Option<&Arc<T>>) -> bool {
            match (left, right) {
                (Some(left), Some(right)) => Arc::ptr_eq(left, right),
                (None, None) => true,
                _ => false,
            }
        }
        let same_inbound = self.inbound.len() == other.inbound.len()
            && self.inbound.iter().zip(&other.inbound).all(
                |((name, inbound), (other_name, other_inbound))| {
                    name == other_name && Arc::ptr_eq(inbound, other_inbound)
                },
            );
        same(self.listener.as_ref(), other.listener.as_ref())
            && same(self.routes.as_ref(), other.routes.as_ref())
            && same(self.cluster.as_ref(), other.cluster.as_ref())
            && same(self.endpoints.as_ref(), other.endpoints.as_ref())
            && same_inbound
            && self.port == other.port
    }
}

fn encode(kind: ResourceKind, name: &str, named: &Named) -> Vec<u8> {
    match (kind, named) {
        (_, Named::Inbound { address, ports }) => encode::listener::inbound(name, *address, ports),
        (_, Named::Api(port)) => encode::listener::api(port, name),
        (ResourceKind::Listener, Named::Port { port, address }) => {
            encode::listener::outbound(port, name, *address)
        }
        (ResourceKind::Listener, Named::Pod { port, address }) => encode::listener::pod(port, *address),
        (ResourceKind::Route, Named::Port { port, .. }) => encode::route::encode(port),
        (ResourceKind::Route, Named::Pod { port, address }) => encode::route::pod(port, *address),
        (ResourceKind::Cluster, Named::Port { port, .. }) => encode::cluster::encode(port),
        (ResourceKind::Cluster, Named::Pod { port, address }) => encode::cluster::pinned(port, *address),
        (ResourceKind::Endpoints, Named::Port { port, .. } | Named::Pod { port, .. }) => {
            encode::endpoints::encode(port)
        }
    }
}

/// FNV-1a of 128 bits (RFC 9923), in hexadecimal. Versions are compared between replicas, which may be of
/// different releases during an update, so the hash must never change: the standard library's promises no
/// such thing. It need not withstand an attacker, who could only keep his own change from being seen.
fn version(bytes: &[u8]) -> Arc<str> {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    format!("{hash:032x}").into()
}

#[cfg(test)]
mod tests;
