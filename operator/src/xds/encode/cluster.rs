//! `Cluster`: how the endpoints of a Service port are called.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::load_balancing_policy::Policy;
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, LoadBalancingPolicy, OutlierDetection,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3::Random;
use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::util::pack_any;
use fairlead_crds::{ConnectionPool, CountedError, LoadBalancerType, RetryConstraint};
use prost::Message;
use serde_json::json;

use super::metadata::Metadata;
use super::{ads, count, duration, endpoints, extension, flag, joined};
use crate::model::mesh::Port;
use crate::model::policy::{self, Outlier};
use crate::model::service::Protocol;

/// Envoy's limits have defaults (1024); ours are off unless they are set.
const UNLIMITED: u32 = u32::MAX;

/// How often Envoy looks whether an ejection is over; with its default of ten seconds one of `baseTime: 1s`
/// would last eleven.
const EJECTION_CHECK: Duration = Duration::from_secs(1);

/// The endpoints of `port`, from EDS.
pub fn encode(port: &Port) -> Vec<u8> {
    let mut cluster = settings(&port.name, &port.cluster);
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(ads()), ..Default::default() });
    with_metadata(&cluster, &port.cluster)
}

/// One endpoint of a headless Service, called like the others: what is sent to its address goes there.
pub fn pinned(port: &Port, address: SocketAddr) -> Vec<u8> {
    let name = address.to_string();
    let mut cluster = settings(&name, &port.cluster);
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
    cluster.load_assignment = Some(endpoints::pinned(&name, address));
    with_metadata(&cluster, &port.cluster)
}

fn settings(name: &str, settings: &policy::Cluster) -> Cluster {
    let outlier = settings.outlier.as_ref();
    let panic = outlier.map_or(0, |outlier| outlier.ejection.min_healthy_percent);
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(duration(settings.pool.connect_timeout.get())),
        load_balancing_policy: Some(balance(settings.load_balancer)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds(&settings.pool, &settings.retries)],
            ..Default::default()
        }),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: f64::from(panic) }),
            ..Default::default()
        }),
        outlier_detection: outlier.map(outlier_detection),
        // One key only, so the order of a HashMap does not show.
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            pack_any(http(settings.protocol, &settings.pool)),
        )]),
        ..Default::default()
    }
}

/// The first policy that a client knows is used: gRPC may not know LeastRequest or Random.
fn balance(chosen: LoadBalancerType) -> LoadBalancingPolicy {
    let round_robin = || extension("envoy.load_balancing_policies.round_robin", RoundRobin::default());
    let policies = match chosen {
        LoadBalancerType::LeastRequest => {
            vec![
                extension("envoy.load_balancing_policies.least_request", LeastRequest::default()),
                round_robin(),
            ]
        }
        LoadBalancerType::RoundRobin => vec![round_robin()],
        LoadBalancerType::Random => {
            vec![extension("envoy.load_balancing_policies.random", Random::default()), round_robin()]
        }
    };
    let policies = policies.into_iter().map(|config| Policy { typed_extension_config: Some(config) });
    LoadBalancingPolicy { policies: policies.collect() }
}

fn thresholds(pool: &ConnectionPool, retries: &RetryConstraint) -> Thresholds {
    Thresholds {
        max_connections: Some(count(pool.max_connections.unwrap_or(UNLIMITED))),
        // Envoy puts every request through its queue for a moment, so with 0 it would refuse all.
        max_pending_requests: Some(count(pool.max_pending_requests.unwrap_or(UNLIMITED).max(1))),
        max_requests: Some(count(pool.max_requests.unwrap_or(UNLIMITED))),
        max_retries: Some(count(UNLIMITED)),
        retry_budget: Some(RetryBudget {
            budget_percent: Some(Percent { value: f64::from(retries.budget.percent) }),
            budget_interval: Some(duration(retries.budget.interval.get())),
            // Envoy's own floor of three at a time, unless there shall be none.
            min_retry_concurrency: (retries.min_retry_rate.count == 0).then(|| count(0)),
        }),
        ..Default::default()
    }
}

fn http(protocol: Protocol, pool: &ConnectionPool) -> HttpProtocolOptions {
    let explicit = |config| {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
    };
    let upstream = match protocol {
        Protocol::Http => {
            explicit(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()))
        }
        Protocol::Http2 => {
            explicit(ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()))
        }
        Protocol::Detect | Protocol::Opaque => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                ..Default::default()
            })
        }
    };
    HttpProtocolOptions {
        common_http_protocol_options: Some(core::HttpProtocolOptions {
            idle_timeout: Some(duration(pool.idle_timeout.get())),
            max_requests_per_connection: pool.max_requests_per_connection.map(count),
            ..Default::default()
        }),
        upstream_protocol_options: Some(upstream),
        ..Default::default()
    }
}

/// Envoy counts what fails on the way to an endpoint among its 502, 503, 504, which is our default set of
/// errors, and can count any 5xx. For another set it ejects nobody: it has no words for that.
fn outlier_detection(outlier: &Outlier) -> OutlierDetection {
    let enforced = |counts: bool| Some(count(if counts && !outlier.shadow { 100 } else { 0 }));
    let any_5xx = outlier.errors.contains(&CountedError::ServerError);
    let gateway = !any_5xx
        && [
            CountedError::GatewayError,
            CountedError::ConnectFailure,
            CountedError::Timeout,
            CountedError::Reset,
        ]
        .iter()
        .all(|error| outlier.errors.contains(error));
    let ejection = &outlier.ejection;
    OutlierDetection {
        consecutive_5xx: Some(count(outlier.consecutive_errors)),
        enforcing_consecutive_5xx: enforced(any_5xx),
        consecutive_gateway_failure: Some(count(outlier.consecutive_errors)),
        enforcing_consecutive_gateway_failure: enforced(gateway),
        interval: Some(duration(EJECTION_CHECK)),
        base_ejection_time: Some(duration(ejection.base_time.get())),
        max_ejection_time: Some(duration(ejection.max_time.get().max(ejection.base_time.get()))),
        max_ejection_percent: Some(count(ejection.max_percent)),
        always_eject_one_host: Some(flag(true)),
        split_external_local_origin_errors: false,
        enforcing_success_rate: Some(count(0)),
        enforcing_consecutive_local_origin_failure: Some(count(0)),
        enforcing_local_origin_success_rate: Some(count(0)),
        enforcing_failure_percentage: Some(count(0)),
        enforcing_failure_percentage_local_origin: Some(count(0)),
        ..Default::default()
    }
}

/// What Envoy has no field for.
#[derive(Clone, PartialEq, Message)]
struct Rest {
    #[prost(message, optional, tag = "25")]
    metadata: Option<Metadata>,
}

fn with_metadata(cluster: &Cluster, settings: &policy::Cluster) -> Vec<u8> {
    let pool = &settings.pool;
    let retries = &settings.retries;
    let mut fields = vec![
        ("pendingTimeoutMs", json!(milliseconds(pool.pending_timeout.get()))),
        (
            "budget",
            json!({
                "percent": retries.budget.percent,
                "intervalMs": milliseconds(retries.budget.interval.get()),
                "minRetries": retries.min_retry_rate.count,
                "minRetriesIntervalMs": milliseconds(retries.min_retry_rate.interval.get()),
            }),
        ),
    ];
    if pool.max_pending_requests == Some(0) {
        fields.push(("maxPendingRequests", json!(0)));
    }
    if let Some(outlier) = &settings.outlier {
        fields.push((
            "outlier",
            json!({
                "shadow": outlier.shadow,
                "errors": outlier.errors.iter().map(|error| error.as_str()).collect::<Vec<_>>(),
                "consecutiveErrors": outlier.consecutive_errors,
                "probes": outlier.recovery.probes,
            }),
        ));
    }
    joined(cluster, &Rest { metadata: Some(Metadata::new(fields)) })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
