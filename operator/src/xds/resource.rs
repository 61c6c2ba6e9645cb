//! A resource: its kind, its name, its version, its bytes.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

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
    /// A [`NamedResource`] of all that, encoded: what a delta response carries of it, whoever gets it.
    pub named: Bytes,
}

impl Resource {
    /// A resource whose message is `any`.
    #[must_use]
    pub fn new(kind: ResourceKind, name: Arc<str>, version: Arc<str>, any: Bytes) -> Self {
        let length = any.len();
        let resource = SharedAny { type_url: kind.type_url().to_owned(), value: any };
        let whole =
            NamedResource { version: version.to_string(), resource: Some(resource), name: name.to_string() };
        let named = Bytes::from(whole.encode_to_vec());
        // The message stands last but for the name, and is kept in memory once.
        let end = named.len() - prost::encoding::string::encoded_len(3, &whole.name);
        let any = named.slice(end - length..end);
        Self { name, version, any, named }
    }
}

/// `google.protobuf.Any` with shared bytes.
#[derive(Clone, PartialEq, Message)]
pub struct SharedAny {
    /// What the bytes are.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded resource.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, Message)]
pub struct NamedResource {
    /// A hash of the content.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<SharedAny>,
    /// What it is asked for by.
    #[prost(string, tag = "3")]
    pub name: String,
}
