//! Each shape of a listener.

#![expect(clippy::unnecessary_wraps, reason = "the fields of protobuf messages are options")]

use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, FilterChainMatch};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::ScopedRoutes;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    TunnelingConfig, WeightedCluster, weighted_cluster::ClusterWeight,
};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use envoy_types::util::pack_any;

use super::*;
use crate::xds::testing::{
    chain, forward, listener, manager, ours, route as one_route, routes, tcp_proxy as proxy,
};

fn decoded(listener: EnvoyListener) -> (Protocol, Option<RouteSource>, Option<Arc<str>>) {
    match decode(&"a".into(), listener).unwrap() {
        Listener::Outbound { protocol, routes, opaque } => (protocol, routes, opaque),
        Listener::Inbound { .. } => panic!("inbound"),
    }
}

fn refused(listener: EnvoyListener) -> String {
    decode(&"a".into(), listener).unwrap_err().to_string()
}

fn with_chains(filter_chains: Vec<FilterChain>) -> EnvoyListener {
    EnvoyListener { filter_chains, ..EnvoyListener::default() }
}

fn with_manager(manager: HttpConnectionManager) -> EnvoyListener {
    with_chains(vec![chain("http", manager)])
}

fn protocols(names: &[&str]) -> Option<FilterChainMatch> {
    let application_protocols = names.iter().map(ToString::to_string).collect();
    Some(FilterChainMatch { application_protocols, ..FilterChainMatch::default() })
}

#[test]
fn a_connection_manager_is_http() {
    let (protocol, routes, opaque) = decoded(listener("a", "r"));
    assert_eq!((protocol, opaque), (Protocol::Http, None));
    assert!(matches!(routes, Some(RouteSource::Named(name)) if &*name == "r"));
}

#[test]
fn an_api_listener_is_http() {
    let api = ApiListener { api_listener: Some(pack_any(manager("r"))) };
    let (protocol, routes, _) =
        decoded(EnvoyListener { api_listener: Some(api), ..EnvoyListener::default() });
    assert_eq!(protocol, Protocol::Http);
    assert!(matches!(routes, Some(RouteSource::Named(name)) if &*name == "r"));
}

#[test]
fn routes_may_be_inline() {
    let table = routes("", vec![one_route(Action::Route(forward("c")))]);
    let inline =
        HttpConnectionManager { route_specifier: Some(RouteSpecifier::RouteConfig(table)), ..manager("") };
    let (_, Some(RouteSource::Inline(table)), _) = decoded(with_manager(inline)) else { panic!() };
    assert_eq!((table.name.as_ref(), table.clusters.as_slice()), ("a", &[Arc::from("c")][..]));
}

#[test]
fn a_tcp_proxy_is_bytes() {
    let (protocol, routes, opaque) = decoded(with_chains(vec![chain("tcp", proxy("c"))]));
    assert_eq!((protocol, opaque.as_deref()), (Protocol::Opaque, Some("c")));
    assert!(routes.is_none());
}

#[test]
fn both_are_told_apart_by_the_first_bytes() {
    let http = FilterChain {
        filter_chain_match: protocols(&["http/1.0", "http/1.1", "h2c"]),
        ..chain("http", manager("r"))
    };
    let inspector = ListenerFilter {
        name: "envoy.filters.listener.http_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(HttpInspector::default()))),
        ..ListenerFilter::default()
    };
    let (protocol, routes, opaque) = decoded(EnvoyListener {
        filter_chains: vec![http],
        default_filter_chain: Some(chain("tcp", proxy("c"))),
        listener_filters: vec![inspector],
        ..EnvoyListener::default()
    });
    assert_eq!((protocol, opaque.as_deref()), (Protocol::Detect, Some("c")));
    assert!(routes.is_some());
}

#[test]
fn an_inbound_listener_has_an_address_and_limits() {
    let limits = serde_json::json!({"services": ["shop/reviews:9080"], "targets": {"shop/reviews:9080": []}});
    let with = |name: &str, metadata| decode(&name.into(), EnvoyListener { metadata, ..listener(name, "r") });
    let Listener::Inbound { address, protocol, limits } =
        with("inbound/[fd00::1]:80", ours(&limits)).unwrap()
    else {
        panic!("outbound")
    };
    assert_eq!((address, protocol), ("[fd00::1]:80".parse().unwrap(), Protocol::Http));
    assert_eq!(limits.services, ["shop/reviews:9080"]);
    let Listener::Inbound { limits, .. } = with("inbound/10.0.0.1:80", None).unwrap() else {
        panic!("outbound")
    };
    assert_eq!(limits, InboundSettings::default());

    let wrong = ours(&serde_json::json!({"services": "shop/reviews"}));
    assert!(with("inbound/10.0.0.1:80", wrong).unwrap_err().to_string().contains("metadata fairlead.dev"));
    assert!(with("inbound/here:80", None).unwrap_err().to_string().contains("address"));
    let misplaced = ours(&serde_json::json!({"services": []}));
    assert!(with("a", misplaced).unwrap_err().to_string().contains("limits"));
}

#[test]
fn the_connection_manager_may_not_ask_for_what_we_lack() {
    let scoped = RouteSpecifier::ScopedRoutes(ScopedRoutes::default());
    let elsewhere = RouteSpecifier::Rds(Default::default());
    let filter = |name: &str, any| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any)),
        ..HttpFilter::default()
    };
    let buffer = filter("envoy.filters.http.buffer", pack_any(Buffer::default()));
    let yes = Some(BoolValue { value: true });
    for (manager, field) in [
        (HttpConnectionManager { codec_type: CodecType::Http3 as i32, ..manager("r") }, "codec_type HTTP3"),
        (HttpConnectionManager { route_specifier: Some(scoped), ..manager("r") }, "scoped_routes"),
        (HttpConnectionManager { route_specifier: Some(elsewhere), ..manager("r") }, "rds.config_source"),
        (HttpConnectionManager { route_specifier: None, ..manager("r") }, "neither rds nor route_config"),
        (HttpConnectionManager { normalize_path: yes, ..manager("r") }, "normalize_path"),
        (HttpConnectionManager { merge_slashes: true, ..manager("r") }, "merge_slashes"),
        (
            HttpConnectionManager { http_filters: vec![buffer.clone()], ..manager("r") },
            "envoy.filters.http.buffer",
        ),
        (manager(""), "route_config_name"),
    ] {
        let error = refused(with_manager(manager));
        assert!(
            error.contains(field) && error.starts_with("filter_chains[0]: filter \"http\": "),
            "{field}: {error}"
        );
    }
    let optional = HttpFilter { is_optional: true, ..buffer };
    decoded(with_manager(HttpConnectionManager { http_filters: vec![optional], ..manager("r") }));
    let by_name = HttpFilter { name: "envoy.filters.http.router".to_owned(), ..HttpFilter::default() };
    decoded(with_manager(HttpConnectionManager { http_filters: vec![by_name], ..manager("r") }));
}

#[test]
fn bytes_go_to_one_cluster() {
    let weighted = |weights: &[u32]| {
        let clusters = weights.iter().enumerate().map(|(index, weight)| ClusterWeight {
            name: format!("c{index}"),
            weight: *weight,
            ..ClusterWeight::default()
        });
        let weighted = WeightedCluster { clusters: clusters.collect() };
        with_chains(vec![chain(
            "tcp",
            TcpProxy {
                cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
                ..TcpProxy::default()
            },
        )])
    };
    assert_eq!(decoded(weighted(&[0, 5])).2.as_deref(), Some("c1"));
    assert!(refused(weighted(&[5, 5])).contains("weighted_clusters"));
    assert!(refused(with_chains(vec![chain("tcp", TcpProxy::default())])).contains("no cluster"));
    let tunnel = TcpProxy { tunneling_config: Some(TunnelingConfig::default()), ..proxy("c") };
    assert!(refused(with_chains(vec![chain("tcp", tunnel)])).contains("tunneling_config"));
}

#[test]
fn chains_that_we_cannot_tell_apart_are_refused() {
    let http = || chain("http", manager("r"));
    let by_port =
        FilterChainMatch { destination_port: Some(UInt32Value { value: 80 }), ..FilterChainMatch::default() };
    let tls =
        TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), ..TransportSocket::default() };
    let proxy_protocol = ListenerFilter {
        name: "pp".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(ProxyProtocol::default()))),
        ..ListenerFilter::default()
    };
    for (listener, field) in [
        (with_chains(vec![]), "no filter chain"),
        (with_chains(vec![http(), http()]), "a second chain for HTTP"),
        (with_chains(vec![chain("tcp", proxy("a")), chain("tcp", proxy("b"))]), "a second chain for bytes"),
        (with_chains(vec![FilterChain::default()]), "a chain of 0 filters"),
        (with_chains(vec![chain("odd", Buffer::default())]), "HttpConnectionManager or a TcpProxy"),
        (with_chains(vec![FilterChain { filter_chain_match: Some(by_port), ..http() }]), "destination_port"),
        (
            with_chains(vec![FilterChain { filter_chain_match: protocols(&["h2"]), ..http() }]),
            "application_protocols \"h2\"",
        ),
        (
            with_chains(vec![FilterChain {
                filter_chain_match: protocols(&["h2c"]),
                ..chain("tcp", proxy("c"))
            }]),
            "they are for HTTP",
        ),
        (with_chains(vec![FilterChain { transport_socket: Some(tls), ..http() }]), "transport_socket"),
        (
            EnvoyListener { listener_filters: vec![proxy_protocol], ..listener("a", "r") },
            "listener filter \"pp\"",
        ),
        (
            EnvoyListener { udp_listener_config: Some(Default::default()), ..listener("a", "r") },
            "udp_listener_config",
        ),
    ] {
        let error = refused(listener);
        assert!(error.contains(field), "{field}: {error}");
    }
}
