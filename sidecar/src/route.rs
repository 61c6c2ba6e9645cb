//! Which rule carries a request: an ordered list per virtual host, first match wins.
//!
//! The words are Envoy's (`envoy.config.route.v3`), because that is what arrives; the order is the
//! operator's, which is the Gateway API's precedence.
//!
//! ```text
//! request --authority--> VirtualHost --first match--> Route --action--> Forward: pick a Backend, rewrite, send
//!                                                               \----> Redirect | Respond: answered here
//! ```
//!
//! Cost of finding the route: the conditions of the rules before it and its own, no lock and no allocation
//! (an authority in upper case is copied once). Picking one of several backends takes a mutex for as long as
//! the list is walked; a rule with one backend takes none. A rewrite builds the new path: one allocation.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response};

use crate::failure::Failure;
pub use crate::matcher::{
    BadRegex, HeaderMatcher, PathMatcher, QueryMatcher, RouteMatcher, ValueMatcher, part_regex, whole_regex,
};
use crate::metrics::Handles;
use crate::retry::RetryPolicy;

mod backends;
mod headers;
mod redirect;
mod rewrite;
mod virtual_host;

pub use backends::{Backend, Backends};
pub use headers::HeaderChanges;
pub use redirect::Redirect;
pub use rewrite::Rewrite;
pub use virtual_host::{DuplicateDomain, VirtualHost};

/// A `RouteConfiguration`, compiled: regular expressions built, header names parsed.
#[derive(Debug)]
pub struct RouteTable {
    /// The resource's name, `shop/reviews:9080`.
    pub name: Arc<str>,
    /// In the order received; chosen by the request's authority as Envoy does: exact, `*suffix`, `prefix*`, `*`.
    pub virtual_hosts: Vec<VirtualHost>,
    /// The names of all clusters that any route leads to; a [`Backend`] points into this list.
    pub clusters: Vec<Arc<str>>,
    domains: virtual_host::Domains,
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
    /// Where its requests are counted; set by the first of them.
    pub handles: OnceLock<Arc<Handles>>,
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

/// An answer of our own.
#[derive(Debug)]
pub struct DirectResponse {
    /// The status.
    pub status: http::StatusCode,
    /// The body.
    pub body: Bytes,
}

impl RouteTable {
    /// A table with its index of domains. `ignore_port` is Envoy's `ignore_port_in_host_matching`: the port
    /// of the request's authority is cut off before it is compared; without it `reviews:9080` and `reviews`
    /// are two domains.
    ///
    /// # Errors
    /// When a domain stands twice, as Envoy refuses it.
    pub fn new(
        name: Arc<str>,
        virtual_hosts: Vec<VirtualHost>,
        clusters: Vec<Arc<str>>,
        ignore_port: bool,
    ) -> Result<Self, DuplicateDomain> {
        let domains = virtual_host::Domains::new(&virtual_hosts, ignore_port)?;
        Ok(Self { name, virtual_hosts, clusters, domains })
    }

    /// The rule that carries this request: the first that matches, of the virtual host that its authority
    /// names. None: 404.
    pub fn route(&self, request: &Parts) -> Option<&Route> {
        let host = self.virtual_hosts.get(self.domains.find(crate::matcher::authority(request))?)?;
        host.routes.iter().find(|route| route.matcher.matches(request))
    }
}

impl Route {
    /// Makes the request what the backend is to get: path and authority rewritten, then the rule's headers
    /// changed, then the backend's own, so that what is said about the backend has the last word.
    ///
    /// To be called once a request, before the first attempt.
    ///
    /// # Errors
    /// When the rewritten path is not one, which a substitution can bring about.
    pub fn apply_request(&self, request: &mut Parts, backend: &Backend) -> Result<(), Failure> {
        if let Action::Forward { rewrite, .. } = &self.action {
            rewrite.apply(&self.matcher.path, request)?;
        }
        self.request_headers.apply(&mut request.headers);
        backend.request_headers.apply(&mut request.headers);
        Ok(())
    }

    /// Changes the headers of the answer that came from this backend: the rule's, then the backend's.
    pub fn apply_response(&self, headers: &mut HeaderMap, backend: &Backend) {
        self.response_headers.apply(headers);
        backend.response_headers.apply(headers);
    }

    /// The answer to a request that is not forwarded: the redirect or the fixed response, with the rule's
    /// changes to the answer's headers. None when the rule forwards.
    pub fn answer(&self, request: &Parts) -> Option<Response<Bytes>> {
        let mut response = match &self.action {
            Action::Forward { .. } => return None,
            Action::Redirect(redirect) => redirect.answer(&self.matcher.path, request),
            Action::Respond(fixed) => fixed.answer(),
        };
        self.response_headers.apply(response.headers_mut());
        Some(response)
    }
}

impl DirectResponse {
    fn answer(&self) -> Response<Bytes> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        if !self.body.is_empty() {
            // As Envoy does; a rule that sets its own content-type replaces it.
            response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        response
    }
}

#[cfg(test)]
mod tests;
