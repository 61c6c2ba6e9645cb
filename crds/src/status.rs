//! What the operator says about an object: conditions, and how far the sidecars have taken it over.

pub mod reason;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Written by the operator, on each kind.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The `metadata.generation` that all of this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted: the object can be used. ResolvedRefs: what it refers to exists and may be used. Conflicted:
    /// an older object decides the same. Programmed: every sidecar that is concerned runs this generation.
    /// EndpointsHealthy, of an OutlierDetection: no sidecar calls ejected endpoints because too few are left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// How far the sidecars have taken it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// Sidecars, counted by their own answers. subscribed = acked + nacked + pending.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// The generation that is counted.
    pub generation: i64,
    /// Sidecars that want something that this object contributes to.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub subscribed: u32,
    /// Those that run it.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub acked: u32,
    /// Those that refused it.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub nacked: u32,
    /// Those that have not answered yet.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub pending: u32,
    /// What one of those said that refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
}

/// A refusal.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// Who: NAMESPACE/POD.
    #[schemars(length(max = 512))]
    pub client: String,
    /// Why, in its words.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// Types of conditions.
pub mod condition {
    /// The object can be used.
    pub const ACCEPTED: &str = "Accepted";
    /// What it refers to exists and may be used.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// True: an older or more specific object decides the same, so this one does not.
    pub const CONFLICTED: &str = "Conflicted";
    /// Every sidecar that is concerned runs this generation.
    pub const PROGRAMMED: &str = "Programmed";
    /// Of an OutlierDetection. False: sidecars use all endpoints, for fewer than `minHealthyPercent` are left.
    pub const ENDPOINTS_HEALTHY: &str = "EndpointsHealthy";
}

/// `metav1.Condition`, bounded.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "type": {
                    "description": "Accepted, ResolvedRefs, Conflicted, Programmed or EndpointsHealthy.",
                    "type": "string", "maxLength": 316,
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string", "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "description": "Why, in one word.",
                    "type": "string", "minLength": 1, "maxLength": 1024,
                },
                "message": {
                    "description": "Why, in a sentence.",
                    "type": "string", "maxLength": 32768,
                },
                "lastTransitionTime": {
                    "description": "When status last changed.",
                    "type": "string", "format": "date-time",
                },
                "observedGeneration": {
                    "description": "The metadata.generation that this is about.",
                    "type": "integer", "format": "int64", "minimum": 0,
                },
            },
        },
    })
}
