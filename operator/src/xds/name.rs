//! What the names of resources stand for, and what names a thing has.
//!
//! ```text
//! Listener   10.96.3.7:9080  [fd79::7]:9080        a Service's address
//!            shop/reviews:9080                     the same, by name
//!            reviews.shop.svc.cluster.local:9080   for gRPC's own client
//!            10.244.1.5:9080                       an endpoint of a headless Service
//!            inbound/10.244.1.5:9080               an endpoint, for its own sidecar
//! Route, Cluster, Endpoints   shop/reviews:9080
//! Route, Cluster              10.244.1.5:9080      an endpoint of a headless Service
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use super::resource::{ResourceKind, ResourceName};
use crate::model::Mesh;
use crate::model::endpoints::Endpoints;
use crate::model::limits::Inbound;
use crate::model::mesh::{Port, PortName};
use crate::model::service::Protocol;

/// Before the address of an endpoint, in the name of the listener for its sidecar.
pub const INBOUND: &str = "inbound/";

/// After the names of Service and namespace, in the name that gRPC's client asks for.
const CLUSTER_DOMAIN: &str = ".svc.cluster.local";

/// What a name stands for.
#[derive(Debug)]
pub enum Named {
    /// A Service port, by name or by one of its addresses.
    Port {
        /// The port.
        port: Arc<Port>,
        /// The address that was asked for.
        address: Option<SocketAddr>,
    },
    /// A Service port, as gRPC's client asks for it.
    Api(Arc<Port>),
    /// An endpoint of a headless Service, as callers dial it.
    Pod {
        /// The Service port.
        port: Arc<Port>,
        /// The endpoint.
        address: SocketAddr,
    },
    /// An endpoint, for its own sidecar.
    Inbound {
        /// The endpoint.
        address: SocketAddr,
        /// The Service ports that list it, by name.
        ports: Vec<(PortName, Arc<Inbound>)>,
    },
}

/// What `name` stands for in `mesh`; none when there is no such resource of that kind.
pub fn resolve(mesh: &Mesh, kind: ResourceKind, name: &str) -> Option<Named> {
    if let Some(address) = name.strip_prefix(INBOUND) {
        return (kind == ResourceKind::Listener).then(|| parse(address)).flatten().and_then(|address| {
            let ports = mesh.endpoint_addresses.get(&address)?.iter();
            let ports = ports.filter_map(|name| mesh.ports.get(name));
            let ports: Vec<_> = ports.map(|port| (port.name.clone(), port.inbound.clone())).collect();
            (!ports.is_empty()).then_some(Named::Inbound { address, ports })
        });
    }
    let named = if let Some(port) = mesh.ports.get(name) {
        Named::Port { port: port.clone(), address: None }
    } else if let Some(address) = parse(name) {
        by_address(mesh, kind, address)?
    } else if kind == ResourceKind::Listener {
        Named::Api(by_domain(mesh, name).filter(|port| has_routes(port))?)
    } else {
        return None;
    };
    match &named {
        Named::Port { port, .. } | Named::Pod { port, .. }
            if kind == ResourceKind::Route && !has_routes(port) =>
        {
            None
        }
        Named::Pod { .. } if kind == ResourceKind::Endpoints => None,
        _ => Some(named),
    }
}

/// The listener of a Service's address; or what an endpoint of a headless Service has.
fn by_address(mesh: &Mesh, kind: ResourceKind, address: SocketAddr) -> Option<Named> {
    if kind == ResourceKind::Listener
        && let Some(port) = mesh.service_addresses.get(&address).and_then(|name| mesh.ports.get(name))
    {
        return Some(Named::Port { port: port.clone(), address: Some(address) });
    }
    let listed = mesh.endpoint_addresses.get(&address)?.iter();
    let port = listed.filter_map(|name| mesh.ports.get(name)).find(|port| port.listener.headless)?;
    Some(Named::Pod { port: port.clone(), address })
}

fn by_domain(mesh: &Mesh, name: &str) -> Option<Arc<Port>> {
    let (host, number) = name.rsplit_once(':')?;
    let (service, namespace) = host.strip_suffix(CLUSTER_DOMAIN)?.split_once('.')?;
    mesh.ports.get(format!("{namespace}/{service}:{number}").as_str()).cloned()
}

/// Only the usual notation of an address: a resource has one name.
fn parse(name: &str) -> Option<SocketAddr> {
    name.parse().ok().filter(|address: &SocketAddr| address.to_string() == name)
}

/// Whether HTTP may be spoken on the port.
pub fn has_routes(port: &Port) -> bool {
    port.listener.protocol != Protocol::Opaque
}

/// All resources of a Service port, under each of their names.
pub fn all(port: &Port) -> Vec<ResourceName> {
    let mut names: Vec<ResourceName> = addresses(port).map(|name| (ResourceKind::Listener, name)).collect();
    names.extend(ResourceKind::ALL.map(|kind| (kind, port.name.clone())));
    names.push((ResourceKind::Listener, domain(port)));
    names.extend(inbound(&port.endpoints).map(|name| (ResourceKind::Listener, name)));
    for kind in ResourceKind::ALL {
        names.extend(pod_names(kind, port, &port.endpoints).map(|name| (kind, name)));
    }
    names
}

/// The listeners of the Service's addresses.
pub fn addresses(port: &Port) -> impl Iterator<Item = Arc<str>> + '_ {
    port.listener.addresses.iter().map(|ip| SocketAddr::new(*ip, port.number).to_string().into())
}

/// The listeners of these endpoints, for their own sidecars.
pub fn inbound(endpoints: &Endpoints) -> impl Iterator<Item = Arc<str>> + '_ {
    endpoints.list.iter().map(|endpoint| format!("{INBOUND}{}", endpoint.address).into())
}

/// What the endpoints of a headless Service have under their addresses.
pub fn pod_names<'a>(
    kind: ResourceKind,
    port: &Port,
    endpoints: &'a Endpoints,
) -> impl Iterator<Item = Arc<str>> + use<'a> {
    let has = match kind {
        ResourceKind::Listener | ResourceKind::Cluster => true,
        ResourceKind::Route => has_routes(port),
        ResourceKind::Endpoints => false,
    };
    let list = if port.listener.headless && has { endpoints.list.as_slice() } else { &[] };
    list.iter().map(|endpoint| endpoint.address.to_string().into())
}

/// `reviews.shop.svc.cluster.local:9080`.
fn domain(port: &Port) -> Arc<str> {
    format!("{}.{}{CLUSTER_DOMAIN}:{}", port.service.name, port.service.namespace, port.number).into()
}
