//! Regular expressions: each built once a table, and not too many of them.

use std::collections::HashMap;

use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;
use regex::Regex;

use crate::route::whole_regex;
use crate::xds::decode::Rejection;

/// Different ones in one table: compiled, one takes some kilobytes.
const MAX_REGEXES: usize = 16_384;

/// The expressions of a table that match whole values. The operator repeats a rule for Envoy's sake, with
/// the same expressions in it.
#[derive(Debug, Default)]
pub(super) struct Regexes {
    built: HashMap<String, Regex>,
}

impl Regexes {
    /// Envoy's `RegexMatcher`: the whole value must match.
    pub(super) fn matcher(&mut self, field: &str, matcher: &RegexMatcher) -> Result<Regex, Rejection> {
        self.whole(field, matcher.regex.clone())
    }

    /// An expression that the whole value must match.
    pub(super) fn whole(&mut self, field: &str, pattern: String) -> Result<Regex, Rejection> {
        if let Some(regex) = self.built.get(&pattern) {
            return Ok(regex.clone());
        }
        if self.built.len() >= MAX_REGEXES {
            return Err(Rejection::new(format!("it has more than {MAX_REGEXES} regular expressions")));
        }
        let regex = whole_regex(&pattern).map_err(|error| Rejection::new(error.to_string()).within(field))?;
        self.built.insert(pattern, regex.clone());
        Ok(regex)
    }
}
