//! The pieces that a configuration is assembled from: one for each resource, decoded.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Protocol;
use crate::cluster::{ClusterSettings, EndpointSettings};
use crate::rate_limit::InboundSettings;
use crate::route::RouteTable;

/// The four kinds of resources, in the order in which one leads to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What is spoken at a name, and which routes or cluster follow.
    Listener,
    /// A `RouteConfiguration`.
    Route,
    /// A `Cluster`.
    Cluster,
    /// A `ClusterLoadAssignment`.
    Endpoints,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Listener, Self::Route, Self::Cluster, Self::Endpoints];
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Listener => "listener",
            Self::Route => "route configuration",
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
        })
    }
}

/// One resource, decoded.
#[derive(Debug, Clone)]
pub enum Piece {
    /// A `Listener`.
    Listener(Arc<Listener>),
    /// A `RouteConfiguration`.
    Routes(Arc<RouteTable>),
    /// A `Cluster`.
    Cluster(Arc<ClusterSettings>),
    /// A `ClusterLoadAssignment`.
    Endpoints(Arc<[EndpointSettings]>),
}

/// A `Listener`, decoded.
#[derive(Debug)]
pub enum Listener {
    /// For calls of this pod's application to a Service port.
    Outbound {
        /// What is spoken on it.
        protocol: Protocol,
        /// None: only bytes are carried.
        routes: Option<RouteSource>,
        /// The cluster for bytes that are not HTTP.
        opaque: Option<Arc<str>>,
    },
    /// For calls to an endpoint of this pod.
    Inbound {
        /// The endpoint's address.
        address: SocketAddr,
        /// What is spoken on it.
        protocol: Protocol,
        /// The limits, checked; their buckets are made when they come into force.
        limits: InboundSettings,
    },
}

/// Where a listener has its routes from.
#[derive(Debug)]
pub enum RouteSource {
    /// The `RouteConfiguration` of this name (RDS).
    Named(Arc<str>),
    /// In the listener itself.
    Inline(Arc<RouteTable>),
}

/// What has become known of one resource.
#[derive(Debug, Clone)]
pub struct Update {
    /// Of which kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// What it is now.
    pub news: News,
}

/// What a resource is now.
#[derive(Debug, Clone)]
pub enum News {
    /// It is there.
    Here(Piece),
    /// The server says that it does not exist.
    Absent,
    /// What the server sent cannot be used, for this reason: the last good one stays.
    Refused(Arc<str>),
}
