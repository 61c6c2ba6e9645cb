//! What there is to read at `/metrics`: the table that metrics are registered by, and of which
//! docs/reference/metrics.md is made. Tests hold it equal to what is exported.

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// Without the `_total` of a counter.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels, each with its values.
    pub labels: &'static [(&'static str, &'static str)],
    /// What it tells.
    pub help: &'static str,
}

const TYPE: (&str, &str) = ("type", "`lds`, `rds`, `cds`, `eds`");
const RESULT: (&str, &str) = ("result", "`done`, `failed`");

/// All of them.
pub const METRICS: &[Described] = &[
    gauge("fairlead_operator_xds_streams", &[("protocol", "`delta`, `sotw`")], "Open xDS streams"),
    counter("fairlead_operator_xds_pushes", &[TYPE], "Responses sent"),
    counter("fairlead_operator_xds_pushed_resources", &[TYPE], "Resources in responses sent"),
    counter("fairlead_operator_xds_nacks", &[TYPE], "Resources that a client refused"),
    counter("fairlead_operator_xds_refused_streams", &[], "Streams ended for a request that makes no sense"),
    counter(
        "fairlead_operator_xds_unidentified_streams",
        &[(
            "reason",
            "`token`: not good, `pod`: not that of the pod it says it is, `unavailable`: nobody can say",
        )],
        "Streams refused because their client is not known, or not whom it says",
    ),
    counter("fairlead_operator_token_reviews", &[RESULT], "Tokens that the API server was asked about"),
    histogram(
        "fairlead_operator_compile_seconds",
        &[("scope", "`config`: everything, `endpoints`: those of some Services")],
        "Time from objects to a snapshot",
    ),
    gauge("fairlead_operator_last_publish_timestamp_seconds", &[], "When a snapshot was last published"),
    gauge(
        "fairlead_operator_objects",
        &[
            ("kind", "`ServiceRoute`, `OutlierDetection`, `RateLimitPolicy`"),
            ("condition", "its type, see [status](status.md)"),
            ("status", "`True`, `False`, `Unknown`"),
        ],
        "ServiceRoutes and policies by condition",
    ),
    gauge("fairlead_operator_source_objects", &[("kind", "of Kubernetes or of ours")], "Objects read"),
    gauge("fairlead_operator_source_errors", &[], "Files, or objects in them, that cannot be used now"),
    counter(
        "fairlead_operator_watch_failures",
        &[],
        "Watches of the API server that had to be started again",
    ),
    counter(
        "fairlead_operator_status_writes",
        &[("result", "`written`, `failed`")],
        "Status writes to the API server",
    ),
    gauge("fairlead_operator_holds_lease", &[], "1: this replica writes statuses"),
    counter(
        "fairlead_operator_injections",
        &[("result", "`injected`, `skipped`, `refused`, `unreadable`")],
        "Pods that the webhook was asked about",
    ),
    gauge(
        "fairlead_operator_missed_pods",
        &[("reason", "see [missed pods](../injection.md#missed-pods)")],
        "Pods of labelled namespaces that are not as the mesh needs them",
    ),
    gauge(
        "fairlead_operator_certificate_expiry_timestamp_seconds",
        &[("certificate", "`leaf`, `root`")],
        "When the certificate of our ports, or the newest root that clients trust, ends",
    ),
    counter(
        "fairlead_operator_trust_writes",
        &[RESULT],
        "Writes of roots to namespaces and to the webhook configuration",
    ),
];

type Labels = &'static [(&'static str, &'static str)];

const fn counter(name: &'static str, labels: Labels, help: &'static str) -> Described {
    Described { name, kind: "counter", labels, help }
}

const fn gauge(name: &'static str, labels: Labels, help: &'static str) -> Described {
    Described { name, kind: "gauge", labels, help }
}

const fn histogram(name: &'static str, labels: Labels, help: &'static str) -> Described {
    Described { name, kind: "histogram", labels, help }
}
