//! Every metric of the operator, at `/metrics`. Labels come from small fixed sets: types, kinds,
//! conditions; never a client's or an object's name.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateKind {
    /// The one that our ports present.
    Leaf,
    /// The newest one that clients trust.
    Root,
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

impl Metrics {
    fn register(&mut self) {
        let registry = self.registry.sub_registry_with_prefix("fairlead_operator");
        registry.register("xds_streams", "Open xDS streams", self.streams.clone());
        registry.register("xds_pushes", "Responses sent", self.pushes.clone());
        registry.register(
            "xds_pushed_resources",
            "Resources in responses sent",
            self.pushed_resources.clone(),
        );
        registry.register("xds_nacks", "Resources that a client refused", self.nacks.clone());
        registry.register(
            "xds_refused_streams",
            "Streams ended for a request that makes no sense",
            self.refused.clone(),
        );
        registry.register("compile_seconds", "Time from objects to a snapshot", self.compile.clone());
        registry.register("objects", "ServiceRoutes and policies by condition", self.objects.clone());
        registry.register("source_objects", "Objects read", self.source_objects.clone());
        registry.register(
            "source_errors",
            "Files, or objects in them, that cannot be used now",
            self.source_errors.clone(),
        );
        registry.register(
            "watch_failures",
            "Watches of the API server that had to be started again",
            self.watch_failures.clone(),
        );
        registry.register("status_writes", "Status writes to the API server", self.status_writes.clone());
        registry.register("holds_lease", "1: this replica writes statuses", self.holds_lease.clone());
        registry.register("injections", "Pods that the webhook was asked about", self.injections.clone());
        registry.register(
            "missed_pods",
            "Pods of labelled namespaces that are not as the mesh needs them",
            self.missed_pods.clone(),
        );
        registry.register(
            "last_publish_timestamp_seconds",
            "When a snapshot was last published",
            self.last_publish.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the certificate of our ports, or the newest root that clients trust, ends",
            self.certificate_ends.clone(),
        );
        registry.register(
            "trust_writes",
            "Writes of roots to namespaces and to the webhook configuration",
            self.trust_writes.clone(),
        );
        registry.register(
            "token_reviews",
            "Tokens that the API server was asked about",
            self.token_reviews.clone(),
        );
        registry.register(
            "xds_unidentified_streams",
            "Streams refused because their client is not known, or not whom it says",
            self.unidentified.clone(),
        );
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

    /// A certificate ends then.
    pub fn certificate_ends(&self, certificate: CertificateKind, end: jiff::Timestamp) {
        let certificate = match certificate {
            CertificateKind::Leaf => "leaf",
            CertificateKind::Root => "root",
        };
        self.certificate_ends.get_or_create(&CertificateLabel { certificate }).set(end.as_second());
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
mod tests {
    use super::*;

    #[test]
    fn text_has_the_values() {
        let metrics = Metrics::default();
        metrics.stream_opened("delta");
        metrics.pushed("cds", 3);
        metrics.nacked("rds");
        metrics.compiled(Scope::Config, Duration::from_millis(2));
        let text = metrics.text();
        for line in [
            "fairlead_operator_xds_streams{protocol=\"delta\"} 1",
            "fairlead_operator_xds_pushes_total{type=\"cds\"} 1",
            "fairlead_operator_xds_pushed_resources_total{type=\"cds\"} 3",
            "fairlead_operator_xds_nacks_total{type=\"rds\"} 1",
            "fairlead_operator_compile_seconds_count{scope=\"config\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
