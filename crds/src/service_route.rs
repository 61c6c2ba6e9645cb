//! ServiceRoute: how calls to a Service are carried.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::connection_pool::{ConnectionPool, LoadBalancer};
use crate::duration::{GatewayDuration, not_longer};
use crate::filter::Filter;
use crate::reference::{BackendReference, ParentReference};
use crate::retry::{Retry, RetryConstraint};
use crate::route_match::RouteMatch;
use crate::schema;
use crate::status::Status;

/// How calls to a Service are carried.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "ServiceRoute",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "srt",
    category = "fairlead",
    doc = "How calls to a Service are carried: which backend gets which request, changed how, how long it may \
           take, how often it is tried again, over how many connections.",
    printcolumn(name = "Services", type_ = "string", json_path = ".spec.parentRefs[*].name"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Resolved",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="ResolvedRefs")].status"#
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
pub struct ServiceRouteSpec {
    /// The Services whose callers this is for, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = (
        "self.all(p, self.exists_one(q, q.name == p.name && has(q.port) == has(p.port) && (!has(p.port) || q.port == p.port)))",
        "each Service and port may stand once in parentRefs: remove the repetition"
    ))]
    pub parent_refs: Vec<ParentReference>,
    /// What happens to a request: the rule with the most specific match carries it (as in HTTPRoute: exact
    /// path, then longest prefix, then method, then most headers, then most query parameters, then the
    /// first). A request that no rule matches is answered with 404. Without rules, requests go to the
    /// called Service. At most 32. When they come to more than 3 MiB in a sidecar, where they stand once a
    /// match and more, all of them answer 500 (condition Accepted, reason TooLarge, which says what to do).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = (
        "self.all(r, !has(r.name) || self.exists_one(s, has(s.name) && s.name == r.name))",
        "rule names are unique in a ServiceRoute: rename one of the two"
    ))]
    pub rules: Vec<RouteRule>,
    /// How an endpoint of the parent Service is chosen. When several ServiceRoutes of a Service set it, the
    /// oldest wins. Default: LeastRequest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Limits to the parent Service's connections and requests. When several ServiceRoutes of a Service set
    /// it, the oldest wins it whole. Default: no limits, connectTimeout 1s, idleTimeout 90s, pendingTimeout
    /// 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// How many retries the parent Service may get, over all rules that lead to it. When several
    /// ServiceRoutes of a Service set it, the oldest wins it whole. Default: 20 percent of the requests of
    /// 10s, and 10 in each 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_constraint: Option<RetryConstraint>,
}

/// Which requests, and what happens to them.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.backendRefs) && size(self.backendRefs) > 0) || \
     (has(self.filters) && self.filters.exists(f, f.type in ['RequestRedirect', 'DirectResponse']))",
    "a rule leads somewhere: write backendRefs, or a filter that answers (RequestRedirect or DirectResponse)"
))]
#[x_kube(validation = (
    "!has(self.backendRefs) || size(self.backendRefs) == 0 || !has(self.filters) || \
     !self.filters.exists(f, f.type == 'RequestRedirect')",
    "a RequestRedirect answers the request: remove the filter or backendRefs"
))]
#[x_kube(validation = (
    "!has(self.backendRefs) || size(self.backendRefs) == 0 || !has(self.filters) || \
     !self.filters.exists(f, f.type == 'DirectResponse')",
    "a DirectResponse answers the request: remove the filter or backendRefs"
))]
#[x_kube(validation = (
    "!has(self.filters) || self.filters.filter(f, f.type in ['RequestRedirect', 'DirectResponse', 'URLRewrite']).size() <= 1 || \
     self.filters.all(f, !(f.type in ['RequestRedirect', 'DirectResponse']))",
    "RequestRedirect, DirectResponse and URLRewrite exclude one another in a rule: keep one of them"
))]
#[x_kube(validation = (
    "!has(self.filters) || !has(self.matches) || !self.filters.exists(f, \
     (has(f.urlRewrite) && has(f.urlRewrite.path) && f.urlRewrite.path.type == 'ReplacePrefixMatch') || \
     (has(f.requestRedirect) && has(f.requestRedirect.path) && f.requestRedirect.path.type == 'ReplacePrefixMatch')) || \
     self.matches.all(m, !has(m.path) || m.path.type == 'PathPrefix')",
    "ReplacePrefixMatch replaces what a PathPrefix matched: every match of the rule needs path type PathPrefix, or write ReplaceFullPath"
))]
pub struct RouteRule {
    /// Name of the rule, unique in the ServiceRoute: RateLimitPolicies, logs and metrics name it. Default:
    /// rule-N, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::rule_name")]
    pub name: Option<String>,
    /// Which requests: those for which at least one of these holds. Default: every request. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub matches: Vec<RouteMatch>,
    /// What is changed, each type at most once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(validation = (
        "self.all(f, self.exists_one(g, g.type == f.type))",
        "each filter type may stand once: write all its changes in one filter"
    ))]
    pub filters: Vec<Filter>,
    /// Where the requests go, by weight. Required unless a filter answers (RequestRedirect,
    /// DirectResponse). At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<BackendReference>,
    /// How long a request may take. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// When a request is sent again. Default: two attempts more, of what is not idempotent only after failures
    /// that prove that it was not processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// How long a request may take. 0s is no limit, as is leaving a field out.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = not_longer(
    "backendRequest", "request", true,
    "backendRequest is one attempt of the request and must not be longer than request"
))]
pub struct Timeouts {
    /// From the request to the last byte of its answer, all attempts together; then 504 (flag UT).
    /// Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<GatewayDuration>,
    /// The same for one attempt. Not longer than request. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<GatewayDuration>,
    /// How long neither side may send a byte of the exchange. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<GatewayDuration>,
}
