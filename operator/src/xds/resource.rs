//! A resource: its kind, its name, its version, its bytes.

use std::sync::Arc;

use bytes::Bytes;

/// The key under which what is ours stands in any metadata; others do not read it.
pub const METADATA: &str = "fairlead.dev";

/// The types of resources that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
}

impl ResourceKind {
    /// All of them, in the order in which Envoy wants them added: what is referred to before what refers.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type URL of the resource.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        }
    }

    /// The kind with that type URL.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// The name of a resource with its kind.
pub type ResourceName = (ResourceKind, Arc<str>);

/// An encoded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// As it was asked for.
    pub name: Arc<str>,
    /// A hash of the bytes: equal on all replicas, and for as long as nothing in it changes.
    pub version: Arc<str>,
    /// The message, encoded; with [`ResourceKind::type_url`] an `Any`.
    pub any: Bytes,
}
