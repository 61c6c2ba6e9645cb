//! The two response messages, field for field those of `envoy.service.discovery.v3`, but with
//! shared bytes: a resource is encoded once and every stream sends the same allocation.
//!
//! Requests are read with `envoy_types`; a test holds the two against each other.

use std::sync::Arc;

use bytes::Bytes;

use super::resource::{Resource, ResourceKind, SharedAny};

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaResponse {
    /// For people only.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New or changed: each an encoded [`NamedResource`], which on the wire looks like one that is not.
    ///
    /// [`NamedResource`]: super::snapshot::NamedResource
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// The type of all of them.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the client repeats in its answer.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Gone, or never there.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StateResponse {
    /// A hash over all that the client asked for.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<SharedAny>,
    /// The type of all of them.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the client repeats in its answer.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

impl DeltaResponse {
    pub(super) fn new(
        kind: ResourceKind,
        nonce: String,
        resources: &[Arc<Resource>],
        removed: &[Arc<str>],
    ) -> Self {
        Self {
            system_version_info: String::new(),
            resources: resources.iter().map(|resource| resource.named.clone()).collect(),
            type_url: kind.type_url().to_owned(),
            nonce,
            removed_resources: removed.iter().map(ToString::to_string).collect(),
        }
    }
}

impl StateResponse {
    pub(super) fn new(
        kind: ResourceKind,
        version: String,
        nonce: String,
        resources: &[Arc<Resource>],
    ) -> Self {
        Self {
            version_info: version,
            resources: resources.iter().map(|resource| any(kind, resource)).collect(),
            type_url: kind.type_url().to_owned(),
            nonce,
        }
    }
}

fn any(kind: ResourceKind, resource: &Resource) -> SharedAny {
    SharedAny { type_url: kind.type_url().to_owned(), value: resource.any.clone() }
}

/// A resource for people to read.
#[must_use]
pub fn describe(kind: ResourceKind, resource: &Resource) -> String {
    use envoy_types::pb::envoy::config::{cluster, endpoint, listener, route};
    use prost::Message;
    fn show<M: Message + Default + std::fmt::Debug>(bytes: &Bytes) -> String {
        M::decode(bytes.clone()).map_or_else(|error| error.to_string(), |message| format!("{message:#?}"))
    }
    match kind {
        ResourceKind::Listener => show::<listener::v3::Listener>(&resource.any),
        ResourceKind::Route => show::<route::v3::RouteConfiguration>(&resource.any),
        ResourceKind::Cluster => show::<cluster::v3::Cluster>(&resource.any),
        ResourceKind::Endpoints => show::<endpoint::v3::ClusterLoadAssignment>(&resource.any),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use prost::Message;

    use super::*;

    fn resource() -> Arc<Resource> {
        let any = Bytes::from_static(b"\x0a\x01a");
        Arc::new(Resource::new(ResourceKind::Cluster, "a".into(), "1".into(), any))
    }

    #[test]
    fn envoy_reads_what_is_written() {
        let delta = DeltaResponse::new(ResourceKind::Cluster, "7".into(), &[resource()], &["gone".into()]);
        let read = DeltaDiscoveryResponse::decode(delta.encode_to_vec().as_slice()).unwrap();
        assert_eq!((read.nonce.as_str(), read.type_url.as_str()), ("7", ResourceKind::Cluster.type_url()));
        assert_eq!(read.removed_resources, ["gone"]);
        assert_eq!((read.resources[0].name.as_str(), read.resources[0].version.as_str()), ("a", "1"));
        assert_eq!(read.resources[0].resource.as_ref().unwrap().value, b"\x0a\x01a");
        assert_eq!(read.encode_to_vec(), delta.encode_to_vec());
        assert_eq!(resource().any, b"\x0a\x01a".as_slice());

        let state = StateResponse::new(ResourceKind::Cluster, "v".into(), "8".into(), &[resource()]);
        let read = DiscoveryResponse::decode(state.encode_to_vec().as_slice()).unwrap();
        assert_eq!((read.nonce.as_str(), read.version_info.as_str()), ("8", "v"));
        assert_eq!(read.resources[0].type_url, ResourceKind::Cluster.type_url());
        assert_eq!(read.encode_to_vec(), state.encode_to_vec());
    }

    #[test]
    fn a_resource_can_be_read() {
        assert!(describe(ResourceKind::Cluster, &resource()).contains("name: \"a\""));
    }
}
