//! Every metric of the operator, at `/metrics`, with the names and meanings of its [`table`]. Labels come from small fixed sets: types, kinds,
//! conditions; never a client's or an object's name.

pub mod table;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

/// The metrics and where they are written from.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    streams: Family<ProtocolLabel, Gauge>,
    pushes: Family<TypeLabel, Counter>,
    pushed_resources: Family<TypeLabel, Counter>,
    nacks: Family<TypeLabel, Counter>,
    refused: Counter,
    compile: Family<ScopeLabel, Histogram>,
    objects: Family<ObjectLabel, Gauge>,
    source_objects: Family<KindLabel, Gauge>,
    source_errors: Gauge,
    watch_failures: Counter,
    status_writes: Family<ResultLabel, Counter>,
    holds_lease: Gauge,
    injections: Family<ResultLabel, Counter>,
    missed_pods: Family<ReasonLabel, Gauge>,
    last_publish: Gauge<f64, AtomicU64>,
    certificate_ends: Family<CertificateLabel, Gauge>,
    trust_writes: Family<ResultLabel, Counter>,
    token_reviews: Family<ResultLabel, Counter>,
    unidentified: Family<ReasonLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabel {
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Objects of ours by what their status says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ObjectLabel {
    /// `ServiceRoute` and so on.
    pub kind: &'static str,
    /// `Accepted` and so on.
    pub condition: &'static str,
    /// `True`, `False`, `Unknown`.
    pub status: &'static str,
}

/// How much was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Config,
    /// The endpoints of some Services.
    Endpoints,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabel {
    certificate: &'static str,
}

/// What became of a call to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked.
    Done,
    /// It refused, or could not be reached.
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// What became of a status write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusWrite {
    /// Written.
    Written,
    /// The API server refused it, or could not be reached.
    Failed,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            streams: Family::default(),
            pushes: Family::default(),
            pushed_resources: Family::default(),
            nacks: Family::default(),
            refused: Counter::default(),
            // 0.1 ms to 1.6 s.
            compile: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 4.0, 8))),
            objects: Family::default(),
            source_objects: Family::default(),
            source_errors: Gauge::default(),
            watch_failures: Counter::default(),
            status_writes: Family::default(),
            holds_lease: Gauge::default(),
            injections: Family::default(),
            missed_pods: Family::default(),
            last_publish: Gauge::default(),
            certificate_ends: Family::default(),
            trust_writes: Family::default(),
            token_reviews: Family::default(),
            unidentified: Family::default(),
        };
        metrics.register();
        metrics
    }
}

/// Registers a metric with what [`table::METRICS`] says of it.
fn add(registry: &mut Registry, name: &'static str, metric: impl Metric) {
    let described = table::METRICS.iter().find(|described| described.name == name);
    registry.register(name, described.expect("every metric is in the table").help, metric);
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        add(registry, "fairlead_operator_xds_streams", self.streams.clone());
        add(registry, "fairlead_operator_xds_pushes", self.pushes.clone());
        add(registry, "fairlead_operator_xds_pushed_resources", self.pushed_resources.clone());
        add(registry, "fairlead_operator_xds_nacks", self.nacks.clone());
        add(registry, "fairlead_operator_xds_refused_streams", self.refused.clone());
        add(registry, "fairlead_operator_xds_unidentified_streams", self.unidentified.clone());
        add(registry, "fairlead_operator_token_reviews", self.token_reviews.clone());
        add(registry, "fairlead_operator_compile_seconds", self.compile.clone());
        add(registry, "fairlead_operator_last_publish_timestamp_seconds", self.last_publish.clone());
        add(registry, "fairlead_operator_objects", self.objects.clone());
        add(registry, "fairlead_operator_source_objects", self.source_objects.clone());
        add(registry, "fairlead_operator_source_errors", self.source_errors.clone());
        add(registry, "fairlead_operator_watch_failures", self.watch_failures.clone());
        add(registry, "fairlead_operator_status_writes", self.status_writes.clone());
        add(registry, "fairlead_operator_holds_lease", self.holds_lease.clone());
        add(registry, "fairlead_operator_injections", self.injections.clone());
        add(registry, "fairlead_operator_missed_pods", self.missed_pods.clone());
        add(
            registry,
            "fairlead_operator_certificate_expiry_timestamp_seconds",
            self.certificate_ends.clone(),
        );
        add(registry, "fairlead_operator_trust_writes", self.trust_writes.clone());
    }

    /// All of them, as Prometheus reads it (OpenMetrics text).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A stream opened, of the protocol `delta` or `sotw`.
    pub fn stream_opened(&self, protocol: &'static str) {
        self.streams.get_or_create(&ProtocolLabel { protocol }).inc();
    }

    /// A stream ended.
    pub fn stream_closed(&self, protocol: &'static str) {
        self.streams.get_or_create(&ProtocolLabel { protocol }).dec();
    }

    /// A response went out: `lds`, `rds`, `cds` or `eds`.
    pub fn pushed(&self, kind: &'static str, resources: usize) {
        let label = TypeLabel { r#type: kind };
        self.pushes.get_or_create(&label).inc();
        self.pushed_resources.get_or_create(&label).inc_by(resources as u64);
    }

    /// A client refused a resource.
    pub fn nacked(&self, kind: &'static str) {
        self.nacks.get_or_create(&TypeLabel { r#type: kind }).inc();
    }

    /// A stream was ended because of what it asked.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// A snapshot was compiled and published.
    pub fn compiled(&self, scope: Scope, took: Duration) {
        let scope = match scope {
            Scope::Config => "config",
            Scope::Endpoints => "endpoints",
        };
        self.compile.get_or_create(&ScopeLabel { scope }).observe(took.as_secs_f64());
        let now = jiff::Timestamp::now();
        self.last_publish.set(now.as_millisecond() as f64 / 1000.0);
    }

    /// How many objects have this condition now; those not named have none.
    pub fn objects(&self, counts: impl IntoIterator<Item = (ObjectLabel, i64)>) {
        self.objects.clear();
        for (label, count) in counts {
            self.objects.get_or_create(&label).set(count);
        }
    }

    /// How many objects of a kind were read.
    pub fn source_objects(&self, kind: &'static str, count: usize) {
        self.source_objects.get_or_create(&KindLabel { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How much of the source cannot be used now.
    pub fn source_errors(&self, count: usize) {
        self.source_errors.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A watch failed and starts again.
    pub fn watch_failed(&self) {
        self.watch_failures.inc();
    }

    /// This replica is the one that writes statuses, or not.
    pub fn holds_lease(&self, holds: bool) {
        self.holds_lease.set(i64::from(holds));
    }

    /// When the certificate that our ports present, and the newest one that clients trust, end; as far as that can
    /// be read.
    pub fn certificates_end(&self, leaf: Option<jiff::Timestamp>, root: Option<jiff::Timestamp>) {
        for (certificate, end) in [("leaf", leaf), ("root", root)] {
            if let Some(end) = end {
                self.certificate_ends.get_or_create(&CertificateLabel { certificate }).set(end.as_second());
            }
        }
    }

    /// Roots were written somewhere, or not.
    pub fn trust_written(&self, outcome: Outcome) {
        self.trust_writes.get_or_create(&ResultLabel { result: outcome.as_str() }).inc();
    }

    /// The API server was asked about a token, and answered or not.
    pub fn token_reviewed(&self, outcome: Outcome) {
        self.token_reviews.get_or_create(&ResultLabel { result: outcome.as_str() }).inc();
    }

    /// A stream was refused for this reason.
    pub fn unidentified(&self, reason: &'static str) {
        self.unidentified.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A status was written, or not.
    pub fn status_written(&self, result: StatusWrite) {
        let result = match result {
            StatusWrite::Written => "written",
            StatusWrite::Failed => "failed",
        };
        self.status_writes.get_or_create(&ResultLabel { result }).inc();
    }

    /// The webhook was asked: `injected`, `skipped`, `refused` or `unreadable`.
    pub fn injected(&self, result: &'static str) {
        self.injections.get_or_create(&ResultLabel { result }).inc();
    }

    /// How many pods are missed, by reason; those not named are none.
    pub fn missed_pods(&self, counts: impl IntoIterator<Item = (&'static str, i64)>) {
        self.missed_pods.clear();
        for (reason, count) in counts {
            self.missed_pods.get_or_create(&ReasonLabel { reason }).set(count);
        }
    }
}

#[cfg(test)]
mod tests;
