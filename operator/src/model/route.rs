//! The rules of a ServiceRoute: references resolved, matches in order of precedence.

use std::time::Duration;

use fairlead_crds::status::reason;
use fairlead_crds::{
    BackendReference, DirectResponse, Filter, GatewayDuration, HeaderModifier, PathMatchType, PathModifier,
    PathModifierType, RequestRedirect, Retry, RouteMatch, RouteRule, ServiceRoute, UrlRewrite,
};

use super::attach::{Claim, find_port, find_service};
use super::grant;
use super::headers;
use super::inputs::Inputs;
use super::matching;
use super::object::{Kind, ObjectKey, ObjectRef, PortName, port_name};
use super::precedence::{self, Candidate};
use super::problem::Problems;

/// Where the requests to a Service port go.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routes {
    /// The ServiceRoute; none: everything goes to the called port, with the default retries.
    pub object: Option<ObjectKey>,
    /// Its rules, as written.
    pub rules: Vec<Rule>,
    /// Changes to the request's headers that all rules make, besides those that stand with each.
    pub request_headers: HeaderModifier,
    /// The same for the answer's headers.
    pub response_headers: HeaderModifier,
    /// Their matches; the first that holds decides.
    pub order: Vec<Candidate>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name, `rule-0` when it has none.
    pub name: String,
    /// What is done.
    pub action: Action,
    /// Changes to those of the request's headers that no backend changes.
    pub request_headers: HeaderModifier,
    /// The same for the answer's headers.
    pub response_headers: HeaderModifier,
    /// How long it may take.
    pub timeouts: TimeLimits,
    /// When it is tried again.
    pub retry: Retry,
}

/// How long a request may take; none is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeLimits {
    /// All attempts together.
    pub request: Option<Duration>,
    /// One attempt.
    pub backend_request: Option<Duration>,
    /// Without a byte from either side.
    pub idle: Option<Duration>,
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Sent to one of the backends. When none has a weight, answered with 500.
    Forward {
        /// In the order written, those without weight left out.
        backends: Vec<Backend>,
        /// Host and path as the backend sees them.
        rewrite: UrlRewrite,
    },
    /// Answered with a redirect.
    Redirect(RequestRedirect),
    /// Answered at once.
    Respond(DirectResponse),
    /// The rule cannot be used: answered with 500.
    Broken,
}

/// A backend with its share.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// The Service port.
    pub port: PortName,
    /// Whether it is there and may be used; else its share is answered with 500.
    pub usable: bool,
    /// Its share, above zero.
    pub weight: u32,
    /// Changes to the request's headers for it alone, after those of the rule to the same headers.
    pub request_headers: HeaderModifier,
    /// The same for its answers' headers.
    pub response_headers: HeaderModifier,
}

impl Routes {
    /// The rules of `route`; what is wrong with it goes to `problems`.
    pub fn compile(inputs: &Inputs, route: Claim<'_, ServiceRoute>, problems: &mut Problems) -> Self {
        let object = ObjectRef::new(Kind::ServiceRoute, route.key.clone());
        let mut rules = Vec::new();
        let mut order = Vec::new();
        for (index, rule) in route.object.spec.rules.iter().enumerate() {
            let name = rule_name(index, rule);
            let mut broken = Vec::new();
            for matched in usable_matches(rule, &mut broken) {
                order.push(Candidate { rule: index, matched });
            }
            let mut compiled = Rule::compile(inputs, route.key, name, rule, problems);
            if let Err(message) = prefix_is_matched(rule) {
                broken.push(message);
            }
            if !broken.is_empty() {
                let message = format!(
                    "rule {} answers 500, the other rules are in force: {}",
                    compiled.name,
                    broken.join("; ")
                );
                problems.refused(&object, reason::PARTIALLY_INVALID, message);
                compiled.action = Action::Broken;
            }
            rules.push(compiled);
        }
        precedence::sort(&mut order);
        let request_headers = headers::common(rules.iter_mut().map(|rule| &mut rule.request_headers));
        let response_headers = headers::common(rules.iter_mut().map(|rule| &mut rule.response_headers));
        Self { object: Some(route.key.clone()), rules, request_headers, response_headers, order }
    }

    /// Every request is answered with 500.
    pub fn all_broken(object: &ObjectKey) -> Self {
        let rule = Rule { action: Action::Broken, ..Rule::default_to("") };
        let order = vec![Candidate { rule: 0, matched: RouteMatch::default() }];
        Self { object: Some(object.clone()), rules: vec![rule], order, ..Self::default() }
    }

    /// The ports that requests may be sent to; the called port itself when there are no rules.
    pub fn backends(&self) -> impl Iterator<Item = &PortName> {
        self.rules
            .iter()
            .flat_map(|rule| match &rule.action {
                Action::Forward { backends, .. } => backends.as_slice(),
                Action::Redirect(_) | Action::Respond(_) | Action::Broken => &[],
            })
            .filter(|backend| backend.usable)
            .map(|backend| &backend.port)
    }
}

/// The rule's own name, or its place.
pub fn rule_name(index: usize, rule: &RouteRule) -> String {
    rule.name.clone().unwrap_or_else(|| format!("rule-{index}"))
}

impl Rule {
    /// What holds where there is no rule: everything goes to `cluster`, with the default retries.
    pub fn default_to(cluster: &str) -> Self {
        let backend = Backend {
            port: cluster.into(),
            usable: true,
            weight: 1,
            request_headers: HeaderModifier::default(),
            response_headers: HeaderModifier::default(),
        };
        Self {
            name: String::new(),
            action: Action::Forward { backends: vec![backend], rewrite: UrlRewrite::default() },
            request_headers: HeaderModifier::default(),
            response_headers: HeaderModifier::default(),
            timeouts: TimeLimits::default(),
            retry: Retry::default(),
        }
    }

    fn compile(
        inputs: &Inputs,
        route: &ObjectKey,
        name: String,
        rule: &RouteRule,
        problems: &mut Problems,
    ) -> Self {
        let mut filters = Filters::of(&rule.filters);
        let timeouts = rule.timeouts.as_ref().map_or_else(TimeLimits::default, |timeouts| TimeLimits {
            request: timeouts.request.as_ref().and_then(GatewayDuration::limit),
            backend_request: timeouts.backend_request.as_ref().and_then(GatewayDuration::limit),
            idle: timeouts.idle.as_ref().and_then(GatewayDuration::limit),
        });
        let action = match (filters.redirect, filters.respond) {
            (Some(redirect), _) => Action::Redirect(redirect),
            (None, Some(respond)) => Action::Respond(respond),
            (None, None) => {
                let mut backends: Vec<Backend> = rule
                    .backend_refs
                    .iter()
                    .filter_map(|reference| Backend::compile(inputs, route, &name, reference, problems))
                    .collect();
                let mut theirs: Vec<_> = backends.iter_mut().map(|it| &mut it.request_headers).collect();
                headers::settle(&mut filters.request_headers, &mut theirs);
                let mut theirs: Vec<_> = backends.iter_mut().map(|it| &mut it.response_headers).collect();
                headers::settle(&mut filters.response_headers, &mut theirs);
                Action::Forward { backends, rewrite: filters.rewrite }
            }
        };
        Self {
            name,
            action,
            request_headers: filters.request_headers,
            response_headers: filters.response_headers,
            timeouts,
            retry: rule.retry.clone().unwrap_or_default(),
        }
    }
}

impl Backend {
    fn compile(
        inputs: &Inputs,
        route: &ObjectKey,
        rule: &str,
        reference: &BackendReference,
        problems: &mut Problems,
    ) -> Option<Self> {
        let namespace = reference.namespace.as_deref().unwrap_or(&route.namespace);
        let service = ObjectKey::new(namespace, reference.name.as_str());
        let found = if grant::permits(&inputs.reference_grants, &route.namespace, &service) {
            find_service(inputs, &service)
                .and_then(|service| find_port(service, reference.port))
                .map_err(|message| (reason::BACKEND_NOT_FOUND, message))
        } else {
            // Whether that Service exists is nobody's business in another namespace.
            Err((reason::REF_NOT_PERMITTED, not_permitted(&route.namespace, &service)))
        };
        let usable = found.is_ok();
        if let Err((reason, message)) = found {
            let object = ObjectRef::new(Kind::ServiceRoute, route.clone());
            let share = if reference.weight == 0 { "" } else { ", whose share is answered with 500" };
            problems.unresolved(
                &object,
                reason,
                format!("rule {rule}, backendRef {service}:{}{share}: {message}", reference.port),
            );
        }
        let filters = Filters::of(&reference.filters);
        (reference.weight > 0).then(|| Self {
            port: port_name(&service, reference.port),
            usable,
            weight: reference.weight,
            request_headers: filters.request_headers,
            response_headers: filters.response_headers,
        })
    }
}

fn not_permitted(from: &str, service: &ObjectKey) -> String {
    format!(
        "a Service of another namespace may be used only where a ReferenceGrant there allows it: write one in \
         namespace {} with from: [{{group: fairlead.dev, kind: ServiceRoute, namespace: {from}}}] and to: \
         [{{group: \"\", kind: Service, name: {}}}]",
        service.namespace, service.name
    )
}

/// The filters of a rule or a backend, each type once.
#[derive(Default)]
struct Filters {
    request_headers: HeaderModifier,
    response_headers: HeaderModifier,
    rewrite: UrlRewrite,
    redirect: Option<RequestRedirect>,
    respond: Option<DirectResponse>,
}

impl Filters {
    fn of(filters: &[Filter]) -> Self {
        let mut all = Self::default();
        for filter in filters {
            if let Some(modifier) = &filter.request_header_modifier {
                all.request_headers = modifier.clone();
            }
            if let Some(modifier) = &filter.response_header_modifier {
                all.response_headers = modifier.clone();
            }
            if let Some(rewrite) = &filter.url_rewrite {
                all.rewrite = rewrite.clone();
            }
            if let Some(redirect) = &filter.request_redirect {
                all.redirect = Some(redirect.clone());
            }
            if let Some(respond) = &filter.direct_response {
                all.respond = Some(respond.clone());
            }
        }
        all
    }
}

/// The matches that can be evaluated; every request when the rule has none. What is wrong with the others
/// goes to `broken`: they hold for nothing.
fn usable_matches(rule: &RouteRule, broken: &mut Vec<String>) -> Vec<RouteMatch> {
    if rule.matches.is_empty() {
        return vec![RouteMatch::default()];
    }
    let mut usable = Vec::new();
    for (index, matched) in rule.matches.iter().enumerate() {
        match matching::check(matched) {
            Ok(()) => usable.push(matching::normal(matched)),
            Err(message) => broken.push(format!("matches[{index}]: {message}")),
        }
    }
    usable
}

/// ReplacePrefixMatch needs something that a prefix matched. The schema says so too.
fn prefix_is_matched(rule: &RouteRule) -> Result<(), String> {
    let replaces_prefix = |path: Option<&PathModifier>| {
        path.is_some_and(|path| path.kind == PathModifierType::ReplacePrefixMatch)
    };
    let wants_prefix = rule.filters.iter().any(|filter| {
        replaces_prefix(filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()))
            || replaces_prefix(filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref()))
    });
    let is_prefix = |matched: &RouteMatch| {
        matched.path.as_ref().is_none_or(|path| path.kind == PathMatchType::PathPrefix)
    };
    if wants_prefix && !rule.matches.iter().all(is_prefix) {
        return Err("ReplacePrefixMatch needs matches of type PathPrefix: write ReplaceFullPath".to_owned());
    }
    Ok(())
}
