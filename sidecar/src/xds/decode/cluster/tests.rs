//! Each field of a cluster, with our metadata and without.

#![expect(clippy::unnecessary_wraps, reason = "the fields of protobuf messages are options")]

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds::RetryBudget};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, CustomClusterType, LbSubsetConfig, lb_subset_config::LbSubsetSelector,
};
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Filter};
use envoy_types::pb::envoy::config::core::v3::{
    BindConfig, HealthCheck, Http1ProtocolOptions, Http2ProtocolOptions, Http3ProtocolOptions,
    HttpProtocolOptions as CommonOptions, TypedExtensionConfig,
};
use envoy_types::pb::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, Duration as ProtoDuration, UInt32Value};
use envoy_types::util::pack_any;
use prost::{Message, Name};

use super::*;
use crate::cluster::UpstreamProtocol;
use crate::xds::testing::{self, cluster, ours};

fn decoded(cluster: Cluster) -> ClusterSettings {
    decode(&"a".into(), cluster).unwrap()
}

fn refused(cluster: Cluster) -> String {
    decode(&"a".into(), cluster).unwrap_err().to_string()
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn millis(millis: i64) -> Option<ProtoDuration> {
    #[expect(clippy::cast_possible_truncation, reason = "below a billion")]
    Some(ProtoDuration { seconds: millis / 1_000, nanos: (millis % 1_000 * 1_000_000) as i32 })
}

fn policy<M: Message + Name>(config: M) -> Policy {
    let typed_config = Some(pack_any(config));
    Policy { typed_extension_config: Some(TypedExtensionConfig { name: "x".to_owned(), typed_config }) }
}

fn options(options: HttpProtocolOptions) -> std::collections::HashMap<String, Any> {
    [("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), pack_any(options))].into()
}

fn upstream(options: UpstreamProtocolOptions) -> HttpProtocolOptions {
    HttpProtocolOptions { upstream_protocol_options: Some(options), ..HttpProtocolOptions::default() }
}

fn explicit(config: ProtocolConfig) -> HttpProtocolOptions {
    upstream(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(config),
    }))
}

#[test]
fn a_plain_cluster_has_envoys_defaults() {
    let settings = decoded(cluster("a"));
    assert_eq!(settings.endpoints, EndpointSource::Eds("a".into()));
    assert_eq!(settings.balance, Balance::RoundRobin);
    assert_eq!(settings.protocol, UpstreamProtocol::Http1);
    assert_eq!(settings.panic_threshold, 50.0);
    assert!(settings.outlier.is_none());
    let pool = settings.pool;
    assert_eq!(pool.max_connections, Some(1024));
    assert_eq!(pool.max_pending_requests, Some(1024));
    assert_eq!(pool.max_requests, Some(1024));
    assert_eq!(pool.max_requests_per_connection, None);
    assert_eq!(pool.connect_timeout, Duration::from_secs(5));
    assert_eq!(pool.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(pool.pending_timeout, Duration::from_secs(3));
    assert_eq!(settings.budget.percent, 20.0);
    assert_eq!((settings.budget.interval, settings.budget.min_retries), (Duration::from_secs(10), 10));
}

#[test]
fn the_operators_cluster_is_what_was_written() {
    let thresholds = Thresholds {
        max_connections: number(u32::MAX),
        max_pending_requests: number(1),
        max_requests: number(200),
        retry_budget: Some(RetryBudget {
            budget_percent: Some(Percent { value: 25.0 }),
            budget_interval: millis(5_000),
            ..RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    let common = CommonOptions {
        idle_timeout: millis(90_000),
        max_requests_per_connection: number(1000),
        ..CommonOptions::default()
    };
    let http2 = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let http2 = HttpProtocolOptions { common_http_protocol_options: Some(common), ..explicit(http2) };
    let detection = OutlierDetection {
        base_ejection_time: millis(10_000),
        max_ejection_time: millis(60_000),
        max_ejection_percent: number(40),
        ..OutlierDetection::default()
    };
    let settings = decoded(Cluster {
        connect_timeout: millis(1_500),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds],
            ..CircuitBreakers::default()
        }),
        typed_extension_protocol_options: options(http2),
        outlier_detection: Some(detection),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..CommonLbConfig::default()
        }),
        metadata: ours(&serde_json::json!({
            "pendingTimeoutMs": 500, "maxPendingRequests": 0,
            "budget": {"percent": 30, "intervalMs": 7000, "minRetries": 3, "minRetriesIntervalMs": 2000},
            "outlier": {"shadow": true, "errors": ["ServerError", "Timeout"], "consecutiveErrors": 7, "probes": 2}
        })),
        ..cluster("a")
    });
    assert_eq!(settings.pool.max_connections, None);
    assert_eq!(settings.pool.max_pending_requests, Some(0));
    assert_eq!(settings.pool.max_requests, Some(200));
    assert_eq!(settings.pool.max_requests_per_connection, Some(1000));
    assert_eq!(settings.pool.pending_timeout, Duration::from_millis(500));
    assert_eq!(settings.pool.connect_timeout, Duration::from_millis(1_500));
    assert_eq!(settings.pool.idle_timeout, Some(Duration::from_secs(90)));
    assert_eq!(settings.protocol, UpstreamProtocol::Http2);
    assert_eq!(settings.panic_threshold, 0.0);
    assert_eq!((settings.budget.percent, settings.budget.interval), (30.0, Duration::from_secs(7)));
    assert_eq!(
        (settings.budget.min_retries, settings.budget.min_retries_interval),
        (3, Duration::from_secs(2))
    );
    let outlier = settings.outlier.unwrap();
    assert!(outlier.shadow);
    assert_eq!(outlier.errors, [OutlierError::ServerError, OutlierError::Timeout]);
    assert_eq!((outlier.consecutive_errors, outlier.probes, outlier.max_percent), (7, 2, 40));
    assert_eq!((outlier.base_time, outlier.max_time), (Duration::from_secs(10), Duration::from_secs(60)));
}

#[test]
fn metadata_that_we_do_not_know_is_refused() {
    let error =
        refused(Cluster { metadata: ours(&serde_json::json!({"maxPendingRequest": 0})), ..cluster("a") });
    assert!(error.contains("metadata fairlead.dev") && error.contains("maxPendingRequest"), "{error}");
}

#[test]
fn endpoints_come_from_eds_or_from_the_cluster() {
    let mut named = cluster("a");
    named.eds_cluster_config.as_mut().unwrap().service_name = "b".to_owned();
    assert_eq!(decoded(named).endpoints, EndpointSource::Eds("b".into()));

    let fixed = Cluster {
        cluster_discovery_type: None,
        load_assignment: Some(testing::endpoints("a", &[1, 2])),
        ..Cluster::default()
    };
    let EndpointSource::Inline(list) = decoded(fixed).endpoints else { panic!() };
    assert_eq!(list.len(), 2);

    let mut elsewhere = cluster("a");
    elsewhere.eds_cluster_config = None;
    assert!(refused(elsewhere).contains("eds_cluster_config.eds_config"));
    for kind in [DiscoveryType::StrictDns, DiscoveryType::LogicalDns, DiscoveryType::OriginalDst] {
        let dns =
            Cluster { cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)), ..cluster("a") };
        assert!(refused(dns).contains(kind.as_str_name()));
    }
    let custom = Some(ClusterDiscoveryType::ClusterType(CustomClusterType::default()));
    assert!(refused(Cluster { cluster_discovery_type: custom, ..cluster("a") }).contains("cluster_type"));
    assert!(
        refused(Cluster { cluster_discovery_type: Some(ClusterDiscoveryType::Type(77)), ..cluster("a") })
            .contains("77")
    );
}

#[test]
fn the_first_balancing_policy_that_we_have_counts() {
    let with = |policies| {
        decode(
            &"a".into(),
            Cluster {
                load_balancing_policy: Some(LoadBalancingPolicy { policies }),
                lb_policy: LbPolicy::RingHash as i32,
                ..cluster("a")
            },
        )
    };
    let balance = |policies| with(policies).unwrap().balance;
    assert_eq!(
        balance(vec![policy(LeastRequest::default()), policy(RoundRobin::default())]),
        Balance::LeastRequest
    );
    assert_eq!(balance(vec![policy(RingHash::default()), policy(Random::default())]), Balance::Random);
    assert_eq!(balance(vec![policy(RoundRobin::default())]), Balance::RoundRobin);
    assert!(with(vec![policy(RingHash::default())]).is_err());
    assert!(with(vec![]).is_err());

    let legacy = |lb_policy| decode(&"a".into(), Cluster { lb_policy, ..cluster("a") });
    assert_eq!(legacy(LbPolicy::LeastRequest as i32).unwrap().balance, Balance::LeastRequest);
    assert_eq!(legacy(LbPolicy::Random as i32).unwrap().balance, Balance::Random);
    for bad in [LbPolicy::RingHash as i32, LbPolicy::Maglev as i32, 99] {
        assert!(legacy(bad).unwrap_err().to_string().contains("lb_policy"));
    }
}

#[test]
fn the_protocol_to_the_endpoints() {
    let with = |chosen| {
        decode(&"a".into(), Cluster { typed_extension_protocol_options: options(chosen), ..cluster("a") })
    };
    let http1 = explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()));
    assert_eq!(with(http1).unwrap().protocol, UpstreamProtocol::Http1);
    let same =
        upstream(UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig::default()));
    assert_eq!(with(same).unwrap().protocol, UpstreamProtocol::SameAsCaller);
    let http3 = explicit(ProtocolConfig::Http3ProtocolOptions(Http3ProtocolOptions::default()));
    assert!(with(http3).unwrap_err().to_string().contains("http3_protocol_options"));
    let auto = upstream(UpstreamProtocolOptions::AutoConfig(AutoHttpConfig::default()));
    assert!(with(auto).unwrap_err().to_string().contains("auto_config"));
}

#[test]
#[expect(deprecated, reason = "that is what is tested")]
fn older_forms_of_the_options_count() {
    let settings = decoded(Cluster {
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        max_requests_per_connection: number(9),
        common_http_protocol_options: Some(CommonOptions {
            idle_timeout: millis(0),
            ..CommonOptions::default()
        }),
        ..cluster("a")
    });
    assert_eq!(settings.protocol, UpstreamProtocol::Http2);
    assert_eq!(settings.pool.max_requests_per_connection, Some(9));
    assert_eq!(settings.pool.idle_timeout, None);
    assert_eq!(
        decoded(Cluster { protocol_selection: 1, ..cluster("a") }).protocol,
        UpstreamProtocol::SameAsCaller
    );
}

#[test]
fn ejection_without_metadata_is_envoys() {
    let with =
        |detection| decoded(Cluster { outlier_detection: Some(detection), ..cluster("a") }).outlier.unwrap();
    let plain = with(OutlierDetection::default());
    assert_eq!(plain.errors[0], OutlierError::ServerError);
    assert_eq!((plain.shadow, plain.consecutive_errors, plain.probes, plain.max_percent), (false, 5, 1, 10));
    assert_eq!((plain.base_time, plain.max_time), (Duration::from_secs(30), Duration::from_secs(300)));

    let gateway = with(OutlierDetection {
        enforcing_consecutive_5xx: number(0),
        enforcing_consecutive_gateway_failure: number(100),
        consecutive_gateway_failure: number(3),
        base_ejection_time: millis(600_000),
        ..OutlierDetection::default()
    });
    assert_eq!((gateway.errors[0], gateway.consecutive_errors), (OutlierError::GatewayError, 3));
    assert_eq!(gateway.max_time, Duration::from_secs(600), "never shorter than the base time");

    let shadow =
        with(OutlierDetection { enforcing_consecutive_5xx: number(0), ..OutlierDetection::default() });
    assert!(shadow.shadow);

    let rate = OutlierDetection { enforcing_failure_percentage: number(100), ..OutlierDetection::default() };
    let error = refused(Cluster { outlier_detection: Some(rate), ..cluster("a") });
    assert!(error.contains("enforcing_failure_percentage"), "{error}");
    let off = OutlierDetection {
        enforcing_success_rate: number(0),
        enforcing_failure_percentage: number(0),
        ..OutlierDetection::default()
    };
    with(off);
}

#[test]
fn what_a_cluster_lacks_is_refused_by_name() {
    let tls = |name: &str| Some(TransportSocket { name: name.to_owned(), ..TransportSocket::default() });
    let subsets =
        LbSubsetConfig { subset_selectors: vec![LbSubsetSelector::default()], ..LbSubsetConfig::default() };
    let per_host =
        CircuitBreakers { per_host_thresholds: vec![Thresholds::default()], ..CircuitBreakers::default() };
    let panic = CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: f64::NAN }),
        ..CommonLbConfig::default()
    };
    let retrying =
        HttpProtocolOptions { retry_policy: Some(Default::default()), ..HttpProtocolOptions::default() };
    let filtering =
        HttpProtocolOptions { http_filters: vec![Default::default()], ..HttpProtocolOptions::default() };
    for (cluster, field) in [
        (
            Cluster { transport_socket: tls("envoy.transport_sockets.tls"), ..cluster("a") },
            "transport_socket",
        ),
        (Cluster { health_checks: vec![HealthCheck::default()], ..cluster("a") }, "health_checks"),
        (Cluster { lb_subset_config: Some(subsets), ..cluster("a") }, "lb_subset_config"),
        (Cluster { filters: vec![Filter::default()], ..cluster("a") }, "filters"),
        (
            Cluster { upstream_bind_config: Some(BindConfig::default()), ..cluster("a") },
            "upstream_bind_config",
        ),
        (Cluster { circuit_breakers: Some(per_host), ..cluster("a") }, "per_host_thresholds"),
        (Cluster { common_lb_config: Some(panic), ..cluster("a") }, "healthy_panic_threshold"),
        (Cluster { connect_timeout: millis(0), ..cluster("a") }, "connect_timeout"),
        (Cluster { typed_extension_protocol_options: options(retrying), ..cluster("a") }, "retry_policy"),
        (Cluster { typed_extension_protocol_options: options(filtering), ..cluster("a") }, "http_filters"),
    ] {
        let error = refused(cluster);
        assert!(error.contains(field), "{field}: {error}");
    }
    decoded(Cluster { transport_socket: tls(RAW_BUFFER), ..cluster("a") });
}
