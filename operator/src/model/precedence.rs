//! Which of several matches decides: HTTPRoute's precedence, across all rules.
//!
//! 1. an exact path,
//! 2. the longest prefix,
//! 3. a regular expression on the path (the Gateway API leaves its place open; it stands before the prefix
//!    `/`, which every request has, or a default rule would hide every expression),
//! 4. the prefix `/`, or no path at all;
//!
//! then a method; then the most headers; then the most query parameters; then the order of the rules, and in
//! a rule of its matches.

use std::cmp::Reverse;

use fairlead_crds::{PathMatchType, RouteMatch};

/// A match of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The rule's place in its ServiceRoute.
    pub rule: usize,
    /// What a request must look like.
    pub matched: RouteMatch,
}

/// Sorts by precedence. What is equal stays in the order in which it is given: that of the rules.
pub fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|candidate| rank(&candidate.matched));
}

type Rank = (u8, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>);

fn rank(matched: &RouteMatch) -> Rank {
    let (class, length) = match matched.path.as_ref().map(|path| (path.kind, path.value.as_str())) {
        Some((PathMatchType::Exact, _)) => (0, 0),
        None | Some((PathMatchType::PathPrefix, "" | "/")) => (3, 0),
        Some((PathMatchType::PathPrefix, prefix)) => (1, prefix.chars().count()),
        Some((PathMatchType::RegularExpression, _)) => (2, 0),
    };
    (
        class,
        Reverse(length),
        matched.method.is_none(),
        Reverse(matched.headers.len()),
        Reverse(matched.query_params.len()),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::matching;

    fn sorted(matches: Value) -> Vec<usize> {
        let matches: Vec<RouteMatch> = serde_json::from_value(matches).unwrap();
        let mut candidates: Vec<_> = matches
            .iter()
            .enumerate()
            .map(|(rule, matched)| Candidate { rule, matched: matching::normal(matched) })
            .collect();
        sort(&mut candidates);
        candidates.iter().map(|candidate| candidate.rule).collect()
    }

    #[test]
    fn path_decides_first() {
        let matches = json!([
            {},
            {"path": {"value": "/"}, "method": "GET", "headers": [{"name": "a", "value": "1"}]},
            {"path": {"type": "RegularExpression", "value": "/v[0-9]+/.*"}},
            {"path": {"value": "/v2"}, "method": "GET", "headers": [{"name": "a", "value": "1"}]},
            {"path": {"value": "/v2/reviews"}},
            {"path": {"type": "Exact", "value": "/v2"}},
        ]);
        assert_eq!(sorted(matches), [5, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn then_method_then_headers_then_query_parameters_then_order() {
        let header = |count: usize| -> Vec<Value> {
            (0..count).map(|name| json!({"name": format!("h{name}"), "value": "1"})).collect()
        };
        let matches = json!([
            {"path": {"value": "/a"}},
            {"path": {"value": "/a/"}},
            {"path": {"value": "/a"}, "queryParams": header(1)},
            {"path": {"value": "/a"}, "queryParams": header(2)},
            {"path": {"value": "/a"}, "headers": header(1)},
            {"path": {"value": "/a"}, "headers": header(1), "queryParams": header(1)},
            {"path": {"value": "/a"}, "headers": header(3)},
            {"path": {"value": "/a"}, "method": "POST"},
            {"path": {"value": "/a"}, "method": "GET", "headers": header(1)},
        ]);
        assert_eq!(sorted(matches), [8, 7, 6, 5, 4, 3, 2, 0, 1]);
    }

    #[test]
    fn a_repeated_header_counts_once_and_its_first_value_counts() {
        let matched: RouteMatch = serde_json::from_value(json!({
            "path": {"value": "/v2//"},
            "headers": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}],
            "queryParams": [{"name": "q", "value": "1"}, {"name": "Q", "value": "2"}, {"name": "q", "value": "3"}],
        }))
        .unwrap();
        let normal = matching::normal(&matched);
        assert_eq!(normal.path.unwrap().value, "/v2");
        assert_eq!(normal.headers.iter().map(|header| header.value.as_str()).collect::<Vec<_>>(), ["1"]);
        assert_eq!(
            normal.query_params.iter().map(|param| param.value.as_str()).collect::<Vec<_>>(),
            ["1", "2"]
        );
    }
}
