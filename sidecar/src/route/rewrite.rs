//! Path and authority as the backend gets them.
//!
//! The semantics are Envoy's: `prefix_rewrite` takes the place of exactly what the rule's path condition
//! matched, and the query stays as it is. The operator sends a prefix `/v2` as the exact path `/v2` and the
//! prefix `/v2/`, each with its own replacement, so that no slash is ever doubled or lost. With Envoy's
//! `path_separated_prefix` the replacement's last slash is dropped where the rest begins with one.

use http::HeaderValue;
use http::header::HOST;
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use regex::Regex;

use super::{BadRegex, PathMatcher, part_regex};
use crate::failure::{Failure, Kind};

/// Path and authority as the backend gets them. At most one of `prefix`, `path` and `regex` is set; of
/// several the first in this order counts.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// What takes the place of the matched prefix (or of the whole path, with an exact match).
    pub prefix: Option<String>,
    /// What takes the place of the whole path (Envoy: a regular expression that matches everything).
    pub path: Option<String>,
    /// Envoy's `regex_rewrite`: pattern and substitution, the latter in the words of the `regex` crate. Use
    /// [`Rewrite::regex`].
    pub regex: Option<(Regex, String)>,
    /// The authority.
    pub host: Option<HeaderValue>,
}

impl Rewrite {
    /// Envoy's `regex_rewrite` (`RegexMatchAndSubstitute`): every match is replaced; `\1` stands for the
    /// first group, `\0` for the match, `\\` for a backslash.
    ///
    /// # Errors
    /// When the pattern is not a regular expression or too big, or the substitution names a group that the
    /// pattern has not.
    pub fn regex(pattern: &str, substitution: &str) -> Result<(Regex, String), BadRegex> {
        let regex = part_regex(pattern)?;
        let bad = |reason: String| BadRegex { pattern: pattern.to_owned(), reason };
        let mut ours = String::with_capacity(substitution.len());
        let mut rest = substitution.chars();
        while let Some(next) = rest.next() {
            match next {
                '$' => ours.push_str("$$"),
                '\\' => match rest.next() {
                    Some('\\') => ours.push('\\'),
                    Some(digit @ '0'..='9') => {
                        let group = digit.to_digit(10).unwrap_or_default() as usize;
                        if group >= regex.captures_len() {
                            return Err(bad(format!(
                                "the substitution {substitution:?} names group {group}"
                            )));
                        }
                        ours.push_str("${");
                        ours.push(digit);
                        ours.push('}');
                    }
                    _ => {
                        let reason =
                            format!(r"the substitution {substitution:?} may have only \0 to \9 and \\");
                        return Err(bad(reason));
                    }
                },
                other => ours.push(other),
            }
        }
        Ok((regex, ours))
    }

    /// Rewrites the request, whose path matched `matcher`.
    ///
    /// # Errors
    /// When the new path is not one.
    pub fn apply(&self, matcher: &PathMatcher, request: &mut Parts) -> Result<(), Failure> {
        let path = self.new_path(matcher, request.uri.path());
        if let Some(path) = path {
            request.uri = with_path(&request.uri, path)?;
        }
        if let Some(host) = &self.host {
            if request.uri.authority().is_some() {
                request.uri = with_authority(&request.uri, host)?;
            }
            if request.uri.authority().is_none() || request.headers.contains_key(HOST) {
                request.headers.insert(HOST, host.clone());
            }
        }
        Ok(())
    }

    fn new_path(&self, matcher: &PathMatcher, path: &str) -> Option<String> {
        if let Some(prefix) = &self.prefix {
            return Some(replace_prefix(matcher, path, prefix));
        }
        if let Some(whole) = &self.path {
            return Some(whole.clone());
        }
        let (regex, substitution) = self.regex.as_ref()?;
        Some(regex.replace_all(path, substitution.as_str()).into_owned())
    }
}

/// A path with what the rule's condition matched replaced.
pub(super) fn replace_prefix(matcher: &PathMatcher, path: &str, replacement: &str) -> String {
    let rest = path.get(matcher.matched(path)..).unwrap_or_default();
    let replacement = match matcher {
        PathMatcher::SegmentPrefix(_) if rest.starts_with('/') => {
            replacement.strip_suffix('/').unwrap_or(replacement)
        }
        _ => replacement,
    };
    let slash = if replacement.starts_with('/') || (replacement.is_empty() && rest.starts_with('/')) {
        ""
    } else {
        "/" // Nothing else is a path.
    };
    [slash, replacement, rest].concat()
}

fn with_path(uri: &Uri, mut path: String) -> Result<Uri, Failure> {
    if !path.starts_with('/') {
        path.insert(0, '/'); // Nothing else is a path.
    }
    if let Some(query) = uri.query() {
        // A replacement may bring a query of its own; then it is the one that counts.
        if !path.contains('?') {
            path.push('?');
            path.push_str(query);
        }
    }
    let bad = |error: &dyn std::fmt::Display| {
        Failure::local(Kind::BadBackend, format!("the rewritten path is not a path: {error}"))
    };
    let path = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path)).map_err(|error| bad(&error))?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    if parts.authority.is_some() && parts.scheme.is_none() {
        parts.scheme = Some(http::uri::Scheme::HTTP);
    }
    Uri::from_parts(parts).map_err(|error| bad(&error))
}

fn with_authority(uri: &Uri, host: &HeaderValue) -> Result<Uri, Failure> {
    let bad = |error: &dyn std::fmt::Display| {
        Failure::local(Kind::BadBackend, format!("the rewritten authority is not one: {error}"))
    };
    let authority = http::uri::Authority::try_from(host.as_bytes()).map_err(|error| bad(&error))?;
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(authority);
    Uri::from_parts(parts).map_err(|error| bad(&error))
}
