//! The two response messages, field for field those of `envoy.service.discovery.v3`, but with
//! shared bytes: a resource is encoded once and every stream sends the same allocation.
//!
//! Requests are read with `envoy_types`; a test holds the two against each other.

use std::sync::Arc;

use bytes::Bytes;

use super::snapshot::{Resource, ResourceKind};

/// `google.protobuf.Any` with shared bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SharedAny {
    /// What the bytes are.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded resource.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
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

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaResponse {
    /// For people only.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New or changed.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<NamedResource>,
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
        let named = |resource: &Arc<Resource>| NamedResource {
            version: resource.version.to_string(),
            resource: Some(any(kind, resource)),
            name: resource.name.to_string(),
        };
        Self {
            system_version_info: String::new(),
            resources: resources.iter().map(named).collect(),
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

/// The kind that a type URL asks for, if it is one that is served.
#[must_use]
pub fn kind_of(type_url: &str) -> Option<ResourceKind> {
    ResourceKind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
}
