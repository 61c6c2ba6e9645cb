//! `Listener`: what is spoken at an address, and which routes or cluster it leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{
    ApiListener, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier as RouteCluster;
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::util::pack_any;
use prost::{Message, Name};
use serde_json::{Value as Json, json};

use super::metadata::Metadata;
use super::{ads, duration, flag, joined, socket};
use crate::model::ObjectKey;
use crate::model::limits::{Inbound, Policy};
use crate::model::mesh::{Port, PortName};
use crate::model::service::Protocol;

/// How long Envoy waits for the first bytes of a client where nothing says what is spoken; then it is a
/// protocol in which the server speaks first. (The sidecar needs no such time.)
const DETECTION: Duration = Duration::from_secs(1);

/// What Envoy's HTTP inspector calls what it has seen.
const HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// Calls to `port`, by name or at `address`; both have the same content.
pub fn outbound(port: &Port, name: &str, address: Option<SocketAddr>) -> Vec<u8> {
    let address = address.unwrap_or_else(|| nominal(port));
    let leads_to = LeadsTo { routes: Routes::ByName(&port.name), cluster: &port.name };
    listener(name, address, TrafficDirection::Outbound, port.listener.protocol, leads_to).encode_to_vec()
}

/// Calls to the address of one endpoint of a headless Service. Routes and cluster have the address as their
/// name: what names the Service is balanced, everything else goes to that endpoint.
pub fn pod(port: &Port, address: SocketAddr) -> Vec<u8> {
    let name = address.to_string();
    let leads_to = LeadsTo { routes: Routes::ByName(&name), cluster: &name };
    listener(&name, address, TrafficDirection::Outbound, port.listener.protocol, leads_to).encode_to_vec()
}

/// What gRPC's own client asks for: routes, and a Router as the only filter.
pub fn api(port: &Port, name: &str) -> Vec<u8> {
    let manager = manager(name, Routes::ByName(&port.name));
    let listener = Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(pack_any(manager)) }),
        ..Default::default()
    };
    listener.encode_to_vec()
}

/// Calls that arrive at an endpoint: the limits of all Service ports that list it.
pub fn inbound(name: &str, address: SocketAddr, ports: &[(PortName, Arc<Inbound>)]) -> Vec<u8> {
    let leads_to = LeadsTo { routes: Routes::Inline(Box::new(inbound_routes(name))), cluster: name };
    let protocol = common_protocol(ports.iter().map(|(_, inbound)| inbound.protocol));
    let listener = listener(name, address, TrafficDirection::Inbound, protocol, leads_to);
    joined(&listener, &Rest { metadata: Some(limits(ports)) })
}

/// Where a listener without an address of its own would listen; `bind_to_port` is false, so nobody does.
fn nominal(port: &Port) -> SocketAddr {
    let ip = port.listener.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    SocketAddr::new(ip, port.number)
}

/// Where what arrives is sent on to.
struct LeadsTo<'a> {
    routes: Routes<'a>,
    cluster: &'a str,
}

enum Routes<'a> {
    ByName(&'a str),
    Inline(Box<RouteConfiguration>),
}

fn listener(
    name: &str,
    address: SocketAddr,
    direction: TrafficDirection,
    protocol: Protocol,
    leads_to: LeadsTo<'_>,
) -> Listener {
    let mut listener = Listener {
        name: name.to_owned(),
        address: Some(socket(address)),
        bind_to_port: Some(flag(false)),
        traffic_direction: direction.into(),
        ..Default::default()
    };
    let http = |routes| chain("envoy.filters.network.http_connection_manager", manager(name, routes));
    let bytes = |cluster| chain("envoy.filters.network.tcp_proxy", tcp_proxy(name, cluster));
    match protocol {
        Protocol::Http | Protocol::Http2 => listener.filter_chains = vec![http(leads_to.routes)],
        Protocol::Opaque => listener.filter_chains = vec![bytes(leads_to.cluster)],
        Protocol::Detect => {
            let mut chain = http(leads_to.routes);
            chain.filter_chain_match = Some(FilterChainMatch {
                application_protocols: HTTP.map(str::to_owned).to_vec(),
                ..Default::default()
            });
            listener.filter_chains = vec![chain];
            listener.default_filter_chain = Some(bytes(leads_to.cluster));
            listener.listener_filters = vec![ListenerFilter {
                name: "envoy.filters.listener.http_inspector".to_owned(),
                config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(
                    HttpInspector::default(),
                ))),
                ..Default::default()
            }];
            listener.listener_filters_timeout = Some(duration(DETECTION));
            listener.continue_on_listener_filters_timeout = true;
        }
    }
    listener
}

fn chain<T: Name + Message>(name: &str, config: T) -> FilterChain {
    let config_type = Some(filter::ConfigType::TypedConfig(pack_any(config)));
    FilterChain { filters: vec![Filter { name: name.to_owned(), config_type }], ..Default::default() }
}

fn manager(name: &str, routes: Routes<'_>) -> HttpConnectionManager {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
        ..Default::default()
    };
    HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: name.to_owned(),
        http_filters: vec![router],
        // Five minutes in Envoy, unless it is written out.
        stream_idle_timeout: Some(duration(Duration::ZERO)),
        // Answers stay as the application gave them.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        route_specifier: Some(match routes {
            Routes::ByName(name) => {
                RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name.to_owned() })
            }
            Routes::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
        }),
        ..Default::default()
    }
}

fn tcp_proxy(name: &str, cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: name.to_owned(),
        // An hour in Envoy, unless it is written out.
        idle_timeout: Some(duration(Duration::ZERO)),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    }
}

/// Everything to the application behind the endpoint.
fn inbound_routes(name: &str) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(RouteCluster::Cluster(name.to_owned())),
        timeout: Some(duration(Duration::ZERO)),
        ..Default::default()
    };
    let everything = RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix(String::new())),
        ..Default::default()
    };
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: name.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: name.to_owned(),
                r#match: Some(everything),
                action: Some(route::Action::Route(action)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        // The sidecar knows where its application is; there is no such cluster.
        validate_clusters: Some(flag(false)),
        ..Default::default()
    }
}

/// What is spoken at an endpoint that several Service ports may list: what all of them say, or what the
/// first bytes say.
fn common_protocol(protocols: impl Iterator<Item = Protocol>) -> Protocol {
    let mut kinds: Vec<_> = protocols.collect();
    kinds.dedup();
    match kinds.as_slice() {
        [one] => *one,
        several if several.iter().all(|kind| matches!(kind, Protocol::Http | Protocol::Http2)) => {
            Protocol::Http
        }
        _ => Protocol::Detect,
    }
}

/// What Envoy has no field for.
#[derive(Clone, PartialEq, Message)]
struct Rest {
    #[prost(message, optional, tag = "6")]
    metadata: Option<Metadata>,
}

/// `services`, `policies` and `targets`, see the sidecar's `InboundSettings`: a policy may be for many rules,
/// and stands once.
fn limits(ports: &[(PortName, Arc<Inbound>)]) -> Metadata {
    let services: BTreeSet<&str> = ports.iter().map(|(name, _)| &**name).collect();
    let mut targets: BTreeMap<&str, &[Arc<Policy>]> = services.iter().map(|name| (*name, &[][..])).collect();
    for (_, inbound) in ports {
        targets.extend(inbound.targets.iter().map(|(target, policies)| (&**target, policies.as_slice())));
    }
    let policies: BTreeMap<&ObjectKey, &Policy> = targets
        .values()
        .flat_map(|policies| policies.iter())
        .map(|policy| (&policy.key, &**policy))
        .collect();
    let targets = targets.into_iter().map(|(target, policies)| {
        (target.to_owned(), policies.iter().map(|policy| Json::String(policy.key.to_string())).collect())
    });
    Metadata::new([
        ("services", json!(services)),
        ("policies", policies.into_values().map(limit_policy).collect()),
        ("targets", Json::Object(targets.collect())),
    ])
}

/// A policy in the words in which it was written; only durations become milliseconds.
fn limit_policy(policy: &Policy) -> Json {
    let limits = policy.limits.iter().map(|limit| {
        json!({
            "name": limit.name,
            "matches": limit.matches,
            "key": limit.key,
            "requests": limit.requests,
            "perMs": u64::try_from(limit.per.get().as_millis()).unwrap_or(u64::MAX),
            "burst": limit.burst.unwrap_or(limit.requests),
            "algorithm": limit.algorithm,
        })
    });
    json!({
        "name": policy.key.to_string(),
        "shadow": policy.shadow,
        "from": policy.from,
        "limits": limits.collect::<Vec<_>>(),
        "response": policy.response,
    })
}
