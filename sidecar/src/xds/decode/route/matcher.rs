//! `RouteMatch`: what a request must look like.
//!
//! A comparison that ignores case becomes a regular expression.

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher as EnvoyHeader, QueryParameterMatcher as EnvoyQuery, RouteMatch,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::first_lack;
use super::regexes::Regexes;
use crate::route::{HeaderMatcher, PathMatcher, QueryMatcher, RouteMatcher, ValueMatcher};
use crate::xds::decode::Rejection;

/// Decodes a match; none when it can never be met.
pub(super) fn decode(matcher: &RouteMatch, regexes: &mut Regexes) -> Result<Option<RouteMatcher>, Rejection> {
    first_lack(&[
        (
            matcher.case_sensitive.is_some_and(|value| !value.value),
            "case_sensitive: false",
            "paths differ by case",
        ),
        (!matcher.cookies.is_empty(), "cookies", "match the header `cookie`"),
        (matcher.tls_context.is_some(), "tls_context", "callers come without TLS"),
        (!matcher.dynamic_metadata.is_empty(), "dynamic_metadata", "no filter sets any"),
        (!matcher.filter_state.is_empty(), "filter_state", "no filter sets any"),
    ])?;
    if !fraction(matcher.runtime_fraction.as_ref())? {
        return Ok(None);
    }
    let headers = matcher.headers.iter().enumerate().map(|(index, header)| {
        self::header(header, regexes)
            .map_err(|error| error.within(format_args!("headers[{index}] {:?}", header.name)))
    });
    let headers = headers.collect::<Result<_, _>>()?;
    let query = matcher.query_parameters.iter().map(|query| {
        self::query(query, regexes)
            .map_err(|error| error.within(format_args!("query_parameters {:?}", query.name)))
    });
    let query = query.collect::<Result<_, _>>()?;
    let path = path(matcher.path_specifier.as_ref(), regexes)?;
    Ok(Some(RouteMatcher { path, headers, query, grpc: matcher.grpc.is_some() }))
}

/// Whether a route with this fraction matches at all. Runtime keys do not exist here: the default counts.
fn fraction(fraction: Option<&RuntimeFractionalPercent>) -> Result<bool, Rejection> {
    let Some(fraction) = fraction.and_then(|fraction| fraction.default_value) else { return Ok(true) };
    let whole = match DenominatorType::try_from(fraction.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return Err(Rejection::new("the denominator of runtime_fraction is unknown")),
    };
    match fraction.numerator {
        0 => Ok(false),
        numerator if numerator >= whole => Ok(true),
        _ => Err(Rejection::unsupported("runtime_fraction", "use `weighted_clusters`")),
    }
}

fn path(path: Option<&PathSpecifier>, regexes: &mut Regexes) -> Result<PathMatcher, Rejection> {
    match path {
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatcher::Prefix(prefix.clone())),
        Some(PathSpecifier::Path(path)) => Ok(PathMatcher::Exact(path.clone())),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => Ok(PathMatcher::SegmentPrefix(prefix.clone())),
        Some(PathSpecifier::SafeRegex(regex)) => {
            Ok(PathMatcher::Regex(regexes.matcher("safe_regex", regex)?))
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            Err(Rejection::unsupported("connect_matcher", "CONNECT is not carried"))
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            Err(Rejection::unsupported("path_match_policy", "use `safe_regex`"))
        }
        None => Err(Rejection::new("there is no path condition")),
    }
}

#[expect(deprecated, reason = "other servers still send the forms before string_match")]
fn header(header: &EnvoyHeader, regexes: &mut Regexes) -> Result<HeaderMatcher, Rejection> {
    if header.treat_missing_header_as_empty {
        return Err(Rejection::unsupported(
            "treat_missing_header_as_empty",
            "a missing header matches nothing",
        ));
    }
    let name = header.name.parse();
    let name = name.map_err(|_| Rejection::new("that is no name of a header"))?;
    let value = match header.header_match_specifier.as_ref() {
        None => ValueMatcher::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => ValueMatcher::Present(*present),
        Some(HeaderMatchSpecifier::ExactMatch(value)) => ValueMatcher::Exact(value.clone()),
        Some(HeaderMatchSpecifier::PrefixMatch(value)) => ValueMatcher::Prefix(value.clone()),
        Some(HeaderMatchSpecifier::SuffixMatch(value)) => ValueMatcher::Suffix(value.clone()),
        Some(HeaderMatchSpecifier::ContainsMatch(value)) => ValueMatcher::Contains(value.clone()),
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => {
            ValueMatcher::Regex(regexes.matcher("safe_regex_match", regex)?)
        }
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => string(matcher, regexes)?,
        Some(HeaderMatchSpecifier::RangeMatch(_)) => {
            return Err(Rejection::unsupported("range_match", "use a regular expression"));
        }
    };
    Ok(HeaderMatcher { name, value, invert: header.invert_match })
}

fn query(query: &EnvoyQuery, regexes: &mut Regexes) -> Result<QueryMatcher, Rejection> {
    let value = match query.query_parameter_match_specifier.as_ref() {
        None => ValueMatcher::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => ValueMatcher::Present(*present),
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => string(matcher, regexes)?,
    };
    Ok(QueryMatcher { name: query.name.clone(), value })
}

fn string(matcher: &StringMatcher, regexes: &mut Regexes) -> Result<ValueMatcher, Rejection> {
    let Some(pattern) = matcher.match_pattern.as_ref() else {
        return Err(Rejection::new("string_match has no pattern"));
    };
    if matcher.ignore_case {
        let escaped = |text: &str| regex::escape(text);
        let pattern = match pattern {
            MatchPattern::Exact(text) => Some(escaped(text)),
            MatchPattern::Prefix(text) => Some(format!("{}.*", escaped(text))),
            MatchPattern::Suffix(text) => Some(format!(".*{}", escaped(text))),
            MatchPattern::Contains(text) => Some(format!(".*{}.*", escaped(text))),
            MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => None, // Envoy: no effect on these.
        };
        if let Some(pattern) = pattern {
            return Ok(ValueMatcher::Regex(regexes.whole("string_match", format!("(?is:{pattern})"))?));
        }
    }
    match pattern {
        MatchPattern::Exact(value) => Ok(ValueMatcher::Exact(value.clone())),
        MatchPattern::Prefix(value) => Ok(ValueMatcher::Prefix(value.clone())),
        MatchPattern::Suffix(value) => Ok(ValueMatcher::Suffix(value.clone())),
        MatchPattern::Contains(value) => Ok(ValueMatcher::Contains(value.clone())),
        MatchPattern::SafeRegex(regex) => Ok(ValueMatcher::Regex(regexes.matcher("safe_regex", regex)?)),
        MatchPattern::Custom(_) => Err(Rejection::unsupported("string_match.custom", "use `safe_regex`")),
    }
}
