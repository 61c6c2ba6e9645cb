//! OutlierDetection: which endpoints to stop calling, and for how long.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GatewayDuration, not_longer, within};
use crate::reference::{Mode, ServiceTarget};
use crate::status::Status;

/// Which endpoints to stop calling, and for how long.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "OutlierDetection",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "od",
    category = "fairlead",
    doc = "Which endpoints of a Service are no longer called because they fail, and for how long. Each sidecar \
           judges by the answers that it gets itself.",
    printcolumn(name = "Targets", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(
        name = "Sidecars",
        type_ = "integer",
        json_path = ".status.rollout.subscribed",
        priority = 1
    ),
    printcolumn(name = "Acked", type_ = "integer", json_path = ".status.rollout.acked", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetectionSpec {
    /// The Services that this is for, or one port of each, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = (
        "self.all(t, self.exists_one(u, u.name == t.name && has(u.sectionName) == has(t.sectionName) && \
         (!has(t.sectionName) || u.sectionName == t.sectionName)))",
        "each target may stand once in targetRefs: remove the repetition"
    ))]
    pub target_refs: Vec<ServiceTarget>,
    /// Enforce (the default): endpoints are ejected. Shadow: it is only counted which would be. Disabled: as
    /// if this object were not there.
    #[serde(default)]
    pub mode: Mode,
    /// Errors in a row after which an endpoint is ejected. At least 1. Default: 5.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub consecutive_errors: u32,
    /// What counts as an error. GatewayError: 502, 503, 504 (gRPC: UNAVAILABLE). ServerError: any 5xx.
    /// ConnectFailure: no connection. Timeout: no answer in time. Reset: the connection ended before the
    /// answer. What a sidecar answers itself (limits, full queues) never counts. Default: GatewayError,
    /// ConnectFailure, Timeout, Reset.
    #[serde(default = "default_errors")]
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub errors: Vec<CountedError>,
    /// For how long, and how many at once.
    #[serde(default)]
    pub ejection: Ejection,
    /// How an endpoint comes back.
    #[serde(default)]
    pub recovery: Recovery,
}

fn five() -> u32 {
    5
}

fn default_errors() -> Vec<CountedError> {
    vec![CountedError::GatewayError, CountedError::ConnectFailure, CountedError::Timeout, CountedError::Reset]
}

/// An outcome that counts against an endpoint.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
pub enum CountedError {
    /// Any 5xx.
    ServerError,
    /// 502, 503 or 504.
    GatewayError,
    /// No connection.
    ConnectFailure,
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer.
    Reset,
}

impl CountedError {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServerError => "ServerError",
            Self::GatewayError => "GatewayError",
            Self::ConnectFailure => "ConnectFailure",
            Self::Timeout => "Timeout",
            Self::Reset => "Reset",
        }
    }
}

/// For how long endpoints are ejected, and how many at once.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = not_longer(
    "baseTime", "maxTime", false,
    "maxTime must not be shorter than baseTime (baseTime is 30s, maxTime 300s unless set)"
))]
pub struct Ejection {
    /// How long the first ejection lasts; the second in a row lasts twice as long, and so on, without a
    /// random part. Default: 30s.
    #[serde(default = "base_time")]
    #[x_kube(validation = within("1ms", None, "baseTime must be at least 1ms"))]
    pub base_time: GatewayDuration,
    /// The longest ejection. Not shorter than baseTime. Default: 300s.
    #[serde(default = "max_time")]
    #[x_kube(validation = within("1ms", None, "maxTime must be at least 1ms"))]
    pub max_time: GatewayDuration,
    /// Share of the endpoints that may be ejected at once, 1 to 100 percent; one always may while another
    /// stays, the last one never. Default: 10.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 100))]
    pub max_percent: u32,
    /// When fewer than this share of the endpoints is left, 0 to 100 percent, ejection is switched off and
    /// all are called; the condition EndpointsHealthy is then False, with reason Panic, and names sidecars
    /// that do so. 0: never. Default: 50.
    #[serde(default = "fifty")]
    #[schemars(range(min = 0, max = 100))]
    pub min_healthy_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            base_time: base_time(),
            max_time: max_time(),
            max_percent: ten(),
            min_healthy_percent: fifty(),
        }
    }
}

fn base_time() -> GatewayDuration {
    GatewayDuration::seconds(30)
}

fn max_time() -> GatewayDuration {
    GatewayDuration::seconds(300)
}

fn ten() -> u32 {
    10
}

fn fifty() -> u32 {
    50
}

/// How an ejected endpoint comes back.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Requests that a returning endpoint gets first; when all succeed it is back, when one fails it is
    /// ejected again. At least 1. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub probes: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { probes: one() }
    }
}

fn one() -> u32 {
    1
}
