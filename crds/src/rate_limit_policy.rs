//! RateLimitPolicy: how much is let in.

use kube::core::Rule;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GatewayDuration, within};
use crate::filter::Header;
use crate::reference::{LimitTarget, Mode};
use crate::route_match::RouteMatch;
use crate::schema;
use crate::status::Status;

/// How much is let in.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "RateLimitPolicy",
    plural = "ratelimitpolicies",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "rlp",
    category = "fairlead",
    doc = "How much is let in, enforced by the sidecar of each pod of the target. Of several policies on one \
           target the most specific one that has a matching limit applies, alone: with from before without; then \
           rule of a ServiceRoute, port of a Service, Service; then the older, then the name.",
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
pub struct RateLimitPolicySpec {
    /// What this is for: Services, ports of Services, ServiceRoutes, rules of ServiceRoutes; 1 to 16. While a
    /// limit is enforced, a port that does not say what it speaks is taken for HTTP: give other ones appProtocol
    /// tcp.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = (
        "self.all(t, self.exists_one(u, u.kind == t.kind && u.name == t.name && \
         has(u.sectionName) == has(t.sectionName) && (!has(t.sectionName) || u.sectionName == t.sectionName)))",
        "each target may stand once in targetRefs: remove the repetition"
    ))]
    pub target_refs: Vec<LimitTarget>,
    /// Enforce (the default): what is over a limit is refused. Shadow: it is only counted. Disabled: as if
    /// this object were not there; callers fall back to the next policy.
    #[serde(default)]
    pub mode: Mode,
    /// Which callers, told by their requests: those for which at least one of these holds. Default: every
    /// caller. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub from: Vec<RouteMatch>,
    /// The limits, 1 to 16. All that match a request apply at once: it is let in when all let it in, and
    /// counts in none when one refuses it. A policy that does not fit into the 1 MiB that a sidecar takes for
    /// one Service port, after those that come before it, is not in force (condition Accepted, reason
    /// TooLarge).
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = (
        "self.all(l, self.exists_one(m, m.name == l.name))",
        "limit names are unique in a RateLimitPolicy: rename one of the two"
    ))]
    pub limits: Vec<Limit>,
    /// What a refused caller gets. RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset and Retry-After
    /// are always in it; a gRPC caller gets RESOURCE_EXHAUSTED. Default: status 429, no body.
    #[serde(default)]
    pub response: LimitResponse,
}

/// So many requests in so long, in each pod of the target.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.algorithm != 'FixedWindow' || !has(self.burst)",
    "a FixedWindow has no burst: remove burst, or write algorithm: TokenBucket"
))]
pub struct Limit {
    /// Name of the limit, unique in the policy: logs and metrics name it.
    #[schemars(schema_with = "schema::label")]
    pub name: String,
    /// Which requests: those for which at least one of these holds. Default: every request. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub matches: Vec<RouteMatch>,
    /// What callers are told apart by: one bucket for each combination of these values. Default: one bucket
    /// for all. At most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(validation = (
        "self.all(k, self.exists_one(l, l.type == k.type && has(l.name) == has(k.name) && (!has(k.name) || l.name == k.name)))",
        "each part of a key may stand once: remove the repetition"
    ))]
    pub key: Vec<Key>,
    /// How many requests in each `per`. At least 1.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,
    /// In how long, 1s to 24h.
    #[x_kube(validation = within("1s", Some("24h"), "per must be from 1s to 24h"))]
    pub per: GatewayDuration,
    /// How many requests may come at once after a pause: the size of the bucket, which fills at requests /
    /// per. At least 1. Not with FixedWindow. Default: requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// TokenBucket (the default): evenly, one more every per / requests. FixedWindow: counted from zero in
    /// each window of `per`.
    #[serde(default)]
    pub algorithm: Algorithm,
}

/// How requests are counted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[schemars(inline)]
pub enum Algorithm {
    /// A bucket of `burst` tokens, filled at `requests` / `per`.
    #[default]
    TokenBucket,
    /// `requests` in each window of `per`.
    FixedWindow,
}

impl Algorithm {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenBucket => "TokenBucket",
            Self::FixedWindow => "FixedWindow",
        }
    }
}

/// A value that callers are told apart by.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(self.type in ['Header', 'QueryParam']) == has(self.name)",
    "a key of type Header or QueryParam needs name (which header or parameter), the other types take none"
))]
#[x_kube(validation = of_header(&schema::is_header_name("self.name"), schema::HEADER_NAME_MESSAGE))]
#[x_kube(validation = of_header(&schema::is_not_ours("self.name"), schema::NOT_OURS_MESSAGE))]
pub struct Key {
    /// Header: the value of a header. QueryParam: the value of a query parameter. Path: the path, without
    /// the query. Method: the method. SourceAddress: the caller's IP address. Requests without that header
    /// or parameter share one bucket.
    #[serde(rename = "type")]
    pub kind: KeyType,
    /// Name of the header (in any case) or of the query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::key_name")]
    pub name: Option<String>,
}

/// What must hold for the name where it is that of a header.
fn of_header(holds: &str, message: &str) -> Rule {
    Rule::new(format!("self.type != 'Header' || !has(self.name) || {holds}")).message(message)
}

/// What callers are told apart by.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
pub enum KeyType {
    /// The value of a header.
    Header,
    /// The value of a query parameter.
    QueryParam,
    /// The path.
    Path,
    /// The method.
    Method,
    /// The caller's IP address.
    SourceAddress,
}

impl KeyType {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Header => "Header",
            Self::QueryParam => "QueryParam",
            Self::Path => "Path",
            Self::Method => "Method",
            Self::SourceAddress => "SourceAddress",
        }
    }
}

/// What a refused caller gets.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LimitResponse {
    /// Status, 400 to 599. Default: 429.
    #[serde(default = "too_many_requests")]
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// Body. Default: empty. At most 16384 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::body")]
    pub body: String,
    /// Headers, besides those that tell the limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<Header>,
}

impl Default for LimitResponse {
    fn default() -> Self {
        Self { status: too_many_requests(), body: String::new(), headers: Vec::new() }
    }
}

fn too_many_requests() -> u16 {
    429
}
