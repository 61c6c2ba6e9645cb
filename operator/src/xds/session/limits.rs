//! What a stranger may send at most, and what a refused one is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use crate::xds::resource::METADATA;

/// The bounds of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names that one stream may ask for, over all types; "*" counts as none.
    pub names: usize,
    /// Bytes of one name.
    pub name_bytes: usize,
    /// Bytes of one response, unless one resource alone has more; the rest follows when that is
    /// answered. gRPC's default limit for a message received is 4 MiB. Listeners and clusters in state
    /// of the world cannot be told in parts.
    pub response_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 10_000, name_bytes: 512, response_bytes: 2 << 20 }
    }
}

/// Why a stream is ended, in words for who wrote the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Refusal {
    pub(super) fn unknown_type(type_url: &str) -> Self {
        Self(format!(
            "type URL {:?} is not served here; ask for type.googleapis.com/envoy.config.listener.v3.Listener, \
             .route.v3.RouteConfiguration, .cluster.v3.Cluster or .endpoint.v3.ClusterLoadAssignment",
            cut(type_url)
        ))
    }
}

impl Limits {
    pub(super) fn check_names<'a>(&self, names: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
        for name in names {
            if name.is_empty() {
                return Err(Refusal(
                    "a resource name is empty; leave it out, or ask for everything with \"*\"".into(),
                ));
            }
            if name.len() > self.name_bytes {
                let (limit, name) = (self.name_bytes, cut(name));
                return Err(Refusal(format!("the resource name {name:?} has more than {limit} bytes")));
            }
        }
        Ok(())
    }

    pub(super) fn check_total(&self, names: usize) -> Result<(), Refusal> {
        if names > self.names {
            let limit = self.names;
            return Err(Refusal(format!(
                "the stream asks for {names} resource names, at most {limit} are allowed; \
                 unsubscribe what is not needed, or ask for everything with \"*\""
            )));
        }
        Ok(())
    }

    pub(super) fn check_node(&self, id: &str) -> Result<Arc<str>, Refusal> {
        let fault = if id.is_empty() {
            "the first request of the stream carries no node.id"
        } else if id.len() > self.name_bytes {
            "node.id is too long"
        } else if !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            "node.id has characters other than printable ASCII"
        } else {
            return Ok(id.into());
        };
        Err(Refusal(format!("{fault}; write NAMESPACE/POD, for instance shop/reviews-7d4b9")))
    }

    /// The client's own number of this stream: of two streams of a client the one with the higher number is the
    /// later, on whichever replica. Sidecars send it in `node.metadata["fairlead.dev"].stream`, others do not.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be a whole number"
    )]
    pub(super) fn stream_number(node: &Node) -> Option<u64> {
        let Kind::NumberValue(number) = ours(node)?.fields.get("stream")?.kind.as_ref()? else { return None };
        // The whole numbers that an f64 has without gaps.
        (number.fract() == 0.0 && (1.0..=9_007_199_254_740_992.0).contains(number)).then_some(*number as u64)
    }

    /// What a sidecar reports in the metadata of its node: its clusters in panic, at most so many as it may
    /// name; none: it does not say.
    pub(super) fn panicking(&self, node: &Node) -> Option<Arc<[Arc<str>]>> {
        const CLUSTERS: usize = 64;
        let text = |value: &Value| match &value.kind {
            Some(Kind::StringValue(name)) if name.len() <= self.name_bytes => Some(Arc::from(name.as_str())),
            _ => None,
        };
        let Some(Kind::ListValue(list)) = &ours(node)?.fields.get("panicking")?.kind else { return None };
        let names: BTreeSet<Arc<str>> = list.values.iter().take(CLUSTERS).filter_map(text).collect();
        Some(names.into_iter().collect())
    }

    /// What a sidecar says of its start: whether its pod went to work before we had answered.
    pub(super) fn started_without_config(node: &Node) -> bool {
        let said = ours(node).and_then(|ours| ours.fields.get("startedWithoutConfig")?.kind.as_ref());
        matches!(said, Some(Kind::BoolValue(true)))
    }

    /// A client's own words, as much of them as is kept.
    pub(super) fn shorten<'a>(&self, message: &'a str) -> &'a str {
        const MESSAGE_BYTES: usize = 2048; // A few resources' worth of Envoy's reasons.
        message.get(..floor(message, MESSAGE_BYTES)).unwrap_or_default()
    }
}

/// What of the node's metadata is for us.
fn ours(node: &Node) -> Option<&Struct> {
    match node.metadata.as_ref()?.fields.get(METADATA)?.kind.as_ref()? {
        Kind::StructValue(ours) => Some(ours),
        _ => None,
    }
}

/// The start of a long text, for an error message.
fn cut(text: &str) -> &str {
    text.get(..floor(text, 80)).unwrap_or_default()
}

/// The last character border at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
