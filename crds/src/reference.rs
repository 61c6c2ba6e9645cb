//! How one object names another. Every reference takes an optional `group`, so that YAML written for the
//! Gateway API can be pasted.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::filter::{BackendFilter, Filter};
use crate::schema;

/// A Service whose callers a ServiceRoute is for.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = SERVICE_GROUP)]
pub struct ParentReference {
    /// API group of the kind. Service is in the core group, which is the default and is written "".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::group")]
    pub group: Option<String>,
    /// Kind of the object: Service, the default.
    #[serde(default)]
    pub kind: ServiceKind,
    /// Name of the Service, in the namespace of the ServiceRoute.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Number of one port of the Service (`spec.ports[].port`). Default: all its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// The core group, as every reference to a Service has it.
const SERVICE_GROUP: (&str, &str) = (
    "!has(self.group) || self.group == ''",
    "Service is in the core group: leave group out, or write group: \"\"",
);

/// A Service that gets a share of the requests of a rule.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = SERVICE_GROUP)]
pub struct BackendReference {
    /// API group of the kind. Service is in the core group, which is the default and is written "".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::group")]
    pub group: Option<String>,
    /// Kind of the object: Service, the default.
    #[serde(default)]
    pub kind: ServiceKind,
    /// Name of the Service.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Namespace of the Service. Default: the namespace of the ServiceRoute. Where the cluster has
    /// ReferenceGrants (Gateway API), the share of a Service in another namespace is answered with 500 as
    /// long as no ReferenceGrant there allows it (condition ResolvedRefs, reason RefNotPermitted).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespace")]
    pub namespace: Option<String>,
    /// Number of the port of the Service (`spec.ports[].port`, not the target port). Required.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Share of the requests: this weight of the sum of all weights of the rule. 0: no requests. When all
    /// weights of a rule are 0, its requests are answered with 500. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
    /// Changes to requests and answers of this backend alone, after those of the rule:
    /// RequestHeaderModifier and ResponseHeaderModifier, each at most once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<BackendFilter>", length(max = 2))]
    #[x_kube(validation = (
        "self.all(f, self.exists_one(g, g.type == f.type))",
        "each filter type may stand once: write all its changes in one filter"
    ))]
    pub filters: Vec<Filter>,
}

/// Default weight.
fn one() -> u32 {
    1
}

/// The one kind that carries requests.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[schemars(inline)]
pub enum ServiceKind {
    /// A Kubernetes Service.
    #[default]
    Service,
}

/// A Service, or one port of it, that a policy is for.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = SERVICE_GROUP)]
pub struct ServiceTarget {
    /// API group of the kind. Service is in the core group, which is the default and is written "".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::group")]
    pub group: Option<String>,
    /// Kind of the object: Service, the default.
    #[serde(default)]
    pub kind: ServiceKind,
    /// Name of the Service, in the namespace of the policy.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Name of one port of the Service (`spec.ports[].name`). Default: all its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label")]
    pub section_name: Option<String>,
}

/// What a RateLimitPolicy is for: a Service, one port of it, or a rule of a ServiceRoute.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.group) || self.kind != 'Service' || self.group == ''",
    "Service is in the core group: leave group out, or write group: \"\""
))]
#[x_kube(validation = (
    "!has(self.group) || self.kind != 'ServiceRoute' || self.group == 'fairlead.dev'",
    "ServiceRoute is in group fairlead.dev: leave group out, or write group: fairlead.dev"
))]
pub struct LimitTarget {
    /// API group of the kind. Default: by kind, "" (the core group) for Service, fairlead.dev for
    /// ServiceRoute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::group")]
    pub group: Option<String>,
    /// Kind of the object: Service (the default) or ServiceRoute.
    #[serde(default)]
    pub kind: LimitTargetKind,
    /// Name of the object, in the namespace of the policy.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Service: name of one port (`spec.ports[].name`); default: all its ports. ServiceRoute: name of one
    /// rule; default: all its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label")]
    pub section_name: Option<String>,
}

/// What a limit can be for.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[schemars(inline)]
pub enum LimitTargetKind {
    /// A Kubernetes Service, or one port of it.
    #[default]
    Service,
    /// A ServiceRoute, or one rule of it.
    ServiceRoute,
}

/// Whether a policy acts.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[schemars(inline)]
pub enum Mode {
    /// It acts.
    #[default]
    Enforce,
    /// It is evaluated on live traffic and only reports.
    Shadow,
    /// As if it were not there.
    Disabled,
}
