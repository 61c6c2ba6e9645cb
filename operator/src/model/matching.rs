//! A match as it is evaluated: expressions checked, repetitions and trailing slashes gone.

use std::collections::BTreeSet;

use fairlead_crds::{PathMatchType, RouteMatch, ValueMatchType, expression};

/// Whether every expression in it can be evaluated; else what is wrong with the first that cannot.
pub fn check(matched: &RouteMatch) -> Result<(), String> {
    let path = matched.path.iter().filter(|path| path.kind == PathMatchType::RegularExpression);
    let headers = matched.headers.iter().filter(|header| header.kind == ValueMatchType::RegularExpression);
    let query = matched.query_params.iter().filter(|param| param.kind == ValueMatchType::RegularExpression);
    let all = path
        .map(|path| ("path".to_owned(), &path.value))
        .chain(headers.map(|header| (format!("header {}", header.name), &header.value)))
        .chain(query.map(|param| (format!("query parameter {}", param.name), &param.value)));
    for (what, text) in all {
        expression::check(text).map_err(|error| format!("{what}: {error}"))?;
    }
    Ok(())
}

/// The same match in its normal form: of headers with equal names (in any case) and of query parameters with
/// equal names the first counts, as in HTTPRoute, and a prefix has no slash at its end.
pub fn normal(matched: &RouteMatch) -> RouteMatch {
    let mut normal = matched.clone();
    let mut names = BTreeSet::new();
    normal.headers.retain_mut(|header| {
        header.name = header.name.to_ascii_lowercase();
        names.insert(header.name.clone())
    });
    let mut names = BTreeSet::new();
    normal.query_params.retain(|param| names.insert(param.name.clone()));
    if let Some(path) = normal.path.as_mut().filter(|path| path.kind == PathMatchType::PathPrefix) {
        let kept = path.value.trim_end_matches('/').len();
        path.value.truncate(kept.max(1));
    }
    normal
}
