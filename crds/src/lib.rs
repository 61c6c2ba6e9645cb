//! The words users write: `ServiceRoute`, `RateLimitPolicy` and `OutlierDetection`, group `fairlead.dev`.
//!
//! The types give the schema (`generated/*.yaml`), the schema and its CEL rules refuse at apply time what one
//! object can break, and [`validate`] says the same, in the same words, where no API server is.
//!
//! ```text
//! YAML --validate--> Vec<Violation>      refused, with what to write instead
//!   \----admit-----> Object              typed, with every default filled in
//! ```

#![allow(clippy::duplicated_attributes)] // Each printcolumn of a kind has a name, a type and a path.

pub mod service_route;
pub mod retry;
pub mod connection_pool;
pub mod outlier_detection;
pub mod rate_limit_policy;
pub mod reference;
pub mod filter;
pub mod route_match;
pub mod status;
pub mod validate;
pub mod definition;
pub mod duration;
pub mod expression;
mod schema;
#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;

pub use connection_pool::{ConnectionPool, LoadBalancer, LoadBalancerType};
pub use duration::GatewayDuration;
pub use filter::{
    BackendFilter, BackendFilterType, DirectResponse, Filter, FilterType, Header, HeaderModifier,
    PathModifier, PathModifierType, RequestRedirect, Scheme, UrlRewrite,
};
pub use outlier_detection::{CountedError, Ejection, OutlierDetection, OutlierDetectionSpec, Recovery};
pub use rate_limit_policy::{
    Algorithm, Key, KeyType, Limit, LimitResponse, RateLimitPolicy, RateLimitPolicySpec,
};
pub use reference::{
    BackendReference, LimitTarget, LimitTargetKind, Mode, ParentReference, ServiceKind, ServiceTarget,
};
pub use retry::{GrpcCode, Retry, RetryBudget, RetryCondition, RetryConstraint, RetryRate};
pub use route_match::{
    HeaderMatch, HttpMethod, PathMatch, PathMatchType, QueryParamMatch, RouteMatch, ValueMatchType,
};
pub use service_route::{RouteRule, ServiceRoute, ServiceRouteSpec, Timeouts};
pub use status::{LastError, Rollout, Status};
pub use validate::{Object, Violation, admit, is_ours, validate};

/// The API group of every kind here.
pub const GROUP: &str = "fairlead.dev";
/// The version of every kind here.
pub const VERSION: &str = "v1alpha1";
/// What `apiVersion` says.
pub const API_VERSION: &str = "fairlead.dev/v1alpha1";
