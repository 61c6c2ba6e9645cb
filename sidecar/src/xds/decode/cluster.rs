//! `Cluster`: how a callee's endpoints are picked, how many connections there may be, who is ejected.
//!
//! Ignored, because it tunes what we tune ourselves or only reports: buffer limits, statistics names,
//! `track_*`, DNS settings, TCP keepalive, preconnecting, `cleanup_interval`, `lrs_server`, warming, the
//! settings inside a load balancing policy (slow start among them), `max_retries` and
//! `min_retry_concurrency` (the budget counts), thresholds of priority HIGH, ejection by success rate where
//! it is only Envoy's default, `interval` and jitter of ejections. Where Envoy counts 5xx and gateway
//! errors apart, we count the kind that is enforced; of both, any 5xx.

mod pool;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, LoadBalancingPolicy, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::envoy::extensions::load_balancing_policies::least_request::v3::LeastRequest;
use envoy_types::pb::envoy::extensions::load_balancing_policies::random::v3::Random;
use envoy_types::pb::envoy::extensions::load_balancing_policies::round_robin::v3::RoundRobin;
use serde::Deserialize;

use super::{Rejection, duration, endpoints, is, metadata, same_server};
use crate::cluster::{Balance, ClusterSettings, EndpointSource, OutlierError, OutlierSettings};

/// Envoy's name for a connection without TLS.
const RAW_BUFFER: &str = "envoy.transport_sockets.raw_buffer";

/// The metadata of a cluster: what Envoy has no field for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ours {
    pending_timeout_ms: Option<u64>,
    max_pending_requests: Option<u32>,
    budget: Option<OurBudget>,
    outlier: Option<OurOutlier>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OurBudget {
    percent: f64,
    interval_ms: u64,
    min_retries: u32,
    min_retries_interval_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OurOutlier {
    #[serde(default)]
    shadow: bool,
    errors: Vec<OurError>,
    consecutive_errors: u32,
    probes: u32,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum OurError {
    ServerError,
    GatewayError,
    ConnectFailure,
    Timeout,
    Reset,
}

/// Decodes a cluster.
pub(super) fn decode(name: &Arc<str>, mut cluster: Cluster) -> Result<ClusterSettings, Rejection> {
    refuse_what_we_lack(&cluster)?;
    let ours: Ours = metadata::ours(cluster.metadata.take())?.unwrap_or_default();
    let endpoints = endpoint_source(name, &mut cluster)?;
    let balance = match cluster.load_balancing_policy.take() {
        Some(policy) => balance(policy)?,
        None => legacy_balance(cluster.lb_policy)?,
    };
    let lb = cluster.common_lb_config.take().unwrap_or_default();
    let panic_threshold = lb.healthy_panic_threshold.map_or(50.0, |percent| percent.value); // Envoy's default.
    if !(0.0..=100.0).contains(&panic_threshold) {
        return Err(Rejection::new("common_lb_config.healthy_panic_threshold is not between 0 and 100"));
    }
    let outlier = cluster.outlier_detection.take();
    let outlier =
        outlier.as_ref().map(|detection| outlier_settings(detection, ours.outlier.as_ref())).transpose()?;
    let (pool, budget, protocol) = pool::decode(&mut cluster, &ours)?;
    Ok(ClusterSettings {
        name: Arc::clone(name),
        endpoints,
        balance,
        pool,
        outlier,
        budget,
        protocol,
        panic_threshold,
    })
}

fn refuse_what_we_lack(cluster: &Cluster) -> Result<(), Rejection> {
    transport_socket("transport_socket", cluster.transport_socket.as_ref())?;
    for socket in &cluster.transport_socket_matches {
        transport_socket("transport_socket_matches", socket.transport_socket.as_ref())?;
    }
    let subsets = cluster.lb_subset_config.as_ref().is_some_and(|config| !config.subset_selectors.is_empty());
    let lacks = [
        (!cluster.health_checks.is_empty(), "health_checks", "endpoints are as healthy as EDS says"),
        (subsets, "lb_subset_config", "a subset must be a cluster of its own"),
        (!cluster.filters.is_empty(), "filters", "bytes go to the endpoint as they are"),
        (cluster.upstream_config.is_some(), "upstream_config", "requests go to the endpoint as they are"),
        (
            cluster.upstream_bind_config.is_some(),
            "upstream_bind_config",
            "the system chooses the source address",
        ),
        (cluster.queuing_policies.is_some(), "queuing_policies", "requests wait in order"),
    ];
    match lacks.into_iter().find(|(there, ..)| *there) {
        Some((_, field, instead)) => Err(Rejection::unsupported(field, instead)),
        None => Ok(()),
    }
}

fn transport_socket(field: &str, socket: Option<&TransportSocket>) -> Result<(), Rejection> {
    match socket {
        Some(socket) if socket.name != RAW_BUFFER => {
            Err(Rejection::unsupported(field, "connections to endpoints are without TLS"))
        }
        _ => Ok(()),
    }
}

fn endpoint_source(name: &Arc<str>, cluster: &mut Cluster) -> Result<EndpointSource, Rejection> {
    let kind = match cluster.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_| Rejection::new(format!("type {kind} is unknown")))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            return Err(Rejection::unsupported("cluster_type", "type must be EDS or STATIC"));
        }
    };
    match kind {
        DiscoveryType::Eds => {
            let config = cluster.eds_cluster_config.take().unwrap_or_default();
            same_server("eds_cluster_config.eds_config", config.eds_config.as_ref())?;
            let service = config.service_name;
            Ok(EndpointSource::Eds(if service.is_empty() { Arc::clone(name) } else { service.into() }))
        }
        DiscoveryType::Static => {
            let assignment = cluster.load_assignment.take().unwrap_or_default();
            let endpoints = endpoints::decode(assignment).map_err(|error| error.within("load_assignment"))?;
            Ok(EndpointSource::Inline(endpoints))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns | DiscoveryType::OriginalDst => {
            Err(Rejection::unsupported(&format!("type {}", kind.as_str_name()), "it must be EDS or STATIC"))
        }
    }
}

/// The first policy of the list that we have, as Envoy takes the first that it has.
fn balance(policy: LoadBalancingPolicy) -> Result<Balance, Rejection> {
    let configs =
        policy.policies.into_iter().filter_map(|policy| policy.typed_extension_config?.typed_config);
    let mut known = configs.filter_map(|config| {
        if is::<LeastRequest>(&config) {
            Some(Balance::LeastRequest)
        } else if is::<RoundRobin>(&config) {
            Some(Balance::RoundRobin)
        } else if is::<Random>(&config) {
            Some(Balance::Random)
        } else {
            None
        }
    });
    known.next().ok_or_else(|| {
        Rejection::unsupported(
            "load_balancing_policy",
            "one of them must be least_request, round_robin or random",
        )
    })
}

fn legacy_balance(policy: i32) -> Result<Balance, Rejection> {
    match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => Ok(Balance::RoundRobin),
        Ok(LbPolicy::LeastRequest) => Ok(Balance::LeastRequest),
        Ok(LbPolicy::Random) => Ok(Balance::Random),
        _ => Err(Rejection::unsupported("lb_policy", "it must be ROUND_ROBIN, LEAST_REQUEST or RANDOM")),
    }
}

/// Times and percents come from Envoy's fields; what counts as an error from ours, where they are.
fn outlier_settings(
    detection: &OutlierDetection,
    ours: Option<&OurOutlier>,
) -> Result<OutlierSettings, Rejection> {
    for (enforcing, field) in [
        (detection.enforcing_success_rate, "enforcing_success_rate"),
        (detection.enforcing_failure_percentage, "enforcing_failure_percentage"),
    ] {
        if enforcing.is_some_and(|percent| percent.value > 0) {
            let field = format!("outlier_detection.{field} above 0");
            return Err(Rejection::unsupported(&field, "endpoints are ejected for errors in a row"));
        }
    }
    let time = |field, value: Option<_>, default| {
        value
            .map_or(Ok(default), |value| duration(field, value))
            .map_err(|error| error.within("outlier_detection"))
    };
    let base_time = time("base_ejection_time", detection.base_ejection_time, Duration::from_secs(30))?;
    let max_time =
        time("max_ejection_time", detection.max_ejection_time, Duration::from_secs(300))?.max(base_time);
    let max_percent = detection.max_ejection_percent.map_or(10, |percent| percent.value).min(100);
    let errors_of =
        |first| vec![first, OutlierError::ConnectFailure, OutlierError::Timeout, OutlierError::Reset];
    let settings = |shadow, errors, consecutive_errors: u32, probes: u32| OutlierSettings {
        shadow,
        consecutive_errors: consecutive_errors.max(1),
        errors,
        base_time,
        max_time,
        max_percent,
        probes: probes.max(1),
    };
    if let Some(ours) = ours {
        let errors = ours.errors.iter().map(|error| (*error).into()).collect();
        return Ok(settings(ours.shadow, errors, ours.consecutive_errors, ours.probes));
    }
    let enforced = |percent: Option<_>, default| percent.unwrap_or(default) > 0;
    let any_5xx = detection.consecutive_5xx.map_or(5, |count| count.value);
    let gateway = detection.consecutive_gateway_failure.map_or(5, |count| count.value);
    Ok(if enforced(detection.enforcing_consecutive_5xx.map(|percent| percent.value), 100) {
        settings(false, errors_of(OutlierError::ServerError), any_5xx, 1)
    } else if enforced(detection.enforcing_consecutive_gateway_failure.map(|percent| percent.value), 0) {
        settings(false, errors_of(OutlierError::GatewayError), gateway, 1)
    } else {
        settings(true, errors_of(OutlierError::ServerError), any_5xx, 1)
    })
}

impl From<OurError> for OutlierError {
    fn from(error: OurError) -> Self {
        match error {
            OurError::ServerError => Self::ServerError,
            OurError::GatewayError => Self::GatewayError,
            OurError::ConnectFailure => Self::ConnectFailure,
            OurError::Timeout => Self::Timeout,
            OurError::Reset => Self::Reset,
        }
    }
}

#[cfg(test)]
mod tests;
