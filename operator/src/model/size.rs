//! How large a resource becomes, before it is encoded: what is too large is taken out, with a condition that
//! says so, for a sidecar that got it would refuse it, or lose its stream over it, and other objects with it.
//!
//! The figures are never too small, and for what is large not much too large; tests compare them with the bytes.

use fairlead_crds::status::reason;
use fairlead_crds::{
    HeaderModifier, PathMatchType, RateLimitPolicySpec, Retry, RetryCondition, RouteMatch, ServiceRoute,
    UrlRewrite,
};
use serde_json::Value;

use super::attach::Claim;
use super::object::{Kind, ObjectRef};
use super::problem::Problems;
use super::route::{Action, Backend, Routes, Rule};

/// The rules of one Service port, in bytes: gRPC's clients take 4 MiB in one message, a sidecar 16 MiB as one
/// resource.
pub const ROUTES_LIMIT: usize = 3 << 20;

/// The policies of one Service port, in bytes: the sidecar of an endpoint in sixteen Services still takes them.
pub const POLICIES_LIMIT: usize = 1 << 20;

/// What stands around a text, a list, a message: its tag and its length.
const FRAME: usize = 6;

/// Of a route, besides the texts that users write: its times, and the frames of everything.
const ROUTE: usize = 220;

/// Of a route that is tried again: Envoy's policy, and the frames of ours.
const RETRY: usize = 360;

/// The comparison of the method.
const METHOD: usize = 40;

/// The comparisons of a retry's variant: eight methods, or the header with the key.
const VARIANT: usize = 100;

/// The rules of `route`, if they are not too large; else all of them answer 500, and its author hears why.
pub fn bounded(routes: Routes, route: Claim<'_, ServiceRoute>, problems: &mut Problems) -> Routes {
    let size = of_routes(&routes, longest_target(route));
    if size <= ROUTES_LIMIT {
        return routes;
    }
    let object = ObjectRef::new(Kind::ServiceRoute, route.key.clone());
    problems.refused(&object, reason::TOO_LARGE, too_large(size));
    Routes::all_broken(route.key)
}

/// The bytes of the longest name that a Service port of the route may have.
fn longest_target(route: Claim<'_, ServiceRoute>) -> usize {
    let names = route.object.spec.parent_refs.iter().map(|parent| parent.name.len());
    route.key.namespace.len() + names.max().unwrap_or_default() + "/:65535".len()
}

fn too_large(size: usize) -> String {
    format!(
        "every request answers 500, for the rules come to about {} in each sidecar that calls the Service and the \
         limit is {}: write fewer matches or shorter header values. Each match counts once with all its rule says, \
         with a path prefix twice, and with retries after statuses, Reset, Timeout or GatewayError up to six times; \
         header changes that all rules have in common count once",
        shown(size),
        shown(ROUTES_LIMIT)
    )
}

/// The routes of one Service port whose name has `target` bytes at most.
pub fn of_routes(routes: &Routes, target: usize) -> usize {
    let object = routes.object.as_ref().map_or(0, |key| key.namespace.len() + key.name.len());
    let by_rule: Vec<usize> = routes.rules.iter().map(|rule| of_rule(rule, object, target)).collect();
    let matches = routes.order.iter().filter_map(|candidate| {
        let rule = routes.rules.get(candidate.rule)?;
        let (paths, variants) = copies(rule, &candidate.matched);
        let variant = if variants > 1 { VARIANT } else { 0 };
        let each = by_rule.get(candidate.rule)? + of_match(&candidate.matched) + variant;
        Some(each * paths * variants)
    });
    let common = of_headers(&routes.request_headers) + of_headers(&routes.response_headers);
    matches.sum::<usize>() + common + 2 * target + ROUTE
}

/// A size as people read it.
pub fn shown(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x0010_0000 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0x000f_ffff) * 10) >> 20),
    }
}

/// A match becomes two routes for a prefix, and each of them up to three where only idempotent requests are
/// tried again after some failures.
fn copies(rule: &Rule, matched: &RouteMatch) -> (usize, usize) {
    let prefix = matched.path.as_ref().is_none_or(|path| path.kind == PathMatchType::PathPrefix);
    let retry = &rule.retry;
    let by_method = !retry.codes.is_empty()
        || retry.conditions.iter().any(|it| it.needs_idempotence() && *it != RetryCondition::ResetOnReuse);
    let forwards = matches!(rule.action, Action::Forward { .. });
    let variants = match matched.method {
        _ if !forwards || retry.attempts == 0 || !by_method => 1,
        None => 3,
        Some(method) if retry.methods.contains(&method) => 1,
        Some(_) => 2,
    };
    (if prefix { 2 } else { 1 }, variants)
}

/// What every route of the rule has.
fn of_rule(rule: &Rule, object: usize, target: usize) -> usize {
    let action = match &rule.action {
        Action::Forward { backends, rewrite } => {
            backends.iter().map(of_backend).sum::<usize>() + of_rewrite(rewrite) + of_retry(&rule.retry)
        }
        Action::Redirect(redirect) => {
            let path = redirect.path.as_ref().map_or(0, of_path);
            redirect.hostname.as_ref().map_or(0, |host| host.len() + FRAME) + path
        }
        Action::Respond(response) => {
            response.body.len() + response.headers.iter().map(of_header).sum::<usize>()
        }
        Action::Broken => 0,
    };
    let headers = of_headers(&rule.request_headers) + of_headers(&rule.response_headers);
    ROUTE + object + target + 2 * rule.name.len() + action + headers
}

fn of_backend(backend: &Backend) -> usize {
    let headers = of_headers(&backend.request_headers) + of_headers(&backend.response_headers);
    // Where it is not usable, its name has something before it.
    backend.port.len() + 4 * FRAME + headers
}

fn of_rewrite(rewrite: &UrlRewrite) -> usize {
    let host = rewrite.hostname.as_ref().map_or(0, |host| host.len() + FRAME);
    host + rewrite.path.as_ref().map_or(0, of_path)
}

/// With the expression for "everything" that a whole path replaces.
fn of_path(path: &fairlead_crds::PathModifier) -> usize {
    let texts = [&path.replace_full_path, &path.replace_prefix_match];
    texts.into_iter().flatten().map(|text| text.len() + 8 * FRAME).sum()
}

/// Once in Envoy's words, once in ours.
fn of_retry(retry: &Retry) -> usize {
    if retry.attempts == 0 {
        return 0;
    }
    let conditions = retry.conditions.iter().map(|it| 2 * it.as_str().len() + 10);
    let methods = retry.methods.iter().map(|it| it.as_str().len() + 8);
    let words = conditions.chain(methods).sum::<usize>();
    RETRY + words + retry.grpc_codes.len() * 36 + retry.codes.len() * 20
}

fn of_match(matched: &RouteMatch) -> usize {
    let compared = |name: &str, value: &str| name.len() + value.len() + 4 * FRAME;
    let headers = matched.headers.iter().map(|it| compared(&it.name, &it.value));
    let query = matched.query_params.iter().map(|it| compared(&it.name, &it.value));
    let path = matched.path.as_ref().map_or(0, |path| path.value.len());
    path + headers.chain(query).sum::<usize>() + METHOD
}

fn of_headers(modifier: &HeaderModifier) -> usize {
    let written = modifier.set.iter().chain(&modifier.add).map(of_header);
    written.sum::<usize>() + modifier.remove.iter().map(|name| name.len() + FRAME).sum::<usize>()
}

/// A percent sign is written twice.
fn of_header(header: &fairlead_crds::Header) -> usize {
    header.name.len() + header.value.len() + header.value.matches('%').count() + 4 * FRAME
}

/// A policy in the metadata of an endpoint's listener.
pub fn of_policy(spec: &RateLimitPolicySpec) -> usize {
    // What is in there has been read from the same words.
    let written = serde_json::to_value(spec).as_ref().map_or(0, of_value);
    // Defaults are written out, and the limits renamed.
    written + 256 * (1 + spec.limits.len())
}

/// JSON as a `google.protobuf.Struct`.
fn of_value(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => FRAME,
        Value::Number(_) => 2 * FRAME,
        Value::String(text) => text.len() + 2 * FRAME,
        Value::Array(items) => items.iter().map(of_value).sum::<usize>() + 2 * FRAME,
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| name.len() + of_value(value) + 2 * FRAME;
            fields.iter().map(field).sum::<usize>() + 2 * FRAME
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_people_read_them() {
        assert_eq!(shown(1023), "1023 bytes");
        assert_eq!(shown(1025), "2 KiB");
        assert_eq!(shown(ROUTES_LIMIT), "3.0 MiB");
        assert_eq!(shown(26_000_000), "24.7 MiB");
    }
}
