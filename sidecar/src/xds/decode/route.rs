//! `RouteConfiguration`: which rule carries a request, and what is done with it.
//!
//! ```text
//! RouteConfiguration -- headers, direct response size
//!   VirtualHost      -- domains, headers, retry policy          (inherited: routes without their own)
//!     Route          -- match, action, headers, our metadata
//! ```
//!
//! Ignored, because nothing that a request meets depends on it here: `validate_clusters` (a cluster that
//! does not exist answers its share with 500, whatever `cluster_not_found_response_code` says),
//! `internal_only_headers`, `typed_per_filter_config`, `rate_limits`, `cors` and `hash_policy` (settings of
//! filters and balancers that would be refused where they are switched on), `virtual_clusters`,
//! `decorator`, `tracing`, `stat_prefix`, buffer limits, attempt counts in headers, `flush_timeout`,
//! `early_data_policy`, `upgrade_configs` other than CONNECT (upgrades are always carried), the deprecated
//! gRPC timeout fields (`grpc-timeout` of a gRPC call is honoured as it is).

mod action;
mod headers;
mod matcher;
mod regexes;
mod retry;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use envoy_types::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;
use envoy_types::pb::envoy::config::route::v3::{
    HedgePolicy, Route as EnvoyRoute, RouteConfiguration, VirtualHost as EnvoyVirtualHost, route,
};
use http::HeaderValue;
use indexmap::IndexSet;
use serde::Deserialize;

use self::headers::{Changes, Level};
use self::regexes::Regexes;
use self::retry::OurRetry;
use super::{Rejection, limit, metadata};
use crate::retry::RetryPolicy;
use crate::route::{Action, Route, RouteTable, VirtualHost};

/// Of one route configuration. A Service port with all that its rules may have stays far below.
const MAX_ROUTES: usize = 65_536;

/// Envoy's default for the whole of a request.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The metadata of a route: what Envoy has no field for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ours {
    target: Option<String>,
    retry: Option<OurRetry>,
}

/// What the routes of a table share.
#[derive(Debug, Default)]
struct Shared {
    clusters: IndexSet<Arc<str>>,
    regexes: Regexes,
}

/// What a route has from its virtual host and the route configuration.
struct Inherited<'a> {
    request_headers: [Level<'a>; 2],
    response_headers: [Level<'a>; 2],
    most_specific_wins: bool,
    retry: Option<&'a envoy_types::pb::envoy::config::route::v3::RetryPolicy>,
}

/// Decodes a route configuration.
pub(super) fn decode(name: &Arc<str>, table: &RouteConfiguration) -> Result<RouteTable, Rejection> {
    refuse_what_we_lack(table)?;
    let count: usize = table.virtual_hosts.iter().map(|host| host.routes.len()).sum();
    if count > MAX_ROUTES {
        return Err(Rejection::new(format!("it has {count} routes, more than {MAX_ROUTES}")));
    }
    let mut shared = Shared::default();
    let mut hosts = Vec::with_capacity(table.virtual_hosts.len());
    for (index, host) in table.virtual_hosts.iter().enumerate() {
        let decoded = virtual_host(table, host, &mut shared);
        hosts.push(
            decoded.map_err(|error| error.within(format_args!("virtual_hosts[{index}] {:?}", host.name)))?,
        );
    }
    let clusters = shared.clusters.into_iter().collect();
    RouteTable::new(Arc::clone(name), hosts, clusters, table.ignore_port_in_host_matching)
        .map_err(|error| Rejection::new(error.to_string()))
}

fn refuse_what_we_lack(table: &RouteConfiguration) -> Result<(), Rejection> {
    mirrors(&table.request_mirror_policies)?;
    let lacks = [
        (table.vhds.is_some(), "vhds", "virtual hosts must be written out"),
        (!table.vhost_header.is_empty(), "vhost_header", "virtual hosts are chosen by the authority"),
        (!table.route_specifiers.is_empty(), "route_specifiers", "routes must be written out"),
        (
            table.ignore_path_parameters_in_path_matching,
            "ignore_path_parameters_in_path_matching",
            "paths are compared as they are",
        ),
    ];
    first_lack(&lacks)
}

fn first_lack(lacks: &[(bool, &str, &str)]) -> Result<(), Rejection> {
    match lacks.iter().find(|(there, ..)| *there) {
        Some((_, field, instead)) => Err(Rejection::unsupported(field, instead)),
        None => Ok(()),
    }
}

fn mirrors(policies: &[RequestMirrorPolicy]) -> Result<(), Rejection> {
    first_lack(&[(!policies.is_empty(), "request_mirror_policies", "requests go to one cluster")])
}

fn hedging(policy: Option<&HedgePolicy>) -> Result<(), Rejection> {
    let more = |policy: &HedgePolicy| {
        policy.hedge_on_per_try_timeout
            || policy.additional_request_chance.is_some_and(|chance| chance.numerator > 0)
            || policy.initial_requests.is_some_and(|count| count.value > 1)
    };
    first_lack(&[(policy.is_some_and(more), "hedge_policy", "one request is sent at a time")])
}

fn virtual_host(
    table: &RouteConfiguration,
    host: &EnvoyVirtualHost,
    shared: &mut Shared,
) -> Result<VirtualHost, Rejection> {
    mirrors(&host.request_mirror_policies)?;
    hedging(host.hedge_policy.as_ref())?;
    first_lack(&[
        (host.matcher.is_some(), "matcher", "routes must be a list"),
        (!host.route_specifiers.is_empty(), "route_specifiers", "routes must be written out"),
        (host.require_tls != TlsRequirementType::None as i32, "require_tls", "callers come without TLS"),
        (host.retry_policy_typed_config.is_some(), "retry_policy_typed_config", "it must be `retry_policy`"),
    ])?;
    if host.domains.is_empty() {
        return Err(Rejection::new("it has no domains"));
    }
    if host.domains.iter().any(String::is_empty) {
        return Err(Rejection::new("a domain is empty"));
    }
    let inherited = Inherited {
        request_headers: [
            Level::new(&host.request_headers_to_add, &host.request_headers_to_remove),
            Level::new(&table.request_headers_to_add, &table.request_headers_to_remove),
        ],
        response_headers: [
            Level::new(&host.response_headers_to_add, &host.response_headers_to_remove),
            Level::new(&table.response_headers_to_add, &table.response_headers_to_remove),
        ],
        most_specific_wins: table.most_specific_header_mutations_wins,
        retry: host.retry_policy.as_ref(),
    };
    let mut routes = Vec::with_capacity(host.routes.len());
    for (index, route) in host.routes.iter().enumerate() {
        let decoded = one_route(host, index, route, &inherited, shared);
        let decoded =
            decoded.map_err(|error| error.within(format_args!("routes[{index}] {:?}", route.name)))?;
        routes.extend(decoded);
    }
    Ok(VirtualHost { domains: host.domains.clone(), routes })
}

/// Decodes a route; none when it can never match.
fn one_route(
    host: &EnvoyVirtualHost,
    index: usize,
    route: &EnvoyRoute,
    inherited: &Inherited<'_>,
    shared: &mut Shared,
) -> Result<Option<Route>, Rejection> {
    first_lack(&[(!route.route_specifiers.is_empty(), "route_specifiers", "routes must be written out")])?;
    let ours: Ours = metadata::ours(route.metadata.clone())?.unwrap_or_default();
    let matcher = route.r#match.as_ref().ok_or_else(|| Rejection::new("it has no match"))?;
    let matcher = matcher::decode(matcher, &mut shared.regexes).map_err(|error| error.within("match"))?;
    let Some(matcher) = matcher else { return Ok(None) };

    let mut times = Times::default();
    let mut retry = RetryPolicy::never();
    let action = match route.action.as_ref() {
        Some(route::Action::Route(forward)) => {
            let policy = forward.retry_policy.as_ref().or(inherited.retry);
            (retry, times.per_try_timeout) = retry::decode(policy, ours.retry.as_ref())?;
            times.whole(forward)?;
            action::forward(forward, shared).map_err(|error| error.within("route"))?
        }
        Some(route::Action::Redirect(redirect)) => {
            Action::Redirect(action::redirect(redirect).map_err(|error| error.within("redirect"))?)
        }
        Some(route::Action::DirectResponse(response)) => {
            Action::Respond(action::respond(response).map_err(|error| error.within("direct_response"))?)
        }
        Some(route::Action::FilterAction(_) | route::Action::NonForwardingAction(_)) | None => {
            let instead = "it must be `route`, `redirect` or `direct_response`";
            return Err(Rejection::unsupported("this action", instead));
        }
    };
    let changes = |own: Level<'_>, outer: [Level<'_>; 2], what: &str| {
        let [host, table] = outer;
        let mut levels = [own, host, table];
        if inherited.most_specific_wins {
            levels.reverse(); // Applied last, it has the last word.
        }
        Changes::of(&levels).map_err(|error| error.within(what))
    };
    let request = Level::new(&route.request_headers_to_add, &route.request_headers_to_remove);
    let response = Level::new(&route.response_headers_to_add, &route.response_headers_to_remove);
    Ok(Some(Route {
        name: if route.name.is_empty() {
            format!("{}[{index}]", host.name).into()
        } else {
            route.name.as_str().into()
        },
        target: ours.target.as_deref().map(target).transpose()?,
        matcher,
        action,
        timeout: times.timeout,
        per_try_timeout: times.per_try_timeout,
        idle_timeout: times.idle_timeout,
        retry,
        request_headers: changes(request, inherited.request_headers, "request headers")?,
        response_headers: changes(response, inherited.response_headers, "response headers")?,
        handles: OnceLock::new(),
    }))
}

fn target(target: &str) -> Result<HeaderValue, Rejection> {
    HeaderValue::from_str(target)
        .map_err(|_| Rejection::new(format!("the target {target:?} is no header value")))
}

#[derive(Debug, Default)]
struct Times {
    timeout: Option<Duration>,
    per_try_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
}

impl Times {
    /// The limits of a whole request. `max_stream_duration` is another name for nearly the same.
    fn whole(
        &mut self,
        forward: &envoy_types::pb::envoy::config::route::v3::RouteAction,
    ) -> Result<(), Rejection> {
        self.timeout = match forward.timeout {
            Some(timeout) => limit("timeout", Some(timeout))?, // Zero switches it off.
            None => Some(TIMEOUT),
        };
        let stream = forward.max_stream_duration.and_then(|stream| stream.max_stream_duration);
        if let Some(stream) = limit("max_stream_duration", stream)? {
            self.timeout = Some(self.timeout.map_or(stream, |timeout| timeout.min(stream)));
        }
        self.idle_timeout = limit("idle_timeout", forward.idle_timeout)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
