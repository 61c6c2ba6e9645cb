//! What is counted, under which names, with which labels.
//!
//! Labels have few values: Services, rules, policies, and words of this file; never a path, an address of a
//! caller, or a header that a caller could make up. The handles of a rule are looked up once and then kept
//! with it ([`Handles`]), so that a request costs some additions and no look-up.
//!
//! Names, labels and meanings stand in [`table`].
//!
//! What others count or keep (pools, endpoints, limits, the xDS stream) is read when it is asked for, by the
//! admin module.

pub mod table;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Half a millisecond to a minute, roughly doubling.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Whose calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From this pod.
    Outbound,
    /// To this pod.
    Inbound,
}

impl Direction {
    /// The word in log and metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.word(), encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: Direction,
    service: Arc<str>,
    rule: Arc<str>,
    code: &'static str,
    flag: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    direction: Direction,
    service: Arc<str>,
    rule: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    service: Arc<str>,
    rule: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkippedLabels {
    service: Arc<str>,
    rule: Arc<str>,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    direction: Direction,
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: Direction,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    direction: Direction,
    service: Arc<str>,
    to: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HoldLabels {
    direction: Direction,
    outcome: &'static str,
}

type Histograms = Family<RuleLabels, Histogram, fn() -> Histogram>;

/// All that is counted; one a process.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histograms,
    upstream_seconds: Histograms,
    proxy_seconds: Histograms,
    retries: Family<RetryLabels, Counter>,
    retries_skipped: Family<SkippedLabels, Counter>,
    connections_total: Family<ConnectionLabels, Counter>,
    connections: Family<DirectionLabels, Gauge<i64, AtomicI64>>,
    opaque_bytes: Family<BytesLabels, Counter>,
    passed_through: Family<ReasonLabels, Counter>,
    holds: Family<HoldLabels, Counter>,
    hold_seconds: Family<DirectionLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histograms = || Histograms::new_with_constructor(|| Histogram::new(BUCKETS));
        Self {
            requests: Family::default(),
            request_seconds: histograms(),
            upstream_seconds: histograms(),
            proxy_seconds: histograms(),
            retries: Family::default(),
            retries_skipped: Family::default(),
            connections_total: Family::default(),
            connections: Family::default(),
            opaque_bytes: Family::default(),
            passed_through: Family::default(),
            holds: Family::default(),
            hold_seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl Metrics {
    /// All of it, with names and help, for the metrics page.
    pub fn register(&self, registry: &mut Registry) {
        add(registry, "fairlead_requests", self.requests.clone());
        add(registry, "fairlead_request_duration_seconds", self.request_seconds.clone());
        add(registry, "fairlead_upstream_duration_seconds", self.upstream_seconds.clone());
        add(registry, "fairlead_proxy_duration_seconds", self.proxy_seconds.clone());
        add(registry, "fairlead_retries", self.retries.clone());
        add(registry, "fairlead_retries_skipped", self.retries_skipped.clone());
        add(registry, "fairlead_connections_accepted", self.connections_total.clone());
        add(registry, "fairlead_connections", self.connections.clone());
        add(registry, "fairlead_opaque_bytes", self.opaque_bytes.clone());
        add(registry, "fairlead_passthrough_connections", self.passed_through.clone());
        add(registry, "fairlead_on_demand_holds", self.holds.clone());
        add(registry, "fairlead_on_demand_hold_seconds", self.hold_seconds.clone());
    }

    /// The handles of a rule, or of what stands in for one.
    pub fn handles(&self, direction: Direction, service: &Arc<str>, rule: &Arc<str>) -> Arc<Handles> {
        let labels = RuleLabels { direction, service: Arc::clone(service), rule: Arc::clone(rule) };
        let by_code = CODES.map(|code| self.requests.get_or_create_owned(&labels.request(code, "-")));
        let retry = RetryLabels { service: Arc::clone(service), rule: Arc::clone(rule) };
        Arc::new(Handles {
            by_code,
            request_seconds: self.request_seconds.get_or_create_owned(&labels),
            upstream_seconds: self.upstream_seconds.get_or_create_owned(&labels),
            proxy_seconds: self.proxy_seconds.get_or_create_owned(&labels),
            retries: OnceLock::new(),
            retry,
            labels,
        })
    }

    /// Counts a request that has ended.
    pub fn request_ended(&self, handles: &Handles, ended: &Ended) {
        let class = usize::from(ended.status.map_or(0, |status| status.as_u16() / 100));
        let counter = handles.by_code.get(class);
        match (ended.flag, counter) {
            ("-", Some(counter)) => _ = counter.inc(),
            (flag, _) => {
                let code = CODES.get(class).copied().unwrap_or("none");
                self.requests.get_or_create(&handles.labels.request(code, flag)).inc();
            }
        }
        handles.request_seconds.observe(ended.total.as_secs_f64());
        if let Some((upstream, until_head)) = ended.upstream {
            handles.upstream_seconds.observe(upstream.as_secs_f64());
            handles.proxy_seconds.observe(until_head.saturating_sub(upstream).as_secs_f64());
        }
    }

    /// Counts a retry.
    pub fn retried(&self, handles: &Handles) {
        handles.retries.get_or_init(|| self.retries.get_or_create_owned(&handles.retry)).inc();
    }

    /// Counts a retry that was wanted and not made.
    pub fn retry_skipped(&self, handles: &Handles, reason: &'static str) {
        let RetryLabels { service, rule } = handles.retry.clone();
        self.retries_skipped.get_or_create(&SkippedLabels { service, rule, reason }).inc();
    }

    /// Counts a caller's connection, until the guard is dropped.
    pub fn connection(&self, direction: Direction) -> OpenConnection {
        let gauge = self.connections.get_or_create_owned(&DirectionLabels { direction });
        gauge.inc();
        OpenConnection(gauge)
    }

    /// What a caller's connection turned out to carry.
    pub fn connection_is(&self, direction: Direction, protocol: &'static str) {
        self.connections_total.get_or_create(&ConnectionLabels { direction, protocol }).inc();
    }

    /// Counts a connection that no Service is known for.
    pub fn passed_through(&self, reason: &'static str) {
        self.passed_through.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Counts a connection that waited for its destination's first configuration.
    pub fn held(&self, direction: Direction, outcome: &'static str, time: Duration) {
        self.holds.get_or_create(&HoldLabels { direction, outcome }).inc();
        self.hold_seconds.get_or_create(&DirectionLabels { direction }).observe(time.as_secs_f64());
    }

    /// Where carried bytes are counted: towards the upstream, towards the caller.
    pub fn opaque_bytes(&self, direction: Direction, service: &Arc<str>) -> (Counter, Counter) {
        let labels = |to| BytesLabels { direction, service: Arc::clone(service), to };
        let counter = |to| self.opaque_bytes.get_or_create_owned(&labels(to));
        (counter("upstream"), counter("caller"))
    }
}

/// Registers a metric with what the table says of it.
fn add(registry: &mut Registry, name: &'static str, metric: impl Metric) {
    registry.register(name, table::help(name), metric);
}

/// The first figure of the status; 0: there was none.
const CODES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl RuleLabels {
    fn request(&self, code: &'static str, flag: &'static str) -> RequestLabels {
        let Self { direction, service, rule } = self.clone();
        RequestLabels { direction, service, rule, code, flag }
    }
}

/// What a request of one rule adds to.
#[derive(Debug)]
pub struct Handles {
    by_code: [Counter; 6],
    request_seconds: Histogram,
    upstream_seconds: Histogram,
    proxy_seconds: Histogram,
    retries: OnceLock<Counter>,
    retry: RetryLabels,
    labels: RuleLabels,
}

impl Handles {
    /// `shop/reviews:9080`.
    pub fn service(&self) -> &Arc<str> {
        &self.labels.service
    }

    /// `shop/reviews#canary`.
    pub fn rule(&self) -> &Arc<str> {
        &self.labels.rule
    }

    /// Whose calls.
    pub fn direction(&self) -> Direction {
        self.labels.direction
    }
}

/// How a request ended.
#[derive(Debug)]
pub struct Ended {
    /// None: the caller left before there was one.
    pub status: Option<StatusCode>,
    /// `-`, or Envoy's response flag.
    pub flag: &'static str,
    /// From the first byte of the request to the last of the answer.
    pub total: Duration,
    /// The last attempt until the answer's head, and the time until then altogether.
    pub upstream: Option<(Duration, Duration)>,
}

/// A caller's connection that is open.
#[derive(Debug)]
pub struct OpenConnection(Gauge<i64, AtomicI64>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels() {
        let metrics = Metrics::default();
        let handles =
            metrics.handles(Direction::Outbound, &"shop/reviews:9080".into(), &"shop/reviews#a".into());
        let ended = |status, flag| Ended {
            status,
            flag,
            total: Duration::from_millis(3),
            upstream: Some((Duration::from_millis(2), Duration::from_millis(3))),
        };
        metrics.request_ended(&handles, &ended(Some(StatusCode::OK), "-"));
        metrics.request_ended(&handles, &ended(Some(StatusCode::SERVICE_UNAVAILABLE), "UO"));
        metrics.request_ended(&handles, &ended(None, "DC"));
        metrics.retried(&handles);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"fairlead_requests_total{direction="outbound",service="shop/reviews:9080",rule="shop/reviews#a",code="2xx",flag="-"} 1"#,
            r#"fairlead_requests_total{direction="outbound",service="shop/reviews:9080",rule="shop/reviews#a",code="5xx",flag="UO"} 1"#,
            r#"code="none",flag="DC"} 1"#,
            r#"fairlead_retries_total{service="shop/reviews:9080",rule="shop/reviews#a"} 1"#,
            r#"fairlead_request_duration_seconds_count{direction="outbound",service="shop/reviews:9080",rule="shop/reviews#a"} 3"#,
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
