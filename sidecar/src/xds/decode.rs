//! From Envoy's protobuf to the words of this crate.
//!
//! In two phases, so that a refusal always names its resource: the name comes from the wrapper of the
//! incremental protocol, before the resource itself is looked at ([`super::subscription`] does that), and
//! then [`decode`] either makes the whole resource or says which field of it is wrong.
//!
//! Resources come with our metadata (`filter_metadata["fairlead.dev"]`, from the operator) or without it
//! (any other xDS server). What we lack and what would change what a request meets is refused, with the
//! field's name, rather than ignored; each file lists what is ignored because it does not.
//!
//! Nothing here panics, whatever the bytes; the size of a resource is bounded, and so are the number and
//! the size of the regular expressions.

mod cluster;
mod endpoints;
mod listener;
mod metadata;
mod route;

pub use self::metadata::KEY as METADATA;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::ConfigSource;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::google::protobuf as google;
use prost::{Message, Name};

use crate::config::pieces::{Kind, Piece};

/// The largest resource: a `ClusterLoadAssignment` of 100,000 endpoints takes half of it.
const MAX_RESOURCE: usize = 16 * 1024 * 1024;

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Why a resource cannot be used: the field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(String);

impl Rejection {
    /// With this reason.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// Of a field that we do not know what to do with; `instead` is what would do.
    fn unsupported(field: &str, instead: &str) -> Self {
        Self(format!("{field} is not supported; {instead}"))
    }

    /// The same, further out.
    fn within(self, place: impl Display) -> Self {
        Self(format!("{place}: {}", self.0))
    }
}

/// The kind of resources that a type URL names.
pub fn kind(type_url: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| self::type_url(*kind) == type_url)
}

/// The type URL of a kind of resources.
pub fn type_url(kind: Kind) -> &'static str {
    match kind {
        Kind::Listener => LISTENER,
        Kind::Route => ROUTE,
        Kind::Cluster => CLUSTER,
        Kind::Endpoints => ENDPOINTS,
    }
}

/// Decodes the resource of this kind and name.
///
/// # Errors
/// When it cannot be used, with the field and the reason.
pub fn decode(kind: Kind, name: &Arc<str>, any: &google::Any) -> Result<Piece, Rejection> {
    if any.value.len() > MAX_RESOURCE {
        return Err(Rejection(format!("it has {} bytes, more than {MAX_RESOURCE}", any.value.len())));
    }
    Ok(match kind {
        Kind::Listener => Piece::Listener(Arc::new(listener::decode(name, unpack::<Listener>(any)?)?)),
        Kind::Route => Piece::Routes(Arc::new(route::decode(name, &unpack::<RouteConfiguration>(any)?)?)),
        Kind::Cluster => Piece::Cluster(Arc::new(cluster::decode(name, unpack::<Cluster>(any)?)?)),
        Kind::Endpoints => Piece::Endpoints(endpoints::decode(unpack::<ClusterLoadAssignment>(any)?)?.into()),
    })
}

/// The message in an `Any`, which must be of that type.
fn unpack<M: Message + Name + Default>(any: &google::Any) -> Result<M, Rejection> {
    let expected = M::full_name();
    if any.type_url.rsplit('/').next() != Some(expected.as_str()) {
        return Err(Rejection(format!("it is a {:?}, not a {expected}", any.type_url)));
    }
    M::decode(any.value.as_slice())
        .map_err(|error| Rejection(format!("it cannot be read as a {expected}: {error}")))
}

/// Whether a message in an `Any` is of this type.
fn is<M: Name>(any: &google::Any) -> bool {
    any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
}

/// A duration, which must not be negative.
fn duration(field: &str, value: google::Duration) -> Result<Duration, Rejection> {
    // protobuf's own bound: ten thousand years.
    let seconds = u64::try_from(value.seconds).ok().filter(|seconds| *seconds <= 315_576_000_000);
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(Rejection(format!("{field} is not a duration of zero or more"))),
    }
}

/// A duration where zero, like absence, means none.
fn limit(field: &str, value: Option<google::Duration>) -> Result<Option<Duration>, Rejection> {
    let value = value.map(|value| duration(field, value)).transpose()?;
    Ok(value.filter(|value| !value.is_zero()))
}

/// A reference to a resource that must come over the stream that this resource came over.
fn same_server(field: &str, source: Option<&ConfigSource>) -> Result<(), Rejection> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        _ => Err(Rejection::unsupported(field, "it must be `ads` or `self`")),
    }
}

/// A text in which Envoy looks for formatters: `%%` is a percent sign, and nothing else with one is known.
fn literal(field: &str, text: &str) -> Result<String, Rejection> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        plain.push('%');
        rest = after.strip_prefix('%').ok_or_else(|| {
            let what = format!("the formatter in {text:?}");
            Rejection::unsupported(&what, "only fixed values are (a percent sign is written `%%`)")
                .within(field)
        })?;
    }
    plain.push_str(rest);
    Ok(plain)
}

#[cfg(test)]
mod tests;
