//! `RouteConfiguration`: the rules of a Service port.
//!
//! One match of one rule becomes several routes: a prefix is two paths (`path`), and where only idempotent
//! requests may be tried again, they have routes of their own (`retry`). All of them carry the same metadata,
//! in which the sidecar reads what was meant.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction,
    RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster, header_matcher, query_parameter_matcher,
    redirect_action, route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use fairlead_crds::{
    DirectResponse, Header, HeaderModifier, RequestRedirect, Scheme, UrlRewrite, ValueMatchType,
};
use prost::Message;
use serde_json::json;

use super::metadata::Metadata;
use super::{count, duration, flag, joined};
use crate::model::headers::merged;
use crate::model::mesh::Port;
use crate::model::route::{Action, Backend, Rule};
use path::Leg;
use retry::Variant;

mod path;
mod retry;

/// Larger bodies of direct responses must be announced to Envoy.
const BODY_LIMIT: u32 = 4096;

/// The routes of calls to `port`.
pub fn encode(port: &Port) -> Vec<u8> {
    configuration(port, &port.name, vec![rules_host(port, vec!["*".to_owned()])])
}

/// The routes of what is sent to one endpoint of a headless Service: calls that name the Service follow its
/// rules, everything else goes to that endpoint.
pub fn pod(port: &Port, address: SocketAddr) -> Vec<u8> {
    let name = address.to_string();
    let pinned = Rule::default_to(&name);
    let metadata = metadata(&port.name, &pinned);
    let pinned = rule_routes(&name, port, &pinned, &Default::default(), &metadata);
    let hosts = vec![
        rules_host(port, service_names(port, address.port())),
        host(
            &VirtualHost { name: name.clone(), domains: vec!["*".to_owned()], ..Default::default() },
            pinned,
        ),
    ];
    configuration(port, &name, hosts)
}

/// What a caller may call the Service, with and without the port.
fn service_names(port: &Port, number: u16) -> Vec<String> {
    let (namespace, service) = (&port.service.namespace, &port.service.name);
    let names = [
        service.to_string(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ];
    names.into_iter().flat_map(|name| [format!("{name}:{number}"), name]).collect()
}

/// All routes of a port, in order of precedence, each encoded.
fn routes(port: &Port) -> Vec<Vec<u8>> {
    let Some(object) = &port.routes.object else {
        let rule = Rule::default_to(&port.name);
        let metadata = metadata(&port.name, &rule);
        return rule_routes(&port.service.to_string(), port, &rule, &Default::default(), &metadata);
    };
    let mut all = Vec::new();
    for candidate in &port.routes.order {
        let Some(rule) = port.routes.rules.get(candidate.rule) else { continue };
        let metadata = metadata(&format!("{}#{}", port.name, rule.name), rule);
        all.extend(rule_routes(
            &format!("{object}#{}", rule.name),
            port,
            rule,
            &candidate.matched,
            &metadata,
        ));
    }
    all
}

/// The routes of one match of one rule.
fn rule_routes(
    name: &str,
    port: &Port,
    rule: &Rule,
    matched: &fairlead_crds::RouteMatch,
    metadata: &Metadata,
) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let forwards = forwards(&rule.action);
    for leg in path::legs(matched.path.as_ref(), path::modifier(&rule.action)) {
        for variant in retry::variants(&rule.retry, matched.method, forwards) {
            let mut route = Route {
                name: name.to_owned(),
                r#match: Some(route_match(matched, &leg, &variant)),
                ..Default::default()
            };
            change_headers(&mut route, rule);
            route.action = Some(action(port, rule, &leg, &variant));
            all.push(joined(&route, &RouteRest { metadata: Some(metadata.clone()) }));
        }
    }
    all
}

/// The backends, when the rule sends its requests anywhere.
fn forwards(action: &Action) -> bool {
    match action {
        Action::Forward { backends, .. } => backends.iter().any(|backend| backend.usable),
        Action::Redirect(_) | Action::Respond(_) | Action::Broken => false,
    }
}

fn metadata(target: &str, rule: &Rule) -> Metadata {
    let mut fields = vec![("target", json!(target))];
    if rule.retry.attempts > 0 && forwards(&rule.action) {
        fields.push(("retry", retry::metadata(&rule.retry)));
    }
    Metadata::new(fields)
}

fn route_match(matched: &fairlead_crds::RouteMatch, leg: &Leg, variant: &Variant) -> RouteMatch {
    let method = matched.method.map(|method| header(":method", exact(method.as_str())));
    let headers =
        matched.headers.iter().map(|matched| header(&matched.name, value(matched.kind, &matched.value)));
    let query = matched.query_params.iter().map(|matched| QueryParameterMatcher {
        name: matched.name.clone(),
        query_parameter_match_specifier: Some(
            query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(value(
                matched.kind,
                &matched.value,
            )),
        ),
    });
    RouteMatch {
        path_specifier: Some(leg.path.clone()),
        headers: method.into_iter().chain(headers).chain(variant.only_for.clone()).collect(),
        query_parameters: query.collect(),
        ..Default::default()
    }
}

fn header(name: &str, value: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }
}

fn value(kind: ValueMatchType, value: &str) -> StringMatcher {
    match kind {
        ValueMatchType::Exact => exact(value),
        ValueMatchType::RegularExpression => StringMatcher {
            match_pattern: Some(MatchPattern::SafeRegex(expression(value))),
            ..Default::default()
        },
    }
}

fn exact(value: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(value.to_owned())), ..Default::default() }
}

/// Envoy compares an expression with the whole text; there is nothing to anchor.
fn expression(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..Default::default() }
}

fn action(port: &Port, rule: &Rule, leg: &Leg, variant: &Variant) -> route::Action {
    match &rule.action {
        Action::Forward { backends, rewrite } if forwards(&rule.action) => {
            route::Action::Route(forward(rule, backends, rewrite, leg, variant))
        }
        Action::Forward { .. } | Action::Broken => respond(500, ""),
        Action::Redirect(redirect) => route::Action::Redirect(redirect_action(port, redirect, leg)),
        Action::Respond(DirectResponse { status, body, .. }) => respond(*status, body),
    }
}

fn respond(status: u16, body: &str) -> route::Action {
    let body = (!body.is_empty()).then(|| DataSource {
        specifier: Some(Specifier::InlineString(body.to_owned())),
        ..Default::default()
    });
    route::Action::DirectResponse(DirectResponseAction { status: status.into(), body, ..Default::default() })
}

fn forward(
    rule: &Rule,
    backends: &[Backend],
    rewrite: &UrlRewrite,
    leg: &Leg,
    variant: &Variant,
) -> RouteAction {
    let limits = &rule.timeouts;
    // Without retries there is one attempt, and the smaller limit is the limit.
    let whole = match (limits.request, limits.backend_request) {
        (Some(request), Some(attempt)) if rule.retry.attempts == 0 => Some(request.min(attempt)),
        (None, attempt) if rule.retry.attempts == 0 => attempt,
        (request, _) => request,
    };
    let mut action = RouteAction {
        // Fifteen seconds in Envoy, unless it is written out.
        timeout: Some(duration(whole.unwrap_or(Duration::ZERO))),
        idle_timeout: limits.idle.map(duration),
        // gRPC's clients know no other limit than this one; Envoy applies it to calls with a deadline.
        max_stream_duration: whole.map(|whole| MaxStreamDuration {
            grpc_timeout_header_max: Some(duration(whole)),
            ..Default::default()
        }),
        retry_policy: variant.policy(&rule.retry, limits.backend_request),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
        host_rewrite_specifier: rewrite.hostname.clone().map(HostRewriteSpecifier::HostRewriteLiteral),
        cluster_specifier: Some(clusters(backends)),
        ..Default::default()
    };
    leg.rewrite(&mut action);
    action
}

/// The cluster of a share that cannot be served does not exist, which is answered with 500.
fn clusters(backends: &[Backend]) -> ClusterSpecifier {
    let unchanged = HeaderModifier::default();
    let changes =
        |backend: &Backend| backend.request_headers != unchanged || backend.response_headers != unchanged;
    if let [only] = backends
        && !changes(only)
    {
        return ClusterSpecifier::Cluster(only.port.to_string());
    }
    let clusters = backends.iter().map(|backend| {
        let request = Changes::of(&backend.request_headers);
        let response = Changes::of(&backend.response_headers);
        ClusterWeight {
            name: if backend.usable { backend.port.to_string() } else { format!("invalid/{}", backend.port) },
            weight: Some(count(backend.weight)),
            request_headers_to_add: request.add,
            request_headers_to_remove: request.remove,
            response_headers_to_add: response.add,
            response_headers_to_remove: response.remove,
            ..Default::default()
        }
    });
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.collect(), ..Default::default() })
}

/// The port of the new address: as written; or the scheme's; or that of the called port. It is left out where
/// it is the scheme's own and there is no old one to take away.
fn redirect_action(port: &Port, redirect: &RequestRedirect, leg: &Leg) -> RedirectAction {
    let well_known = match redirect.scheme {
        Some(Scheme::Https) => 443,
        Some(Scheme::Http) | None => 80,
    };
    let wanted = match (redirect.port, redirect.scheme) {
        (Some(number), _) => Some(number),
        (None, Some(_)) => Some(well_known),
        (None, None) => redirect.hostname.is_some().then_some(port.number),
    };
    let shown = wanted.filter(|number| *number != well_known || redirect.hostname.is_none());
    RedirectAction {
        host_redirect: redirect.hostname.clone().unwrap_or_default(),
        port_redirect: shown.map_or(0, u32::from),
        response_code: match redirect.status_code {
            301 => redirect_action::RedirectResponseCode::MovedPermanently,
            303 => redirect_action::RedirectResponseCode::SeeOther,
            307 => redirect_action::RedirectResponseCode::TemporaryRedirect,
            308 => redirect_action::RedirectResponseCode::PermanentRedirect,
            _ => redirect_action::RedirectResponseCode::Found,
        }
        .into(),
        scheme_rewrite_specifier: redirect.scheme.map(|scheme| {
            redirect_action::SchemeRewriteSpecifier::SchemeRedirect(scheme.as_str().to_owned())
        }),
        path_rewrite_specifier: leg.redirect(),
        ..Default::default()
    }
}

/// A direct response has its own headers before the rule changes any.
fn change_headers(route: &mut Route, rule: &Rule) {
    let own = match &rule.action {
        Action::Respond(response) => response.headers.clone(),
        Action::Forward { .. } | Action::Redirect(_) | Action::Broken => Vec::new(),
    };
    let own = HeaderModifier { set: own, ..Default::default() };
    let request = Changes::of(&rule.request_headers);
    let response = Changes::of(&merged(&own, &rule.response_headers));
    route.request_headers_to_add = request.add;
    route.request_headers_to_remove = request.remove;
    route.response_headers_to_add = response.add;
    route.response_headers_to_remove = response.remove;
}

/// What Envoy does: everything in `remove`, then everything in `add`, in order.
struct Changes {
    remove: Vec<String>,
    add: Vec<HeaderValueOption>,
}

impl Changes {
    fn of(modifier: &HeaderModifier) -> Self {
        let add = modifier.add.iter().map(|header| change(header, HeaderAppendAction::AppendIfExistsOrAdd));
        Self { remove: modifier.remove.clone(), add: modifier.set.iter().map(set).chain(add).collect() }
    }
}

fn set(header: &Header) -> HeaderValueOption {
    change(header, HeaderAppendAction::OverwriteIfExistsOrAdd)
}

/// A percent sign begins a variable in Envoy, and two of them are one.
fn change(header: &Header, append: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: header.name.clone(),
            value: header.value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: append.into(),
        keep_empty_value: header.value.is_empty(),
        ..Default::default()
    }
}

/// The rules of the port, for requests that name one of these domains.
fn rules_host(port: &Port, domains: Vec<String>) -> Vec<u8> {
    let request = Changes::of(&port.routes.request_headers);
    let response = Changes::of(&port.routes.response_headers);
    let named = VirtualHost {
        name: port.name.to_string(),
        domains,
        request_headers_to_add: request.add,
        request_headers_to_remove: request.remove,
        response_headers_to_add: response.add,
        response_headers_to_remove: response.remove,
        ..Default::default()
    };
    host(&named, routes(port))
}

fn host(host: &VirtualHost, routes: Vec<Vec<u8>>) -> Vec<u8> {
    joined(host, &HostRest { routes })
}

fn configuration(port: &Port, name: &str, virtual_hosts: Vec<Vec<u8>>) -> Vec<u8> {
    let bodies = port.routes.rules.iter().filter_map(|rule| match &rule.action {
        Action::Respond(response) => u32::try_from(response.body.len()).ok(),
        Action::Forward { .. } | Action::Redirect(_) | Action::Broken => None,
    });
    let configuration = RouteConfiguration {
        name: name.to_owned(),
        validate_clusters: Some(flag(false)),
        max_direct_response_body_size_bytes: bodies.max().filter(|size| *size > BODY_LIMIT).map(count),
        ..Default::default()
    };
    joined(&configuration, &ConfigurationRest { virtual_hosts })
}

/// `RouteConfiguration.virtual_hosts`, encoded already.
#[derive(Clone, PartialEq, Message)]
struct ConfigurationRest {
    #[prost(bytes = "vec", repeated, tag = "2")]
    virtual_hosts: Vec<Vec<u8>>,
}

/// `VirtualHost.routes`, encoded already.
#[derive(Clone, PartialEq, Message)]
struct HostRest {
    #[prost(bytes = "vec", repeated, tag = "3")]
    routes: Vec<Vec<u8>>,
}

/// `Route.metadata`.
#[derive(Clone, PartialEq, Message)]
struct RouteRest {
    #[prost(message, optional, tag = "4")]
    metadata: Option<Metadata>,
}
