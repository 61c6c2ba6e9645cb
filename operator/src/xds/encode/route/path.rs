//! Paths: what Envoy compares, and what takes its place.
//!
//! The prefix `/v2` holds for `/v2` and for what continues it after a slash, so it becomes the path `/v2` and
//! the prefix `/v2/`; `path_separated_prefix` says the same in one, but gRPC's clients refuse it. It also is
//! what makes a replaced prefix come out right: the slash belongs to both sides, so there never are two.
//!
//! ```text
//!              path /v2       prefix /v2/
//! -> /s, /s/   /s             /s/
//! -> /         /              /
//! ```

use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use fairlead_crds::{PathMatch, PathMatchType, PathModifier, PathModifierType};

use super::expression;
use crate::model::route::Action;

/// Every path.
const ANY_PATH: &str = "^/.*$";

/// One of the comparisons that a match needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Leg {
    /// What Envoy compares.
    pub path: PathSpecifier,
    change: Change,
}

#[derive(Debug, Clone, PartialEq)]
enum Change {
    None,
    /// Of what was compared: the prefix, or an exact path.
    Matched(String),
    /// Of everything.
    Whole(String),
}

/// The comparisons for a path, with what becomes of it.
pub fn legs(path: Option<&PathMatch>, modifier: Option<&PathModifier>) -> Vec<Leg> {
    let whole = modifier.filter(|modifier| modifier.kind == PathModifierType::ReplaceFullPath);
    let whole = whole.and_then(|modifier| modifier.replace_full_path.clone());
    let prefix = modifier.filter(|modifier| modifier.kind == PathModifierType::ReplacePrefixMatch);
    let prefix = prefix.and_then(|modifier| modifier.replace_prefix_match.as_deref());
    let change = whole.map_or(Change::None, Change::Whole);
    match path.map(|path| (path.kind, path.value.as_str())) {
        Some((PathMatchType::Exact, value)) => {
            vec![Leg { path: PathSpecifier::Path(value.to_owned()), change }]
        }
        Some((PathMatchType::RegularExpression, value)) => {
            vec![Leg { path: PathSpecifier::SafeRegex(expression(value)), change }]
        }
        None => prefix_legs("", prefix, change),
        Some((PathMatchType::PathPrefix, value)) => prefix_legs(value.trim_end_matches('/'), prefix, change),
    }
}

/// `matched` and `replacement` without the slash at their ends: empty for `/`.
fn prefix_legs(matched: &str, replacement: Option<&str>, otherwise: Change) -> Vec<Leg> {
    let replacement = replacement.map(|path| path.trim_end_matches('/'));
    let below = Leg {
        path: PathSpecifier::Prefix(format!("{matched}/")),
        change: replacement.map_or_else(|| otherwise.clone(), |path| Change::Matched(format!("{path}/"))),
    };
    if matched.is_empty() && replacement.unwrap_or_default().is_empty() {
        // The prefix / replaced by /, or by nothing: one comparison is enough.
        return vec![Leg { change: otherwise, ..below }];
    }
    let itself = Leg {
        path: PathSpecifier::Path(if matched.is_empty() { "/".to_owned() } else { matched.to_owned() }),
        change: replacement.map_or(otherwise, |path| {
            Change::Matched(if path.is_empty() { "/".to_owned() } else { path.to_owned() })
        }),
    };
    vec![itself, below]
}

/// The new path that a rule asks for.
pub fn modifier(action: &Action) -> Option<&PathModifier> {
    match action {
        Action::Forward { rewrite, .. } => rewrite.path.as_ref(),
        Action::Redirect(redirect) => redirect.path.as_ref(),
        Action::Respond(_) | Action::Broken => None,
    }
}

impl Leg {
    /// Puts the new path into a route.
    pub fn rewrite(&self, action: &mut RouteAction) {
        match &self.change {
            Change::None => {}
            Change::Matched(path) => action.prefix_rewrite.clone_from(path),
            // Of an exact path, Envoy's prefix is the whole.
            Change::Whole(path) if matches!(self.path, PathSpecifier::Path(_)) => {
                action.prefix_rewrite.clone_from(path);
            }
            Change::Whole(path) => {
                action.regex_rewrite = Some(RegexMatchAndSubstitute {
                    pattern: Some(expression(ANY_PATH)),
                    // A backslash would begin a reference to a group.
                    substitution: path.replace('\\', "\\\\"),
                });
            }
        }
    }

    /// The same for a redirect.
    pub fn redirect(&self) -> Option<PathRewriteSpecifier> {
        match &self.change {
            Change::None => None,
            Change::Matched(path) if !matches!(self.path, PathSpecifier::Path(_)) => {
                Some(PathRewriteSpecifier::PrefixRewrite(path.clone()))
            }
            Change::Matched(path) | Change::Whole(path) => {
                Some(PathRewriteSpecifier::PathRedirect(path.clone()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What Envoy makes of a path.
    fn rewritten(legs: &[Leg], path: &str) -> Option<String> {
        legs.iter().find_map(|leg| {
            let matched = match &leg.path {
                PathSpecifier::Path(exact) => (exact == path).then_some(path)?,
                PathSpecifier::Prefix(prefix) => {
                    path.starts_with(prefix.as_str()).then_some(prefix.as_str())?
                }
                _ => return None,
            };
            Some(match &leg.change {
                Change::None => path.to_owned(),
                Change::Matched(to) => format!("{to}{}", path.strip_prefix(matched)?),
                Change::Whole(to) => to.clone(),
            })
        })
    }

    fn replaced(prefix: &str, by: &str, path: &str) -> Option<String> {
        let matched: PathMatch = serde_json::from_value(json!({"value": prefix})).unwrap();
        let modifier: PathModifier =
            serde_json::from_value(json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": by})).unwrap();
        rewritten(&legs(Some(&matched), Some(&modifier)), path)
    }

    #[test]
    fn a_replaced_prefix_in_all_combinations_of_slashes() {
        for prefix in ["/tv0", "/tv0/"] {
            for by in ["/s", "/s/"] {
                assert_eq!(replaced(prefix, by, "/tv0/req").as_deref(), Some("/s/req"), "{prefix} {by}");
                assert_eq!(replaced(prefix, by, "/tv0/req/").as_deref(), Some("/s/req/"), "{prefix} {by}");
                assert_eq!(replaced(prefix, by, "/tv0").as_deref(), Some("/s"), "{prefix} {by}");
                assert_eq!(replaced(prefix, by, "/tv0/").as_deref(), Some("/s/"), "{prefix} {by}");
                assert_eq!(replaced(prefix, by, "/tv0x"), None, "{prefix} {by}");
            }
            assert_eq!(replaced(prefix, "/", "/tv0/req").as_deref(), Some("/req"));
            assert_eq!(replaced(prefix, "/", "/tv0").as_deref(), Some("/"));
            assert_eq!(replaced(prefix, "/", "/tv0/").as_deref(), Some("/"));
            // Kept: the route's own prefix stands again in the new one.
            assert_eq!(replaced(prefix, "/s/tv0", "/tv0/req").as_deref(), Some("/s/tv0/req"));
        }
        for by in ["/s", "/s/"] {
            assert_eq!(replaced("/", by, "/fv0/req").as_deref(), Some("/s/fv0/req"));
            assert_eq!(replaced("/", by, "/").as_deref(), Some("/s"));
        }
        assert_eq!(replaced("/", "/", "/fv0").as_deref(), Some("/fv0"));
        assert_eq!(legs(None, None).len(), 1);
    }

    #[test]
    fn a_whole_path() {
        let modifier: PathModifier =
            serde_json::from_value(json!({"type": "ReplaceFullPath", "replaceFullPath": "/new"})).unwrap();
        let matched: PathMatch = serde_json::from_value(json!({"value": "/old"})).unwrap();
        let legs = legs(Some(&matched), Some(&modifier));
        assert_eq!(rewritten(&legs, "/old").as_deref(), Some("/new"));
        assert_eq!(rewritten(&legs, "/old/x").as_deref(), Some("/new"));
        assert_eq!(rewritten(&legs, "/older"), None);
        let mut action = RouteAction::default();
        legs[1].rewrite(&mut action);
        assert_eq!(action.regex_rewrite.unwrap().pattern.unwrap().regex, "^/.*$");
        let mut action = RouteAction::default();
        legs[0].rewrite(&mut action);
        assert_eq!(action.prefix_rewrite, "/new");
    }
}
