//! What a request must look like: the conditions that routes and limits share.
//!
//! The words are Envoy's (`envoy.config.route.v3.RouteMatch`, `HeaderMatcher`, `QueryParameterMatcher`),
//! and so are the rules, so that a request takes the same way through Envoy and through this sidecar:
//!
//! * the path is compared without its query, byte by byte, neither decoded nor normalised;
//! * a header is compared with all its values, joined by a comma; a missing header fails every comparison,
//!   inverted ones too, but for [`ValueMatcher::Present`];
//! * a query parameter is compared with its first value as it was sent, not percent-decoded.
//!
//! Cost: no allocation, except that a header with several values is joined for the comparison. Regular
//! expressions run in time linear in the value, and their size is bounded when they are built.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::header::{self, HeaderMap, HeaderName, InvalidHeaderName};
use http::request::Parts;
use regex::{Regex, RegexBuilder};

/// A regular expression may take so much memory when compiled: hundreds of times what people write, and
/// twice what the operator lets through, so that no rounding between the two makes a difference.
const REGEX_SIZE: usize = 512 * 1024;

/// A compiled expression may cache so many states for each thread that runs it.
const REGEX_CACHE: usize = 256 * 1024;

/// What a request must look like: all must hold.
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
    Regex(Regex),
}

/// A condition on one header.
#[derive(Debug)]
pub struct HeaderMatcher {
    /// What is compared.
    pub name: HeaderOf,
    /// Compared with all values of that name, joined by a comma as Envoy does.
    pub value: ValueMatcher,
    /// The condition is turned round.
    pub invert: bool,
}

/// What of a request is compared as its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderOf {
    /// `:method`.
    Method,
    /// `:path`, with the query.
    Path,
    /// `:authority`, and `host`, which says the same in HTTP/1.1.
    Authority,
    /// `:scheme`.
    Scheme,
    /// All values of this name, joined by a comma.
    Named(HeaderName),
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
    Regex(Regex),
    /// Present (`true`) or absent.
    Present(bool),
}

/// A regular expression that cannot be used, with the reason for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the regular expression {pattern:?} cannot be used: {reason}")]
pub struct BadRegex {
    /// As it was written.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Builds an expression that must match a whole value, as Envoy's `RegexMatcher` does.
///
/// # Errors
/// When it is not a regular expression or takes too much memory.
pub fn whole_regex(pattern: &str) -> Result<Regex, BadRegex> {
    // By itself first: `a)|(b` is no expression, but would become one between our brackets.
    bounded(pattern, pattern)?;
    bounded(&format!(r"\A(?:{pattern})\z"), pattern)
}

/// Builds an expression that is searched for anywhere in a value, as Envoy's `regex_rewrite` does.
///
/// # Errors
/// When it is not a regular expression or takes too much memory.
pub fn part_regex(pattern: &str) -> Result<Regex, BadRegex> {
    bounded(pattern, pattern)
}

fn bounded(expression: &str, written: &str) -> Result<Regex, BadRegex> {
    RegexBuilder::new(expression).size_limit(REGEX_SIZE).dfa_size_limit(REGEX_CACHE).build().map_err(
        |error| {
            let reason = match error {
                regex::Error::CompiledTooBig(limit) => {
                    format!("it takes more than {limit} bytes when compiled")
                }
                other => other.to_string(),
            };
            BadRegex { pattern: written.to_owned(), reason }
        },
    )
}

/// The authority that the caller named: of the request's target, else its `Host`; empty when it named none.
pub fn authority(request: &Parts) -> &str {
    if let Some(authority) = request.uri.authority() {
        return authority.as_str();
    }
    request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

/// Whether these are the headers of a gRPC message: `application/grpc`, alone or with a format after a plus,
/// but not gRPC-Web.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return false };
    content_type
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The first value of a query parameter as it was sent; empty when it stands there without one.
pub fn query_value<'r>(request: &'r Parts, name: &str) -> Option<&'r str> {
    request.uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// All values of a header, joined by a comma.
fn joined<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Option<Cow<'r, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let mut joined = Cow::Borrowed(first.as_bytes());
    for value in values {
        let all = joined.to_mut();
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(joined)
}

impl RouteMatcher {
    /// Whether the request is one of these.
    pub fn matches(&self, request: &Parts) -> bool {
        self.path.matches(request.uri.path())
            && self.headers.iter().all(|header| header.matches(request))
            && self.query.iter().all(|parameter| parameter.matches(request))
            && (!self.grpc || is_grpc(&request.headers))
    }
}

impl PathMatcher {
    /// Whether a path, without its query, is one of these.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Exact(exact) => path == exact,
            Self::SegmentPrefix(prefix) => path
                .strip_prefix(prefix.strip_suffix('/').unwrap_or(prefix))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// How many bytes of a path that matches a prefix rewrite replaces: the prefix, or the whole path where
    /// the condition is about the whole path.
    pub fn matched(&self, path: &str) -> usize {
        match self {
            Self::Prefix(prefix) => prefix.len().min(path.len()),
            Self::SegmentPrefix(prefix) => prefix.strip_suffix('/').unwrap_or(prefix).len().min(path.len()),
            Self::Exact(_) | Self::Regex(_) => path.len(),
        }
    }
}

impl FromStr for HeaderOf {
    type Err = InvalidHeaderName;

    /// By its name in any case.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = name.to_ascii_lowercase();
        Ok(match name.as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" => Self::Authority,
            ":scheme" => Self::Scheme,
            name => match HeaderName::from_bytes(name.as_bytes())? {
                header::HOST => Self::Authority,
                name => Self::Named(name),
            },
        })
    }
}

impl HeaderOf {
    /// What the request has there; None: no such header.
    pub fn value<'r>(&self, request: &'r Parts) -> Option<Cow<'r, [u8]>> {
        let value = match self {
            Self::Method => request.method.as_str(),
            Self::Path => request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
            Self::Authority => authority(request),
            Self::Scheme => request.uri.scheme_str().unwrap_or("http"),
            Self::Named(name) => return joined(&request.headers, name),
        };
        Some(Cow::Borrowed(value.as_bytes()))
    }
}

impl fmt::Display for HeaderOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Authority => "host",
            Self::Scheme => ":scheme",
            Self::Named(name) => name.as_str(),
        })
    }
}

impl HeaderMatcher {
    /// Whether the request's header is as asked.
    pub fn matches(&self, request: &Parts) -> bool {
        match (&self.value, self.name.value(request)) {
            (ValueMatcher::Present(wanted), value) => (value.is_some() == *wanted) != self.invert,
            (_, None) => false,
            (matcher, Some(value)) => matcher.matches(&value) != self.invert,
        }
    }
}

impl QueryMatcher {
    /// Whether the request's parameter is as asked.
    pub fn matches(&self, request: &Parts) -> bool {
        let value = query_value(request, &self.name);
        match &self.value {
            ValueMatcher::Present(wanted) => value.is_some() == *wanted,
            matcher => value.is_some_and(|value| matcher.matches(value.as_bytes())),
        }
    }
}

impl ValueMatcher {
    /// Whether a value that is there is as asked.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_bytes()),
            Self::Contains(part) => memchr::memmem::find(value, part.as_bytes()).is_some(),
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
            Self::Present(wanted) => *wanted,
        }
    }
}

#[cfg(test)]
mod tests;
