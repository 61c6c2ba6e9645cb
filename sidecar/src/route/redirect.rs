//! The answer that sends the caller elsewhere.

use bytes::Bytes;
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use super::PathMatcher;
use super::rewrite::replace_prefix;
use crate::matcher::authority;

/// Envoy's `RedirectAction`.
///
/// The port is Envoy's choice: the one given; else, with a host given, none; else the request's own, without
/// the well-known port of a scheme that the redirect leaves. The well-known port of the new scheme is never
/// written out (Gateway API, `HTTPRequestRedirectFilter.port`).
#[derive(Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `https`, `http`; none: the request's.
    pub scheme: Option<String>,
    /// None: the request's.
    pub host: Option<String>,
    /// None: the request's where the host is the request's, else none.
    pub port: Option<u16>,
    /// The whole path.
    pub path: Option<String>,
    /// What takes the place of the matched prefix.
    pub prefix: Option<String>,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

impl Redirect {
    /// The redirect of a request whose path matched `matcher`.
    pub fn answer(&self, matcher: &PathMatcher, request: &Parts) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = self.status;
        if let Ok(location) = HeaderValue::try_from(self.location(matcher, request)) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }

    fn location(&self, matcher: &PathMatcher, request: &Parts) -> String {
        let path = match (&self.path, &self.prefix) {
            (Some(path), _) => path.clone(),
            (None, Some(prefix)) => replace_prefix(matcher, request.uri.path(), prefix),
            (None, None) => request.uri.path().to_owned(),
        };
        let query = match request.uri.query() {
            Some(query) if !self.strip_query && !path.contains('?') => ["?", query].concat(),
            _ => String::new(),
        };
        let old_scheme = request.uri.scheme_str().unwrap_or("http");
        let scheme = self.scheme.as_deref().unwrap_or(old_scheme);
        let (old_host, old_port) = split_port(authority(request));
        let host = self.host.as_deref().unwrap_or(old_host);
        if host.is_empty() {
            return path + &query; // A caller that named no host resolves it against what it dialled.
        }
        let left = old_port == well_known(old_scheme) && scheme != old_scheme;
        let port = match (self.port, old_port) {
            (Some(port), _) => Some(port),
            (None, Some(port)) if self.host.is_none() && !left => Some(port),
            _ => None,
        };
        let port = match port.filter(|port| Some(*port) != well_known(scheme)) {
            Some(port) => format!(":{port}"),
            None => String::new(),
        };
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

/// The port that a scheme means when none is written.
fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host and port of an authority; the brackets of an IPv6 address stay with it.
pub(super) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}
