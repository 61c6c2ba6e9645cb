//! Resources and responses for tests, as a server sends them.

#![expect(clippy::unnecessary_wraps, reason = "the fields of protobuf messages are options")]

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, Metadata, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};
use envoy_types::util::pack_any;
use prost::{Message, Name};

use super::decode;
use crate::config::pieces::Kind;

/// `ads: {}`.
pub(crate) fn ads() -> ConfigSource {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
    ConfigSource { config_source_specifier: Some(ads), ..ConfigSource::default() }
}

/// Our metadata, from JSON.
pub(crate) fn ours(json: &serde_json::Value) -> Option<Metadata> {
    let Some(ValueKind::StructValue(ours)) = value(json).kind else { panic!("{json} is no object") };
    Some(Metadata { filter_metadata: [("fairlead.dev".to_owned(), ours)].into(), ..Metadata::default() })
}

fn value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => ValueKind::NullValue(0),
        serde_json::Value::Bool(value) => ValueKind::BoolValue(*value),
        serde_json::Value::Number(value) => ValueKind::NumberValue(value.as_f64().unwrap()),
        serde_json::Value::String(value) => ValueKind::StringValue(value.clone()),
        serde_json::Value::Array(list) => {
            ValueKind::ListValue(ListValue { values: list.iter().map(value).collect() })
        }
        serde_json::Value::Object(fields) => ValueKind::StructValue(Struct {
            fields: fields.iter().map(|(name, field)| (name.clone(), value(field))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

/// A filter of a chain.
pub(crate) fn filter<M: Message + Name>(name: &str, config: M) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(pack_any(config))) }
}

/// A chain of one filter.
pub(crate) fn chain<M: Message + Name>(name: &str, config: M) -> FilterChain {
    FilterChain { filters: vec![filter(name, config)], ..FilterChain::default() }
}

/// A connection manager with RDS and the router.
pub(crate) fn manager(routes: &str) -> HttpConnectionManager {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
        ..HttpFilter::default()
    };
    let rds = Rds { config_source: Some(ads()), route_config_name: routes.to_owned() };
    HttpConnectionManager {
        http_filters: vec![router],
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..HttpConnectionManager::default()
    }
}

/// A listener for HTTP.
pub(crate) fn listener(name: &str, routes: &str) -> Listener {
    Listener {
        name: name.to_owned(),
        filter_chains: vec![chain("http", manager(routes))],
        ..Listener::default()
    }
}

/// A TCP proxy.
pub(crate) fn tcp_proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    }
}

/// A route with this action, for every path.
pub(crate) fn route(action: route::Action) -> Route {
    let path = PathSpecifier::Prefix("/".to_owned());
    Route {
        name: "shop/reviews#default".to_owned(),
        r#match: Some(RouteMatch { path_specifier: Some(path), ..RouteMatch::default() }),
        action: Some(action),
        ..Route::default()
    }
}

/// A route that forwards to a cluster.
pub(crate) fn forward(cluster: &str) -> RouteAction {
    let cluster = ClusterSpecifier::Cluster(cluster.to_owned());
    RouteAction { cluster_specifier: Some(cluster), ..RouteAction::default() }
}

/// One virtual host for everything, with these routes.
pub(crate) fn routes(name: &str, routes: Vec<Route>) -> RouteConfiguration {
    let host = VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        ..VirtualHost::default()
    };
    RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

/// A cluster with EDS under its own name.
pub(crate) fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() }),
        ..Cluster::default()
    }
}

/// An endpoint at this address.
pub(crate) fn endpoint(address: &str, port: u32) -> LbEndpoint {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address, ..Endpoint::default() })),
        ..LbEndpoint::default()
    }
}

/// Endpoints at 10.0.0.1, one for each port.
pub(crate) fn endpoints(name: &str, ports: &[u32]) -> ClusterLoadAssignment {
    let lb_endpoints = ports.iter().map(|port| endpoint("10.0.0.1", *port)).collect();
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() }],
        ..ClusterLoadAssignment::default()
    }
}

/// In its wrapper.
pub(crate) fn resource<M: Message + Name>(name: &str, version: &str, message: M) -> Resource {
    wrapped(name, version, pack_any(message))
}

/// In its wrapper.
pub(crate) fn wrapped(name: &str, version: &str, any: Any) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any),
        ..Resource::default()
    }
}

/// A response.
pub(crate) fn response(
    kind: Kind,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: decode::type_url(kind).to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}
