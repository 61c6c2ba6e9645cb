//! What the objects come to: every Service port with its parts, ready to be put into words of xDS.
//!
//! Each part is shared and kept from one mesh to the next when it is equal, so that "what changed" is a
//! comparison of pointers:
//!
//! ```text
//!            Service        ServiceRoute   pool, balance,   EndpointSlices   RateLimitPolicy
//!               |           rules          OutlierDetection       |          of it and its callers
//! Port = { listener,        routes,        cluster,           endpoints,     inbound }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoints::Endpoints;
use super::limits::Inbound;
pub use super::object::PortName;
use super::object::{ObjectKey, ObjectRef};
use super::policy::Cluster;
use super::route::Routes;
use super::service::Protocol;
use super::shards::Shards;

/// Everything that the operator serves.
#[derive(Debug, Clone, Default)]
pub struct Mesh {
    /// Every Service port.
    pub ports: Shards<PortName, Arc<Port>>,
    /// Whose address that is, where the mesh takes part: `10.96.3.7:9080`.
    pub service_addresses: Shards<SocketAddr, PortName>,
    /// The Service ports that list this endpoint, by name.
    pub endpoint_addresses: Shards<SocketAddr, Arc<[PortName]>>,
    /// What each object of ours is in force in.
    pub contributions: Arc<BTreeMap<ObjectRef, Contribution>>,
}

/// A Service port.
#[derive(Debug, Clone)]
pub struct Port {
    /// `shop/reviews:9080`.
    pub name: PortName,
    /// The Service.
    pub service: ObjectKey,
    /// Its name in the Service, by which slices know it.
    pub port_name: Arc<str>,
    /// Its number.
    pub number: u16,
    /// What is spoken, and where it is announced.
    pub listener: Arc<Listener>,
    /// Where its requests go; of no meaning when it carries bytes.
    pub routes: Arc<Routes>,
    /// How its endpoints are called.
    pub cluster: Arc<Cluster>,
    /// Its endpoints.
    pub endpoints: Arc<Endpoints>,
    /// What their sidecars enforce.
    pub inbound: Arc<Inbound>,
}

impl Port {
    /// Takes over the parts of `previous` that are equal.
    pub fn share_with(&mut self, previous: &Self) {
        share(&mut self.listener, &previous.listener);
        share(&mut self.routes, &previous.routes);
        share(&mut self.cluster, &previous.cluster);
        share(&mut self.endpoints, &previous.endpoints);
        share(&mut self.inbound, &previous.inbound);
    }

    /// Whether all parts are the very same.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.listener, &other.listener)
            && Arc::ptr_eq(&self.routes, &other.routes)
            && Arc::ptr_eq(&self.cluster, &other.cluster)
            && Arc::ptr_eq(&self.endpoints, &other.endpoints)
            && Arc::ptr_eq(&self.inbound, &other.inbound)
            && self.port_name == other.port_name
    }
}

fn share<T: PartialEq>(now: &mut Arc<T>, previous: &Arc<T>) {
    if !Arc::ptr_eq(now, previous) && now == previous {
        *now = previous.clone();
    }
}

/// What is spoken on a Service port, and at which addresses callers dial it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What is spoken.
    pub protocol: Protocol,
    /// The Service's addresses; none for a headless Service and for one that is left to kube-proxy.
    pub addresses: Vec<IpAddr>,
    /// Callers dial the endpoints themselves.
    pub headless: bool,
}

/// What an object is in force in, by Service port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contribution {
    /// Address listeners of these exist because of the object.
    pub listeners: BTreeSet<PortName>,
    /// Routes of these.
    pub routes: BTreeSet<PortName>,
    /// Clusters of these.
    pub clusters: BTreeSet<PortName>,
    /// Inbound listeners of the endpoints of these.
    pub inbound: BTreeSet<PortName>,
}
