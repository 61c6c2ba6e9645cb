//! Which rule carries a request: an ordered list per virtual host, first match wins.
//!
//! The words are Envoy's (`envoy.config.route.v3`), because that is what arrives; the order is the
//! operator's, which is the Gateway API's precedence.

use std::sync::Arc;
use std::time::Duration;

use crate::retry::RetryPolicy;

/// A `RouteConfiguration`, compiled: regular expressions built, header names parsed.
#[derive(Debug)]
pub struct RouteTable {
    /// The resource's name, `shop/reviews:9080`.
    pub name: Arc<str>,
    /// In the order received; chosen by the request's authority as Envoy does: exact, `*suffix`, `prefix*`, `*`.
    pub virtual_hosts: Vec<VirtualHost>,
    /// The names of all clusters that any route leads to; a [`Backend`] points into this list.
    pub clusters: Vec<Arc<str>>,
}

/// Routes for some authorities.
#[derive(Debug)]
pub struct VirtualHost {
    /// `*`, `reviews.shop`, `*.shop`, `reviews.*`.
    pub domains: Vec<String>,
    /// First match wins.
    pub routes: Vec<Route>,
}

/// One rule with all that it sets.
#[derive(Debug)]
pub struct Route {
    /// `shop/reviews#canary`: namespace and name of the ServiceRoute, name of its rule. For log and metric.
    pub name: Arc<str>,
    /// What `x-fairlead-target` says: the called Service, its port and the rule, `shop/reviews:9080#canary`.
    pub target: Option<http::HeaderValue>,
    /// All must hold.
    pub matcher: RouteMatcher,
    /// What is done with the request.
    pub action: Action,
    /// From the first byte of the request to the last of the answer, all attempts together; none: no limit.
    pub timeout: Option<Duration>,
    /// The same for one attempt.
    pub per_try_timeout: Option<Duration>,
    /// How long neither side may send anything; none: no limit.
    pub idle_timeout: Option<Duration>,
    /// When and how often to try again.
    pub retry: RetryPolicy,
    /// Changes to the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes to the answer's headers.
    pub response_headers: HeaderChanges,
}

/// What a request must look like.
#[derive(Debug)]
pub struct RouteMatcher {
    /// The path, without the query.
    pub path: PathMatcher,
    /// Headers, with `:method`, `:path`, `:authority` and `:scheme` as Envoy has them.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// Only gRPC calls.
    pub grpc: bool,
}

/// How the path is compared.
#[derive(Debug)]
pub enum PathMatcher {
    /// Every path that begins so.
    Prefix(String),
    /// This path alone.
    Exact(String),
    /// This path, and what follows it after a slash.
    SegmentPrefix(String),
    /// The whole path matches.
    Regex(regex::Regex),
}

/// A condition on one header.
#[derive(Debug)]
pub struct HeaderMatcher {
    /// Lower case; may begin with a colon.
    pub name: String,
    /// Compared with all values of that name, joined by a comma as Envoy does.
    pub value: ValueMatcher,
    /// The condition is turned round.
    pub invert: bool,
}

/// A condition on one query parameter.
#[derive(Debug)]
pub struct QueryMatcher {
    /// Case-sensitive.
    pub name: String,
    /// Compared with its first value.
    pub value: ValueMatcher,
}

/// How a value is compared.
#[derive(Debug)]
pub enum ValueMatcher {
    /// Equal.
    Exact(String),
    /// Begins so.
    Prefix(String),
    /// Ends so.
    Suffix(String),
    /// Contains it.
    Contains(String),
    /// The whole value matches.
    Regex(regex::Regex),
    /// Present (`true`) or absent.
    Present(bool),
}

/// What is done with a request that matched.
#[derive(Debug)]
pub enum Action {
    /// Sent to one of the backends.
    Forward {
        /// Picked by weight.
        backends: Backends,
        /// Path and authority as the backend gets them.
        rewrite: Rewrite,
    },
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered at once.
    Respond(DirectResponse),
}

/// Backends with weights and the live state of the smooth weighted pick.
#[derive(Debug)]
pub struct Backends {
    /// Those with a weight above zero.
    pub list: Vec<Backend>,
    /// What the picks so far have added up to; the owner of this file gives it its shape.
    pub cursor: std::sync::Mutex<Vec<i64>>,
}

/// One backend of a rule.
#[derive(Debug)]
pub struct Backend {
    /// Index into [`RouteTable::clusters`].
    pub cluster: usize,
    /// Its share of the sum of all weights.
    pub weight: u32,
    /// Changes to the request's headers for this backend alone.
    pub request_headers: HeaderChanges,
    /// Changes to the answer's headers for this backend alone.
    pub response_headers: HeaderChanges,
}

/// Path and authority as the backend gets them.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// What takes the place of the matched prefix (or of the whole path, with an exact match).
    pub prefix: Option<String>,
    /// What takes the place of the whole path (Envoy: a regular expression that matches everything).
    pub path: Option<String>,
    /// Envoy's `regex_rewrite`: pattern and substitution.
    pub regex: Option<(regex::Regex, String)>,
    /// The authority.
    pub host: Option<http::HeaderValue>,
}

/// Envoy's `RedirectAction`.
#[derive(Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: http::StatusCode,
    /// `https`, `http`; none: the request's.
    pub scheme: Option<String>,
    /// None: the request's.
    pub host: Option<String>,
    /// None: the request's, or the scheme's own when the scheme changes.
    pub port: Option<u16>,
    /// The whole path.
    pub path: Option<String>,
    /// What takes the place of the matched prefix.
    pub prefix: Option<String>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

/// An answer of our own.
#[derive(Debug)]
pub struct DirectResponse {
    /// The status.
    pub status: http::StatusCode,
    /// The body.
    pub body: bytes::Bytes,
}

/// Envoy's `request_headers_to_add` and `_to_remove`, in the order that Envoy applies them: remove, then
/// set (overwrite) and add (append).
#[derive(Debug, Default)]
pub struct HeaderChanges {
    /// Removed first.
    pub remove: Vec<http::HeaderName>,
    /// Replaces every value of that name.
    pub set: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Added beside what is there.
    pub add: Vec<(http::HeaderName, http::HeaderValue)>,
}
