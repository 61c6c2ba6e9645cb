//! Objects in, resources out: names, changes, and what each field of a policy becomes.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, Metadata, TrafficDirection, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RedirectAction, Route, RouteAction, RouteConfiguration, route,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;
use envoy_types::pb::google::protobuf::{Any, Duration, Value};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::{Message, Name};
use serde_json::{Value as Json, json};

use super::*;
use crate::model::fixture::{add, add_slice, inputs, shop};
use crate::model::{Inputs, Kind, ObjectKey, compile, recompile};

fn snapshot(inputs: &Inputs) -> Snapshot {
    Snapshot::new(Arc::new(compile(inputs).0), None)
}

fn decoded<T: Message + Default>(snapshot: &Snapshot, kind: ResourceKind, name: &str) -> T {
    let resource = snapshot.get(kind, name).unwrap_or_else(|| panic!("{kind:?} {name}"));
    assert_eq!(&*resource.name, name);
    T::decode(resource.any.clone()).unwrap()
}

fn listener(snapshot: &Snapshot, name: &str) -> Listener {
    decoded(snapshot, ResourceKind::Listener, name)
}

fn cluster(snapshot: &Snapshot, name: &str) -> Cluster {
    decoded(snapshot, ResourceKind::Cluster, name)
}

/// The routes of a configuration with one virtual host.
fn routes(snapshot: &Snapshot, name: &str) -> Vec<Route> {
    let configuration: RouteConfiguration = decoded(snapshot, ResourceKind::Route, name);
    assert_eq!(configuration.name, name);
    let [host] = <[_; 1]>::try_from(configuration.virtual_hosts).unwrap();
    assert_eq!(host.domains, ["*"]);
    host.routes
}

fn forward(route: &Route) -> &RouteAction {
    match route.action.as_ref().unwrap() {
        route::Action::Route(action) => action,
        other => panic!("{other:?}"),
    }
}

fn unpacked<T: Name + Message + Default>(any: &Any) -> T {
    assert_eq!(any.type_url, T::type_url());
    T::decode(any.value.as_slice()).unwrap()
}

fn filter<T: Name + Message + Default>(chain: &FilterChain) -> T {
    let [filter] = chain.filters.as_slice() else { panic!("{chain:?}") };
    match filter.config_type.as_ref().unwrap() {
        filter::ConfigType::TypedConfig(any) => unpacked(any),
        filter::ConfigType::ConfigDiscovery(_) => panic!("{filter:?}"),
    }
}

fn ours(metadata: Option<&Metadata>) -> Json {
    fn json(value: &Value) -> Json {
        match value.kind.as_ref().unwrap() {
            ValueKind::NullValue(_) => Json::Null,
            ValueKind::NumberValue(number) => json!(*number),
            ValueKind::StringValue(text) => json!(text),
            ValueKind::BoolValue(flag) => json!(flag),
            ValueKind::ListValue(list) => list.values.iter().map(json).collect(),
            ValueKind::StructValue(fields) => {
                fields.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect()
            }
        }
    }
    let metadata = metadata.unwrap();
    assert_eq!(metadata.filter_metadata.len(), 1);
    let fields = &metadata.filter_metadata["fairlead.dev"].fields;
    fields.iter().map(|(name, value)| (name.clone(), json(value))).collect()
}

fn milliseconds(time: Option<Duration>) -> i64 {
    let time = time.unwrap();
    time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
}

fn strings(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

const KINDS: &str = "
kind: Service
metadata: {name: dual}
spec: {clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20, 'fd79::7'], ports: [{name: web, port: 80}, {name: tcp-x, port: 81}]}
---
kind: Service
metadata: {name: pods}
spec: {clusterIP: None, ports: [{name: http, port: 9080}]}
---
kind: EndpointSlice
metadata: {name: pods-1, labels: {kubernetes.io/service-name: pods}}
addressType: IPv4
ports: [{name: http, port: 9080}]
endpoints: [{addresses: [10.244.8.1]}, {addresses: [10.244.8.2]}]
";

#[test]
fn names_of_resources() {
    let snapshot = snapshot(&shop(KINDS));
    assert_eq!(
        strings(&snapshot.names(ResourceKind::Listener)),
        [
            "10.244.8.1:9080",
            "10.244.8.2:9080",
            "10.96.0.1:9080",
            "10.96.0.20:80",
            "10.96.0.20:81",
            "10.96.0.2:9080",
            "10.96.0.3:9080",
            "[fd79::7]:80",
            "[fd79::7]:81"
        ]
    );
    let ports = ["shop/pods:9080", "shop/ratings:9080", "shop/reviews-v2:9080", "shop/reviews:9080"];
    let both = ["shop/dual:80", "shop/dual:81"];
    let pods = ["10.244.8.1:9080", "10.244.8.2:9080"];
    assert_eq!(strings(&snapshot.names(ResourceKind::Cluster)), [&pods[..], &both, &ports].concat());
    assert_eq!(strings(&snapshot.names(ResourceKind::Route)), [&pods[..], &both[..1], &ports].concat());
    assert_eq!(strings(&snapshot.names(ResourceKind::Endpoints)), [&both[..], &ports].concat());
    for kind in ResourceKind::ALL {
        assert_eq!(snapshot.wildcard(kind).count(), snapshot.names(kind).len());
    }

    for name in ["shop/reviews:9080", "reviews.shop.svc.cluster.local:9080", "inbound/10.244.1.1:9080"] {
        assert_eq!(listener(&snapshot, name).name, name);
    }
    for name in [
        "shop/reviews:9081",
        "shop/unknown:80",
        "10.96.0.99:80",
        "10.96.0.1:80",
        "inbound/10.244.1.99:9080",
        "inbound/x",
        "inbound/",
        "reviews.shop:9080",
        "reviews.shop.svc.cluster.local",
        "dual.shop.svc.cluster.local:81",
        "[fd79:0::7]:80",
        "10.244.1.1:9080",
        "",
    ] {
        assert!(snapshot.get(ResourceKind::Listener, name).is_none(), "{name}");
    }
    for kind in [ResourceKind::Route, ResourceKind::Cluster, ResourceKind::Endpoints] {
        for name in ["inbound/10.244.1.1:9080", "10.96.0.1:9080", "reviews.shop.svc.cluster.local:9080"] {
            assert!(snapshot.get(kind, name).is_none(), "{kind:?} {name}");
        }
    }
}

#[test]
fn listeners_by_protocol() {
    let snapshot = snapshot(&shop(KINDS));
    let by_name = listener(&snapshot, "shop/reviews:9080");
    let by_address = listener(&snapshot, "10.96.0.1:9080");
    assert_eq!(Listener { name: by_address.name.clone(), ..by_name.clone() }.filter_chains.len(), 1);
    assert!(!by_name.bind_to_port.unwrap().value);
    assert_eq!(by_name.traffic_direction, i32::from(TrafficDirection::Outbound));
    for listener in [&by_name, &by_address, &self::listener(&snapshot, "10.244.8.1:9080")] {
        let [chain] = listener.filter_chains.as_slice() else { panic!("{listener:?}") };
        let manager: HttpConnectionManager = filter(chain);
        assert_eq!(manager.http_filters.len(), 1);
        assert_eq!(milliseconds(manager.stream_idle_timeout), 0);
        assert!(listener.default_filter_chain.is_none());
    }

    let opaque = listener(&snapshot, "10.96.0.20:81");
    let proxy: TcpProxy = filter(&opaque.filter_chains[0]);
    assert_eq!(proxy.cluster_specifier, Some(tcp_proxy::ClusterSpecifier::Cluster("shop/dual:81".into())));

    let detected = listener(&snapshot, "[fd79::7]:80");
    let address::Address::SocketAddress(socket) = detected.address.unwrap().address.unwrap() else {
        panic!()
    };
    assert_eq!(
        (socket.address.as_str(), socket.port_specifier),
        ("fd79::7", Some(socket_address::PortSpecifier::PortValue(80)))
    );
    assert_eq!(detected.listener_filters.len(), 1);
    let _: HttpConnectionManager = filter(&detected.filter_chains[0]);
    let matched = detected.filter_chains[0].filter_chain_match.as_ref().unwrap();
    assert_eq!(matched.application_protocols, ["http/1.0", "http/1.1", "h2c"]);
    let _: TcpProxy = filter(detected.default_filter_chain.as_ref().unwrap());

    let api = listener(&snapshot, "reviews.shop.svc.cluster.local:9080")
        .api_listener
        .unwrap()
        .api_listener
        .unwrap();
    let manager: HttpConnectionManager = unpacked(&api);
    let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier else { panic!() };
    assert_eq!(rds.route_config_name, "shop/reviews:9080");
}

#[test]
fn what_is_sent_to_a_pod_of_a_headless_service() {
    let snapshot = snapshot(&inputs(KINDS));
    let configuration: RouteConfiguration = decoded(&snapshot, ResourceKind::Route, "10.244.8.1:9080");
    let [service, pod] = configuration.virtual_hosts.as_slice() else { panic!() };
    assert!(service.domains.contains(&"pods.shop.svc.cluster.local:9080".to_owned()));
    assert!(service.domains.contains(&"pods".to_owned()));
    assert_eq!(
        forward(&service.routes[0]).cluster_specifier,
        Some(ClusterSpecifier::Cluster("shop/pods:9080".into()))
    );
    assert_eq!(pod.domains, ["*"]);
    assert_eq!(
        forward(&pod.routes[0]).cluster_specifier,
        Some(ClusterSpecifier::Cluster("10.244.8.1:9080".into()))
    );
    let cluster = cluster(&snapshot, "10.244.8.1:9080");
    assert_eq!(
        cluster.cluster_discovery_type,
        Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()))
    );
    assert_eq!(
        endpoints_of(&cluster.load_assignment.unwrap()),
        [(String::new(), 1, vec!["10.244.8.1:9080".parse().unwrap()])]
    );
    assert!(snapshot.get(ResourceKind::Endpoints, "10.244.8.1:9080").is_none());
}

fn endpoints_of(assignment: &ClusterLoadAssignment) -> Vec<(String, u32, Vec<SocketAddr>)> {
    let address = |host: &HostIdentifier| {
        let HostIdentifier::Endpoint(endpoint) = host else { panic!() };
        let Some(address::Address::SocketAddress(socket)) = &endpoint.address.as_ref().unwrap().address
        else {
            panic!()
        };
        let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!() };
        SocketAddr::new(socket.address.parse().unwrap(), u16::try_from(port).unwrap())
    };
    let locality = |locality: &envoy_types::pb::envoy::config::endpoint::v3::LocalityLbEndpoints| {
        assert_eq!(locality.priority, 0);
        let addresses = locality.lb_endpoints.iter().map(|endpoint| {
            assert_eq!(endpoint.load_balancing_weight.unwrap().value, 1);
            address(endpoint.host_identifier.as_ref().unwrap())
        });
        let zone = locality.locality.as_ref().unwrap().zone.clone();
        (zone, locality.load_balancing_weight.unwrap().value, addresses.collect())
    };
    assignment.endpoints.iter().map(locality).collect()
}

#[test]
fn endpoints_by_zone() {
    let mut inputs = inputs(KINDS);
    add(
        &mut inputs,
        json!({
            "kind": "EndpointSlice",
            "metadata": {"name": "dual-1", "labels": {"kubernetes.io/service-name": "dual"}},
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.2"], "zone": "b"},
                {"addresses": ["10.0.0.1"], "zone": "b"},
                {"addresses": ["10.0.0.3"], "zone": "a"},
            ],
        }),
    );
    let snapshot = snapshot(&inputs);
    let assignment: ClusterLoadAssignment = decoded(&snapshot, ResourceKind::Endpoints, "shop/dual:80");
    assert_eq!(assignment.cluster_name, "shop/dual:80");
    let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
    assert_eq!(
        endpoints_of(&assignment),
        [
            ("a".into(), 1, vec![address("10.0.0.3:8080")]),
            ("b".into(), 2, vec![address("10.0.0.1:8080"), address("10.0.0.2:8080")]),
        ]
    );
    let none: ClusterLoadAssignment = decoded(&snapshot, ResourceKind::Endpoints, "shop/dual:81");
    assert!(none.endpoints.is_empty());
}

#[test]
fn a_cluster_without_any_object() {
    let snapshot = snapshot(&shop(KINDS));
    let cluster = cluster(&snapshot, "shop/reviews:9080");
    assert_eq!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())));
    assert_eq!(cluster.lb_policy, 0);
    assert_eq!(
        balance(&cluster),
        ["envoy.load_balancing_policies.least_request", "envoy.load_balancing_policies.round_robin"]
    );
    let thresholds = &cluster.circuit_breakers.as_ref().unwrap().thresholds[0];
    for limit in [
        thresholds.max_connections,
        thresholds.max_pending_requests,
        thresholds.max_requests,
        thresholds.max_retries,
    ] {
        assert_eq!(limit.unwrap().value, u32::MAX);
    }
    let budget = thresholds.retry_budget.as_ref().unwrap();
    assert_eq!(budget.budget_percent.unwrap().value, 20.0);
    assert_eq!(milliseconds(budget.budget_interval), 10_000);
    assert_eq!(budget.min_retry_concurrency, None);
    assert_eq!(milliseconds(cluster.connect_timeout), 1000);
    assert_eq!(cluster.common_lb_config.as_ref().unwrap().healthy_panic_threshold.unwrap().value, 0.0);
    assert!(cluster.outlier_detection.is_none());
    let http = http(&cluster);
    let common = http.common_http_protocol_options.unwrap();
    assert_eq!((milliseconds(common.idle_timeout), common.max_requests_per_connection), (90_000, None));
    assert!(matches!(http.upstream_protocol_options, Some(UpstreamProtocolOptions::ExplicitHttpConfig(_))));
    assert_eq!(
        ours(cluster.metadata.as_ref()),
        json!({
            "pendingTimeoutMs": 3000.0,
            "budget": {"percent": 20.0, "intervalMs": 10000.0, "minRetries": 10.0, "minRetriesIntervalMs": 1000.0},
        })
    );
    let detected = self::http(&self::cluster(&snapshot, "shop/dual:80"));
    assert!(matches!(
        detected.upstream_protocol_options,
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_))
    ));
}

fn balance(cluster: &Cluster) -> Vec<String> {
    let policies = cluster.load_balancing_policy.as_ref().unwrap().policies.iter();
    policies.map(|policy| policy.typed_extension_config.as_ref().unwrap().name.clone()).collect()
}

fn http(cluster: &Cluster) -> HttpProtocolOptions {
    unpacked(
        &cluster.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"],
    )
}

#[test]
fn every_field_of_the_pool_the_budget_and_the_ejection() {
    let yaml = "
kind: ServiceRoute
metadata: {name: reviews}
spec:
  parentRefs: [{name: reviews}]
  loadBalancer: {type: Random}
  connectionPool:
    {maxConnections: 4, maxPendingRequests: 0, pendingTimeout: 500ms, maxRequests: 200, maxRequestsPerConnection: 1,
     connectTimeout: 250ms, idleTimeout: 5s}
  retryConstraint: {budget: {percent: 30, interval: 20s}, minRetryRate: {count: 0, interval: 2s}}
---
kind: OutlierDetection
metadata: {name: reviews}
spec:
  targetRefs: [{name: reviews, sectionName: http}]
  consecutiveErrors: 3
  ejection: {baseTime: 1500ms, maxTime: 60s, maxPercent: 40, minHealthyPercent: 20}
  recovery: {probes: 2}
";
    let cluster = cluster(&snapshot(&shop(yaml)), "shop/reviews:9080");
    assert_eq!(
        balance(&cluster),
        ["envoy.load_balancing_policies.random", "envoy.load_balancing_policies.round_robin"]
    );
    let thresholds = &cluster.circuit_breakers.as_ref().unwrap().thresholds[0];
    assert_eq!(thresholds.max_connections.unwrap().value, 4);
    assert_eq!(thresholds.max_pending_requests.unwrap().value, 1);
    assert_eq!(thresholds.max_requests.unwrap().value, 200);
    let budget = thresholds.retry_budget.as_ref().unwrap();
    assert_eq!((budget.budget_percent.unwrap().value, milliseconds(budget.budget_interval)), (30.0, 20_000));
    assert_eq!(budget.min_retry_concurrency.unwrap().value, 0);
    assert_eq!(milliseconds(cluster.connect_timeout), 250);
    let common = http(&cluster).common_http_protocol_options.unwrap();
    assert_eq!(
        (milliseconds(common.idle_timeout), common.max_requests_per_connection.unwrap().value),
        (5000, 1)
    );
    assert_eq!(cluster.common_lb_config.as_ref().unwrap().healthy_panic_threshold.unwrap().value, 20.0);
    let detection = cluster.outlier_detection.as_ref().unwrap();
    assert_eq!(detection.consecutive_gateway_failure.unwrap().value, 3);
    assert_eq!(detection.enforcing_consecutive_gateway_failure.unwrap().value, 100);
    assert_eq!(detection.enforcing_consecutive_5xx.unwrap().value, 0);
    assert_eq!(detection.enforcing_success_rate.unwrap().value, 0);
    assert_eq!(milliseconds(detection.base_ejection_time), 1500);
    assert_eq!(milliseconds(detection.max_ejection_time), 60_000);
    assert_eq!(detection.max_ejection_percent.unwrap().value, 40);
    assert!(detection.always_eject_one_host.unwrap().value);
    assert!(!detection.split_external_local_origin_errors);
    assert_eq!(
        ours(cluster.metadata.as_ref()),
        json!({
            "pendingTimeoutMs": 500.0,
            "maxPendingRequests": 0.0,
            "budget": {"percent": 30.0, "intervalMs": 20000.0, "minRetries": 0.0, "minRetriesIntervalMs": 2000.0},
            "outlier": {
                "shadow": false,
                "errors": ["GatewayError", "ConnectFailure", "Timeout", "Reset"],
                "consecutiveErrors": 3.0,
                "probes": 2.0,
            },
        })
    );
}

#[test]
fn which_errors_envoy_can_count() {
    let enforced = |spec: &str| {
        let yaml = format!(
            "kind: OutlierDetection\nmetadata: {{name: a}}\nspec: {{targetRefs: [{{name: reviews}}], {spec}}}\n"
        );
        let detection = cluster(&snapshot(&shop(&yaml)), "shop/reviews:9080").outlier_detection;
        detection.map(|detection| {
            let value = |field: Option<envoy_types::pb::google::protobuf::UInt32Value>| field.unwrap().value;
            (
                value(detection.enforcing_consecutive_5xx),
                value(detection.enforcing_consecutive_gateway_failure),
            )
        })
    };
    assert_eq!(enforced("mode: Enforce"), Some((0, 100)));
    assert_eq!(enforced("errors: [ServerError]"), Some((100, 0)));
    assert_eq!(enforced("errors: [Reset, Timeout, ConnectFailure, GatewayError]"), Some((0, 100)));
    assert_eq!(enforced("errors: [GatewayError]"), Some((0, 0)));
    assert_eq!(enforced("mode: Shadow"), Some((0, 0)));
    assert_eq!(enforced("mode: Disabled"), None);
}

#[test]
fn a_port_without_a_route_goes_to_itself_with_the_default_retries() {
    let routes = routes(&snapshot(&shop("")), "shop/reviews:9080");
    let [route] = routes.as_slice() else { panic!("{routes:?}") };
    assert_eq!(route.name, "shop/reviews");
    assert_eq!(route.r#match.as_ref().unwrap().path_specifier, Some(PathSpecifier::Prefix("/".into())));
    let action = forward(route);
    assert_eq!(action.cluster_specifier, Some(ClusterSpecifier::Cluster("shop/reviews:9080".into())));
    assert_eq!(milliseconds(action.timeout), 0);
    let retry = action.retry_policy.as_ref().unwrap();
    assert_eq!(retry.retry_on, "connect-failure,refused-stream,reset-before-request");
    assert_eq!(retry.num_retries.unwrap().value, 2);
    assert_eq!(retry.host_selection_retry_max_attempts, 5);
    assert_eq!(retry.retry_host_predicate.len(), 1);
    let back_off = retry.retry_back_off.as_ref().unwrap();
    assert_eq!((milliseconds(back_off.base_interval), milliseconds(back_off.max_interval)), (25, 250));
    assert_eq!(
        ours(route.metadata.as_ref()),
        json!({
            "target": "shop/reviews:9080",
            "retry": {
                "conditions": ["ConnectFailure", "RefusedStream", "ResetBeforeRequest", "ResetOnReuse"],
                "codes": [],
                "grpcCodes": [],
                "methods": ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"],
            },
        })
    );
}

/// A ServiceRoute of `reviews` with these rules.
fn rules(rules: &str) -> Vec<Route> {
    let rules = rules.lines().map(|line| format!("  {line}\n")).collect::<String>();
    let yaml = format!(
        "kind: ServiceRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: reviews}}]\n  rules:\n{rules}"
    );
    routes(&snapshot(&shop(&yaml)), "shop/reviews:9080")
}

#[test]
fn matches_in_order_of_precedence() {
    let routes = rules(
        "- name: default
  backendRefs: [{name: reviews, port: 9080}]
- name: canary
  matches:
  - path: {value: /v2/}
    method: GET
    headers: [{name: X-Canary, value: 'true'}, {name: x-team, type: RegularExpression, value: 'a|b'}]
    queryParams: [{name: beta, value: '1'}]
  - path: {type: Exact, value: /canary}
  backendRefs: [{name: reviews-v2, port: 9080}]
- matches: [{path: {type: RegularExpression, value: '/v[0-9]+'}}]
  backendRefs: [{name: reviews-v2, port: 9080}]",
    );
    let seen: Vec<_> = routes
        .iter()
        .map(|route| (route.name.as_str(), route.r#match.as_ref().unwrap().path_specifier.clone().unwrap()))
        .collect();
    let regex = |specifier: &PathSpecifier| matches!(specifier, PathSpecifier::SafeRegex(regex) if regex.regex == "/v[0-9]+");
    assert_eq!(seen[0], ("shop/r#canary", PathSpecifier::Path("/canary".into())));
    assert_eq!(seen[1], ("shop/r#canary", PathSpecifier::Path("/v2".into())));
    assert_eq!(seen[2], ("shop/r#canary", PathSpecifier::Prefix("/v2/".into())));
    assert!(seen[3].0 == "shop/r#rule-2" && regex(&seen[3].1));
    assert_eq!(seen[4], ("shop/r#default", PathSpecifier::Prefix("/".into())));
    assert_eq!(seen.len(), 5);

    let matched = routes[1].r#match.as_ref().unwrap();
    let headers: Vec<_> = matched.headers.iter().map(header_text).collect();
    assert_eq!(headers, [":method = GET", "x-canary = true", "x-team ~ a|b"]);
    assert_eq!(matched.query_parameters.len(), 1);
    assert_eq!(ours(routes[1].metadata.as_ref())["target"], "shop/reviews:9080#canary");
}

fn header_text(header: &HeaderMatcher) -> String {
    match header.header_match_specifier.as_ref().unwrap() {
        HeaderMatchSpecifier::StringMatch(value) => match value.match_pattern.as_ref().unwrap() {
            MatchPattern::Exact(value) => format!("{} = {value}", header.name),
            MatchPattern::SafeRegex(value) => format!("{} ~ {}", header.name, value.regex),
            other => panic!("{other:?}"),
        },
        HeaderMatchSpecifier::PresentMatch(true) => header.name.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn retries_that_need_idempotence_have_routes_of_their_own() {
    let seen = |rule: &str| -> Vec<(Vec<String>, String)> {
        rules(rule)
            .iter()
            .map(|route| {
                let headers = route.r#match.as_ref().unwrap().headers.iter().map(header_text).collect();
                let retry = forward(route).retry_policy.as_ref();
                (headers, retry.map_or_else(|| "none".to_owned(), |retry| retry.retry_on.clone()))
            })
            .collect()
    };
    let full = "connect-failure,reset,gateway-error,retriable-status-codes,unavailable";
    let methods = ":method ~ GET|HEAD|OPTIONS|PUT|DELETE|TRACE";
    let retry = "conditions: [ConnectFailure, Reset, Timeout, GatewayError], codes: [500], grpcCodes: [UNAVAILABLE, ABORTED]";
    let rule = format!("- backendRefs: [{{name: reviews, port: 9080}}]\n  retry: {{{retry}}}");
    assert_eq!(
        seen(&rule),
        [
            (vec![methods.to_owned()], full.to_owned()),
            (vec!["idempotency-key".to_owned()], full.to_owned()),
            (vec![], "connect-failure,unavailable".to_owned()),
        ]
    );
    assert_eq!(
        seen(&format!("{rule}\n  matches: [{{method: POST}}]")),
        [
            (vec![":method = POST".to_owned(), "idempotency-key".to_owned()], full.to_owned()),
            (vec![":method = POST".to_owned()], "connect-failure,unavailable".to_owned()),
        ]
    );
    assert_eq!(
        seen(&format!("{rule}\n  matches: [{{method: GET}}]")),
        [(vec![":method = GET".to_owned()], full.to_owned())]
    );
    assert_eq!(
        seen("- backendRefs: [{name: reviews, port: 9080}]\n  retry: {attempts: 0, codes: [503]}"),
        [(vec![], "none".to_owned())]
    );
    let routes = rules(&rule);
    let codes: Vec<_> = routes
        .iter()
        .map(|route| forward(route).retry_policy.as_ref().unwrap().retriable_status_codes.clone())
        .collect();
    assert_eq!(codes, [vec![500], vec![500], vec![]]);
    assert!(routes.iter().all(|route| route.metadata == routes[0].metadata && route.name == "shop/r#rule-0"));
    assert_eq!(ours(routes[0].metadata.as_ref())["retry"]["grpcCodes"], json!([14.0, 10.0]));
}

#[test]
fn timeouts() {
    let times = |rule: &str| {
        let routes = rules(&format!("- backendRefs: [{{name: reviews, port: 9080}}]\n  {rule}"));
        let action = forward(&routes[0]).clone();
        let attempt =
            action.retry_policy.and_then(|retry| retry.per_try_timeout).map(|time| milliseconds(Some(time)));
        let grpc = action.max_stream_duration.map(|stream| milliseconds(stream.grpc_timeout_header_max));
        let idle = action.idle_timeout.map(|time| milliseconds(Some(time)));
        (milliseconds(action.timeout), attempt, idle, grpc)
    };
    assert_eq!(
        times("timeouts: {request: 2s, backendRequest: 500ms, idle: 5m}"),
        (2000, Some(500), Some(300_000), Some(2000))
    );
    assert_eq!(times("timeouts: {request: 0s, backendRequest: 500ms}"), (0, Some(500), None, None));
    assert_eq!(
        times("timeouts: {request: 2s, backendRequest: 500ms}\n  retry: {attempts: 0}"),
        (500, None, None, Some(500))
    );
    assert_eq!(
        times("timeouts: {backendRequest: 500ms}\n  retry: {attempts: 0}"),
        (500, None, None, Some(500))
    );
    assert_eq!(times("timeouts: {}"), (0, None, None, None));
}

#[test]
fn weights_filters_and_shares_that_cannot_be_served() {
    let routes = rules(
        "- name: split
  matches: [{path: {type: Exact, value: /split}}]
  filters:
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: x-route, value: '100%'}], add: [{name: x-a, value: ''}], remove: [x-debug]}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-by, value: fairlead}]}}
  - {type: URLRewrite, urlRewrite: {hostname: other.example.com}}
  backendRefs:
  - name: reviews-v2
    port: 9080
    weight: 10
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: v2}], remove: [X-A]}}]
  - {name: reviews, port: 9080, weight: 90}
  - {name: gone, port: 9080, weight: 5}
  - {name: ratings, port: 9080, weight: 0}
- {name: zero, matches: [{path: {type: Exact, value: /zero}}], backendRefs: [{name: reviews, port: 9080, weight: 0}]}
- {name: none, matches: [{path: {type: Exact, value: /none}}], backendRefs: [{name: gone, port: 9080}]}",
    );
    let route = &routes[0];
    assert!(route.request_headers_to_add.is_empty());
    assert_eq!(route.request_headers_to_remove, ["x-debug"]);
    assert_eq!(route.response_headers_to_add[0].header.as_ref().unwrap().key, "x-by");
    let action = forward(route);
    assert_eq!(
        action.host_rewrite_specifier,
        Some(HostRewriteSpecifier::HostRewriteLiteral("other.example.com".into()))
    );
    assert_eq!(action.cluster_not_found_response_code, 2);
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else { panic!() };
    let shares: Vec<_> =
        weighted.clusters.iter().map(|one| (one.name.as_str(), one.weight.unwrap().value)).collect();
    assert_eq!(
        shares,
        [("shop/reviews-v2:9080", 10), ("shop/reviews:9080", 90), ("invalid/shop/gone:9080", 5)]
    );
    let set = |index: usize| -> Vec<_> {
        let options = weighted.clusters[index].request_headers_to_add.iter();
        let header = |option: &HeaderValueOption| {
            let header = option.header.clone().unwrap();
            (header.key, header.value, option.append_action, option.keep_empty_value)
        };
        options.map(header).collect()
    };
    let one = |name: &str, value: &str, action, empty| (name.to_owned(), value.to_owned(), action, empty);
    assert_eq!(set(1), [one("x-route", "100%%", 2, false), one("x-a", "", 0, true)]);
    assert_eq!(set(0), [one("x-route", "v2", 2, false)]);
    assert_eq!(weighted.clusters[0].request_headers_to_remove, ["X-A"]);
    assert!(weighted.clusters[1].request_headers_to_remove.is_empty());
    assert!(weighted.clusters[1].response_headers_to_add.is_empty());
    for route in &routes[1..] {
        let Some(route::Action::DirectResponse(response)) = &route.action else { panic!("{route:?}") };
        assert_eq!(response.status, 500);
    }
    assert_eq!(routes.len(), 3);
}

#[test]
fn header_changes_that_all_rules_have_in_common_stand_once() {
    let yaml = "
kind: ServiceRoute
metadata: {name: r}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - matches: [{path: {value: /a}}, {path: {value: /b}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-by, value: all}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x-secret]}}
    backendRefs: [{name: reviews, port: 9080}]
  - filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-by, value: all}]}}
    - {type: DirectResponse, directResponse: {status: 200, headers: [{name: x-secret, value: '1'}]}}
";
    let configuration: RouteConfiguration =
        decoded(&snapshot(&shop(yaml)), ResourceKind::Route, "shop/reviews:9080");
    let [host] = <[_; 1]>::try_from(configuration.virtual_hosts).unwrap();
    assert_eq!(host.request_headers_to_add[0].header.as_ref().unwrap().key, "x-by");
    assert!(host.response_headers_to_remove.is_empty(), "the second rule does not remove it");
    assert_eq!(host.routes.len(), 5);
    for route in &host.routes {
        assert!(route.request_headers_to_add.is_empty());
        let responds = matches!(route.action, Some(route::Action::DirectResponse(_)));
        assert_eq!(route.response_headers_to_add.len(), usize::from(responds));
        assert_eq!(route.response_headers_to_remove.len(), usize::from(!responds));
    }
}

#[test]
fn redirects() {
    let redirect = |fields: &str, path: &str| -> RedirectAction {
        let rule = format!(
            "- matches: [{{path: {path}}}]\n  filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]"
        );
        match rules(&rule).pop().unwrap().action.unwrap() {
            route::Action::Redirect(redirect) => redirect,
            other => panic!("{other:?}"),
        }
    };
    let exact = "{type: Exact, value: /old}";
    let one = redirect(
        "hostname: reviews, path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301",
        exact,
    );
    assert_eq!((one.host_redirect.as_str(), one.port_redirect, one.response_code), ("reviews", 9080, 0));
    assert_eq!(one.path_rewrite_specifier, Some(PathRewriteSpecifier::PathRedirect("/new".into())));
    let port = |fields: &str| redirect(fields, exact).port_redirect;
    assert_eq!(port("hostname: a, port: 80"), 0);
    assert_eq!(port("hostname: a, port: 8080"), 8080);
    assert_eq!(port("port: 80"), 80);
    assert_eq!(port("scheme: https"), 443);
    assert_eq!(port("scheme: https, hostname: a"), 0);
    assert_eq!(port("path: {type: ReplaceFullPath, replaceFullPath: /new}"), 0);
    assert_eq!(redirect("port: 1", exact).response_code, 1);
    let prefix = redirect("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}", "{value: /old}");
    assert_eq!(prefix.path_rewrite_specifier, Some(PathRewriteSpecifier::PrefixRewrite("/new/".into())));
}

#[test]
fn direct_responses() {
    let body = "x".repeat(5000);
    let rule = format!(
        "- matches: [{{path: {{value: /admin}}}}]
  filters:
  - {{type: DirectResponse, directResponse: {{status: 403, body: {body}, headers: [{{name: content-type, value: text/plain}}]}}}}"
    );
    let yaml = format!(
        "kind: ServiceRoute\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{name: reviews}}]\n  rules:\n  {}\n",
        rule.replace('\n', "\n  ")
    );
    let snapshot = snapshot(&shop(&yaml));
    let configuration: RouteConfiguration = decoded(&snapshot, ResourceKind::Route, "shop/reviews:9080");
    assert_eq!(configuration.max_direct_response_body_size_bytes.unwrap().value, 5000);
    let route = &configuration.virtual_hosts[0].routes[0];
    let Some(route::Action::DirectResponse(response)) = &route.action else { panic!("{route:?}") };
    assert_eq!(response.status, 403);
    assert_eq!(route.response_headers_to_add[0].header.as_ref().unwrap().key, "content-type");
    assert_eq!(ours(route.metadata.as_ref()), json!({"target": "shop/reviews:9080#rule-0"}));
}

const LIMITED: &str = "
kind: ServiceRoute
metadata: {name: r}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - {name: canary, matches: [{path: {value: /v2}}], backendRefs: [{name: reviews-v2, port: 9080}]}
  - {name: default, backendRefs: [{name: reviews, port: 9080}]}
---
kind: RateLimitPolicy
metadata: {name: orders}
spec:
  targetRefs: [{kind: ServiceRoute, name: r, sectionName: canary}]
  from: [{headers: [{name: x-consumer, value: jsmith}]}]
  limits:
  - name: per-user
    matches: [{method: POST, path: {value: /orders}}]
    key: [{type: Header, name: x-user}, {type: SourceAddress}]
    requests: 5
    per: 1s
    burst: 7
  - {name: hourly, requests: 10000, per: 1h, algorithm: FixedWindow}
  response: {status: 429, body: slow down, headers: [{name: content-type, value: text/plain}]}
";

#[test]
fn limits_travel_in_the_metadata_of_inbound_listeners() {
    let mut inputs = shop(LIMITED);
    // One endpoint in two Services.
    add_slice(&mut inputs, "ratings", "ratings-2", &["10.244.2.1"]);
    let snapshot = snapshot(&inputs);
    let listener = listener(&snapshot, "inbound/10.244.2.1:9080");
    assert_eq!(listener.traffic_direction, i32::from(TrafficDirection::Inbound));
    let manager: HttpConnectionManager = filter(&listener.filter_chains[0]);
    let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else { panic!() };
    let action = forward(&routes.virtual_hosts[0].routes[0]).clone();
    assert_eq!(action.cluster_specifier, Some(ClusterSpecifier::Cluster("inbound/10.244.2.1:9080".into())));
    assert_eq!(milliseconds(action.timeout), 0);
    let policy = json!({
        "name": "shop/orders",
        "shadow": false,
        "from": [{"headers": [{"type": "Exact", "name": "x-consumer", "value": "jsmith"}]}],
        "limits": [
            {
                "name": "per-user",
                "matches": [{"method": "POST", "path": {"type": "PathPrefix", "value": "/orders"}}],
                "key": [{"type": "Header", "name": "x-user"}, {"type": "SourceAddress"}],
                "requests": 5.0, "perMs": 1000.0, "burst": 7.0, "algorithm": "TokenBucket",
            },
            {
                "name": "hourly", "matches": [], "key": [],
                "requests": 10000.0, "perMs": 3_600_000.0, "burst": 10000.0, "algorithm": "FixedWindow",
            },
        ],
        "response": {"status": 429.0, "body": "slow down", "headers": [{"name": "content-type", "value": "text/plain"}]},
    });
    assert_eq!(
        ours(listener.metadata.as_ref()),
        json!({
            "services": ["shop/ratings:9080", "shop/reviews-v2:9080"],
            "policies": [policy],
            "targets": {
                "shop/ratings:9080": [],
                "shop/reviews-v2:9080": [],
                "shop/reviews:9080": [],
                "shop/reviews:9080#canary": ["shop/orders"],
            },
        })
    );
    let other = self::listener(&snapshot, "inbound/10.244.3.1:9080");
    assert_eq!(
        ours(other.metadata.as_ref()),
        json!({"services": ["shop/ratings:9080"], "policies": [], "targets": {"shop/ratings:9080": []}})
    );
}

/// Every resource that has a name, with its version.
fn versions(snapshot: &Snapshot, inputs: &Inputs) -> BTreeMap<ResourceName, Arc<str>> {
    let mut names: Vec<ResourceName> = Vec::new();
    for (_, port) in snapshot.mesh().ports.iter() {
        names.extend(name::all(port));
    }
    assert!(names.len() >= inputs.services.len() * 4);
    names
        .into_iter()
        .filter_map(|name| Some((name.clone(), snapshot.get(name.0, &name.1)?.version.clone())))
        .collect()
}

#[test]
fn equal_objects_give_equal_bytes() {
    let yaml = format!("{LIMITED}---{KINDS}");
    let all = inputs(&yaml);
    let one = versions(&snapshot(&shop(&yaml)), &all);
    // The documents in another order, in another process as far as hash maps are concerned.
    let turned: Vec<_> = yaml.split("---").collect();
    let turned = turned.into_iter().rev().collect::<Vec<_>>().join("\n---\n");
    for _ in 0..5 {
        assert_eq!(versions(&snapshot(&shop(&turned)), &all), one);
    }
    assert_eq!(&*version(b""), "6c62272e07bb014262b821756295c58d");
    assert_eq!(&*version(b"a"), "d228cb696f1a8caf78912b704e4a8964");
}

/// Puts `inputs` in force and checks that `changed` names all that differs, and nothing beyond `most`.
fn step(before: &Snapshot, inputs: &Inputs, old: &Inputs, most: usize) -> (Snapshot, Vec<String>) {
    let old_versions = versions(before, old);
    let mesh = recompile(inputs, before.mesh()).0;
    let after = Snapshot::new(Arc::new(mesh), Some(before));
    let changed = after.changed(before);
    let new_versions = versions(&after, inputs);
    assert_eq!(
        new_versions,
        versions(&snapshot(inputs), inputs),
        "the store of the snapshot before is out of date"
    );
    for name in old_versions.keys().chain(new_versions.keys()) {
        if old_versions.get(name) != new_versions.get(name) {
            assert!(changed.contains(name), "{name:?} is not reported");
        }
    }
    let names: Vec<_> = changed.iter().map(|(kind, name)| format!("{kind:?} {name}")).collect();
    assert!(names.len() <= most, "{names:?}");
    (after, names)
}

#[test]
fn what_changed_is_found_and_little_else() {
    let old = shop(&format!("{LIMITED}---{KINDS}"));
    let before = snapshot(&old);
    let mut inputs = old.clone();
    let (_, names) = step(&before, &inputs, &old, 0);
    assert!(names.is_empty());

    add_slice(&mut inputs, "reviews", "reviews-1", &["10.244.1.1", "10.244.1.3"]);
    let (after, names) = step(&before, &inputs, &old, 3);
    assert_eq!(
        names,
        [
            "Listener inbound/10.244.1.2:9080",
            "Listener inbound/10.244.1.3:9080",
            "Endpoints shop/reviews:9080"
        ]
    );
    let by_endpoints = before.mesh().with_endpoints(&inputs, [&ObjectKey::new("shop", "reviews")]);
    let by_endpoints = Snapshot::new(Arc::new(by_endpoints), Some(&before));
    assert_eq!(by_endpoints.changed(&before), after.changed(&before));

    let old = inputs.clone();
    add_slice(&mut inputs, "pods", "pods-1", &["10.244.8.2", "10.244.8.3"]);
    let (after, _) = step(&after, &inputs, &old, 9);

    let old = inputs.clone();
    add(
        &mut inputs,
        json!({"kind": "OutlierDetection", "metadata": {"name": "o"}, "spec": {"targetRefs": [{"name": "pods"}]}}),
    );
    let (after, names) = step(&after, &inputs, &old, 3);
    assert_eq!(names, ["Cluster 10.244.8.2:9080", "Cluster 10.244.8.3:9080", "Cluster shop/pods:9080"]);

    let old = inputs.clone();
    inputs.rate_limit_policies.clear();
    let (after, names) = step(&after, &inputs, &old, 4);
    assert!(names.iter().all(|name| name.starts_with("Listener inbound/10.244.1.")
        || name.starts_with("Listener inbound/10.244.2.")));

    let old = inputs.clone();
    inputs.service_routes.clear();
    let (after, _) = step(&after, &inputs, &old, 6);

    let old = inputs.clone();
    inputs.services.remove(&ObjectKey::new("shop", "ratings"));
    let (after, _) = step(&after, &inputs, &old, 10);
    assert!(after.get(ResourceKind::Cluster, "shop/ratings:9080").is_none());

    let old = inputs.clone();
    add(
        &mut inputs,
        json!({
            "kind": "Service",
            "metadata": {"name": "reviews"},
            "spec": {"clusterIP": "10.96.0.77", "ports": [{"name": "http", "appProtocol": "tcp", "port": 9080}]},
        }),
    );
    step(&after, &inputs, &old, 20);
}

#[test]
fn a_resource_is_encoded_once() {
    let inputs = shop("");
    let before = snapshot(&inputs);
    let one = before.get(ResourceKind::Cluster, "shop/reviews:9080").unwrap();
    assert!(Arc::ptr_eq(&one, &before.get(ResourceKind::Cluster, "shop/reviews:9080").unwrap()));
    let after = Snapshot::new(Arc::new(recompile(&inputs, before.mesh()).0), Some(&before));
    assert!(Arc::ptr_eq(&one, &after.get(ResourceKind::Cluster, "shop/reviews:9080").unwrap()));
    assert_eq!(after.encoded().len(), 1);
    let gone = Snapshot::new(Arc::default(), Some(&after));
    assert!(gone.encoded().is_empty());
}

#[test]
fn contributions_under_all_names() {
    let yaml = format!(
        "{LIMITED}---{KINDS}---
kind: OutlierDetection
metadata: {{name: o}}
spec: {{targetRefs: [{{name: pods}}]}}
"
    );
    let snapshot = snapshot(&shop(&yaml));
    let of = |kind, name: &str| -> Vec<String> {
        let resources = snapshot.contributions(&ObjectRef::new(kind, ObjectKey::new("shop", name)));
        for (kind, name) in &resources {
            assert!(snapshot.get(*kind, name).is_some(), "{kind:?} {name}");
        }
        resources.iter().map(|(kind, name)| format!("{kind:?} {name}")).collect()
    };
    assert_eq!(
        of(Kind::ServiceRoute, "r"),
        ["Listener inbound/10.244.2.1:9080", "Listener inbound/10.244.2.2:9080", "Route shop/reviews:9080"]
    );
    assert_eq!(
        of(Kind::RateLimitPolicy, "orders"),
        [
            "Listener inbound/10.244.1.1:9080",
            "Listener inbound/10.244.1.2:9080",
            "Listener inbound/10.244.2.1:9080",
            "Listener inbound/10.244.2.2:9080",
        ]
    );
    assert_eq!(
        of(Kind::OutlierDetection, "o"),
        ["Cluster 10.244.8.1:9080", "Cluster 10.244.8.2:9080", "Cluster shop/pods:9080"]
    );
    assert!(of(Kind::OutlierDetection, "unknown").is_empty());
}
