//! The mesh in the words of Envoy xDS v3. One file a resource type, with the names and in the order of the
//! sidecar's decode; nothing else in the operator knows what a resource looks like.
//!
//! Real Envoy and gRPC's clients read the same bytes, so what they refuse shapes what is written here: no
//! `lb_policy`, no `path_separated_prefix`, a weight everywhere, and every limit that Envoy has a default
//! for is written out. What Envoy has no field for is in the metadata, and harmless when ignored.
//!
//! Equal input gives equal bytes, on every replica: the one map with more than one key, the metadata, is
//! ordered (see `metadata`).

pub mod listener;
pub mod route;
pub mod cluster;
pub mod endpoints;
mod metadata;

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, TypedExtensionConfig, address,
    config_source, socket_address,
};
use envoy_types::pb::google::protobuf;
use envoy_types::util::pack_any;
use prost::{Message, Name};

/// `seconds` and `nanos`.
fn duration(time: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        // Below a thousand million.
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

fn count(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

fn flag(value: bool) -> protobuf::BoolValue {
    protobuf::BoolValue { value }
}

fn extension<T: Name + Message>(name: &str, config: T) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(pack_any(config)) }
}

/// "From the stream that this came from."
fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

fn socket(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    }
}

/// The bytes of one message whose fields lie in two: the second holds those that the generated type would
/// write in no fixed order.
fn joined(message: &impl Message, rest: &impl Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    bytes.reserve(rest.encoded_len());
    rest.encode_raw(&mut bytes);
    bytes
}
