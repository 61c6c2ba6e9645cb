//! The part of a `Cluster` that is about connections: thresholds, protocol, times, the retry budget.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::core::v3::{HttpProtocolOptions as CommonOptions, RoutingPriority};
use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::google::protobuf::UInt32Value;

use super::Ours;
use crate::cluster::{PoolSettings, UpstreamProtocol};
use crate::retry::BudgetSettings;
use crate::xds::decode::{Rejection, duration, is, limit, unpack};

/// Envoy's key for the options of the protocol to the endpoints.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Envoy's defaults.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const THRESHOLD: u32 = 1024;
const BUDGET_PERCENT: f64 = 20.0;

/// Ours, where Envoy has no field and there is no metadata.
const PENDING_TIMEOUT: Duration = Duration::from_secs(3);
const BUDGET_INTERVAL: Duration = Duration::from_secs(10);
const MIN_RETRIES: u32 = 10;
const MIN_RETRIES_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn decode(
    cluster: &mut Cluster,
    ours: &Ours,
) -> Result<(PoolSettings, BudgetSettings, UpstreamProtocol), Rejection> {
    let options = match cluster.typed_extension_protocol_options.get(HTTP_OPTIONS) {
        Some(any) => {
            let options = unpack::<HttpProtocolOptions>(any).and_then(checked);
            Some(options.map_err(|error| error.within("typed_extension_protocol_options"))?)
        }
        None => None,
    };
    let protocol = match &options {
        Some(options) => protocol(options.upstream_protocol_options.as_ref())?,
        None => legacy_protocol(cluster),
    };
    #[expect(deprecated, reason = "other servers still send it")]
    let legacy = cluster.common_http_protocol_options.take();
    let common = match options {
        Some(options) => options.common_http_protocol_options.or(legacy),
        None => legacy,
    };
    #[expect(deprecated, reason = "other servers still send it")]
    let max_requests_per_connection = cluster.max_requests_per_connection.take();

    let breakers = cluster.circuit_breakers.take().unwrap_or_default();
    if !breakers.per_host_thresholds.is_empty() {
        let instead = "thresholds are of the whole cluster";
        return Err(Rejection::unsupported("circuit_breakers.per_host_thresholds", instead));
    }
    let default_priority = |thresholds: &Thresholds| thresholds.priority == RoutingPriority::Default as i32;
    let thresholds = breakers.thresholds.into_iter().find(default_priority).unwrap_or_default();
    let budget = budget(&thresholds, ours)?;
    let pool = PoolSettings {
        max_connections: threshold(thresholds.max_connections),
        max_pending_requests: ours
            .max_pending_requests
            .or_else(|| threshold(thresholds.max_pending_requests)),
        pending_timeout: ours.pending_timeout_ms.map_or(PENDING_TIMEOUT, Duration::from_millis),
        max_requests: threshold(thresholds.max_requests),
        max_requests_per_connection: max_requests(common.as_ref(), max_requests_per_connection),
        connect_timeout: match cluster.connect_timeout.take() {
            Some(time) => duration("connect_timeout", time)?,
            None => CONNECT_TIMEOUT,
        },
        idle_timeout: match common.and_then(|common| common.idle_timeout) {
            Some(time) => limit("idle_timeout", Some(time))?, // Zero switches it off.
            None => Some(IDLE_TIMEOUT),
        },
    };
    if pool.connect_timeout.is_zero() {
        return Err(Rejection::new("connect_timeout must be greater than zero"));
    }
    Ok((pool, budget, protocol))
}

/// Unset is Envoy's default; the largest number is how "no limit" is written.
fn threshold(value: Option<UInt32Value>) -> Option<u32> {
    Some(value.map_or(THRESHOLD, |value| value.value)).filter(|value| *value != u32::MAX)
}

fn max_requests(common: Option<&CommonOptions>, legacy: Option<UInt32Value>) -> Option<u32> {
    let value = common.and_then(|common| common.max_requests_per_connection).or(legacy);
    value.map(|value| value.value).filter(|value| *value > 0)
}

fn budget(thresholds: &Thresholds, ours: &Ours) -> Result<BudgetSettings, Rejection> {
    let budget = match &ours.budget {
        Some(ours) => BudgetSettings {
            percent: ours.percent,
            interval: Duration::from_millis(ours.interval_ms),
            min_retries: ours.min_retries,
            min_retries_interval: Duration::from_millis(ours.min_retries_interval_ms),
        },
        None => {
            let theirs = thresholds.retry_budget.unwrap_or_default();
            let interval = limit("circuit_breakers.retry_budget.budget_interval", theirs.budget_interval)?;
            BudgetSettings {
                percent: theirs.budget_percent.map_or(BUDGET_PERCENT, |percent| percent.value),
                interval: interval.unwrap_or(BUDGET_INTERVAL),
                min_retries: MIN_RETRIES,
                min_retries_interval: MIN_RETRIES_INTERVAL,
            }
        }
    };
    if !(0.0..=100.0).contains(&budget.percent) {
        return Err(Rejection::new("the retry budget's percent is not between 0 and 100"));
    }
    if budget.interval.is_zero() || budget.min_retries_interval.is_zero() {
        return Err(Rejection::new("the retry budget's intervals must be greater than zero"));
    }
    Ok(budget)
}

fn checked(options: HttpProtocolOptions) -> Result<HttpProtocolOptions, Rejection> {
    let codec = |config: Option<&ConfigType>| match config {
        Some(ConfigType::TypedConfig(any)) => is::<UpstreamCodec>(any),
        Some(ConfigType::ConfigDiscovery(_)) | None => false,
    };
    if !options.http_filters.iter().all(|filter| codec(filter.config_type.as_ref())) {
        return Err(Rejection::unsupported("http_filters", "there may be only the upstream codec"));
    }
    if options.retry_policy.is_some() {
        return Err(Rejection::unsupported("retry_policy", "it must be the route's"));
    }
    if !options.request_mirror_policies.is_empty() {
        return Err(Rejection::unsupported("request_mirror_policies", "requests go to one cluster"));
    }
    if options.outlier_detection.is_some() {
        return Err(Rejection::unsupported("outlier_detection", "it must be the cluster's"));
    }
    Ok(options)
}

fn protocol(options: Option<&UpstreamProtocolOptions>) -> Result<UpstreamProtocol, Rejection> {
    match options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) | None => Ok(UpstreamProtocol::Http1),
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Ok(UpstreamProtocol::Http2),
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                Err(Rejection::unsupported("http3_protocol_options", "it must be HTTP/1.1 or HTTP/2"))
            }
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => Ok(UpstreamProtocol::SameAsCaller),
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            Err(Rejection::unsupported("auto_config", "there is no TLS to agree on a protocol in"))
        }
        None => Ok(UpstreamProtocol::Http1),
    }
}

fn legacy_protocol(cluster: &Cluster) -> UpstreamProtocol {
    #[expect(deprecated, reason = "other servers still send them")]
    let (http2, selection) = (cluster.http2_protocol_options.is_some(), cluster.protocol_selection);
    match (selection, http2) {
        (1, _) => UpstreamProtocol::SameAsCaller, // USE_DOWNSTREAM_PROTOCOL
        (_, true) => UpstreamProtocol::Http2,
        (_, false) => UpstreamProtocol::Http1,
    }
}
