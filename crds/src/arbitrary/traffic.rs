//! Rules, matches, filters, retries and pools.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};

use super::text::{
    any_name, any_value, body, changeable_header_name, duration, expression, header_name, header_value,
    hostname, label, new_path, path, unique,
};
use super::{NAMESPACE, core_group, port, service};
use crate::{
    BackendReference, ConnectionPool, DirectResponse, Filter, FilterType, GatewayDuration, GrpcCode, Header,
    HeaderMatch, HeaderModifier, HttpMethod, LoadBalancer, LoadBalancerType, PathMatch, PathMatchType,
    PathModifier, PathModifierType, QueryParamMatch, RequestRedirect, Retry, RetryBudget, RetryCondition,
    RetryConstraint, RetryRate, RouteMatch, RouteRule, Scheme, ServiceKind, Timeouts, UrlRewrite,
    ValueMatchType,
};

const DAY_MS: u64 = 86_400_000;

/// A rule that forwards, redirects or answers.
pub fn rule() -> impl Strategy<Value = RouteRule> {
    let answer = prop_oneof![
        4 => Just(None),
        1 => redirect().prop_map(|redirect| Some(Filter {
            request_redirect: Some(redirect), ..filter(FilterType::RequestRedirect)
        })),
        1 => response().prop_map(|response| Some(Filter {
            direct_response: Some(response), ..filter(FilterType::DirectResponse)
        })),
    ];
    let rewrite = option::of(rewrite()).prop_map(|rewrite| {
        rewrite.map(|rewrite| Filter { url_rewrite: Some(rewrite), ..filter(FilterType::UrlRewrite) })
    });
    let parts = (
        (option::of(label()), vec(route_match(), 0..4)),
        (answer, rewrite, header_filters()),
        (vec(backend(), 1..4), option::of(timeouts()), option::of(retry())),
    );
    parts.prop_map(|((name, mut matches), (answer, rewrite, mut filters), (backends, timeouts, retry))| {
        let backend_refs = if answer.is_some() { Vec::new() } else { backends };
        filters.extend(answer.or(rewrite));
        if filters.iter().any(replaces_prefix) {
            matches.retain(|one| one.path.as_ref().is_none_or(|path| path.kind == PathMatchType::PathPrefix));
        }
        RouteRule { name, matches, filters, backend_refs, timeouts, retry }
    })
}

/// Whether a filter needs PathPrefix.
fn replaces_prefix(filter: &Filter) -> bool {
    let rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    let redirect = filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
    rewrite.or(redirect).is_some_and(|path| path.kind == PathModifierType::ReplacePrefixMatch)
}

/// Without what it is for.
fn filter(kind: FilterType) -> Filter {
    Filter {
        kind,
        request_header_modifier: None,
        response_header_modifier: None,
        url_rewrite: None,
        request_redirect: None,
        direct_response: None,
    }
}

/// Each of the two at most once.
fn header_filters() -> impl Strategy<Value = Vec<Filter>> {
    (option::of(modifier()), option::of(modifier()), any::<bool>()).prop_map(|(request, response, turned)| {
        let request = request.map(|modifier| Filter {
            request_header_modifier: Some(modifier),
            ..filter(FilterType::RequestHeaderModifier)
        });
        let response = response.map(|modifier| Filter {
            response_header_modifier: Some(modifier),
            ..filter(FilterType::ResponseHeaderModifier)
        });
        if turned {
            response.into_iter().chain(request).collect()
        } else {
            request.into_iter().chain(response).collect()
        }
    })
}

fn modifier() -> impl Strategy<Value = HeaderModifier> {
    let remove = vec(changeable_header_name(), 0..3).prop_map(|names| unique(names, String::clone));
    (headers(), headers(), remove).prop_map(|(set, add, remove)| HeaderModifier { set, add, remove })
}

/// Headers to write, each once.
pub fn headers() -> impl Strategy<Value = Vec<Header>> {
    let header = (changeable_header_name(), header_value()).prop_map(|(name, value)| Header { name, value });
    vec(header, 0..3).prop_map(|headers| unique(headers, |header| header.name.clone()))
}

fn path_modifier() -> impl Strategy<Value = PathModifier> {
    (any::<bool>(), new_path()).prop_map(|(full, path)| {
        if full {
            PathModifier {
                kind: PathModifierType::ReplaceFullPath,
                replace_full_path: Some(path),
                replace_prefix_match: None,
            }
        } else {
            PathModifier {
                kind: PathModifierType::ReplacePrefixMatch,
                replace_full_path: None,
                replace_prefix_match: Some(path),
            }
        }
    })
}

fn rewrite() -> impl Strategy<Value = UrlRewrite> {
    (option::of(hostname()), option::of(path_modifier()))
        .prop_filter("changes something", |(hostname, path)| hostname.is_some() || path.is_some())
        .prop_map(|(hostname, path)| UrlRewrite { hostname, path })
}

fn redirect() -> impl Strategy<Value = RequestRedirect> {
    let scheme = option::of(select(&[Scheme::Http, Scheme::Https][..]));
    let status_code = select(&[301, 302, 303, 307, 308][..]);
    (scheme, option::of(hostname()), option::of(path_modifier()), option::of(1..=u16::MAX), status_code)
        .prop_filter("leads elsewhere", |(scheme, hostname, path, port, _)| {
            scheme.is_some() || hostname.is_some() || path.is_some() || port.is_some()
        })
        .prop_map(|(scheme, hostname, path, port, status_code)| RequestRedirect {
            scheme,
            hostname,
            path,
            port,
            status_code,
        })
}

fn response() -> impl Strategy<Value = DirectResponse> {
    (200..=599_u16, body(), headers()).prop_map(|(status, body, headers)| {
        let body = if matches!(status, 204 | 205 | 304) { String::new() } else { body };
        DirectResponse { status, body, headers }
    })
}

fn backend() -> impl Strategy<Value = BackendReference> {
    let namespace = prop_oneof![
        4 => Just(None),
        2 => Just(Some(NAMESPACE.to_owned())),
        1 => Just(Some("elsewhere".to_owned())),
    ];
    let weight = prop_oneof![4 => 1..100_u32, 1 => Just(0), 1 => Just(1_000_000)];
    (core_group(), service(), namespace, port(), weight, header_filters()).prop_map(
        |(group, name, namespace, port, weight, filters)| BackendReference {
            group,
            kind: ServiceKind::Service,
            name,
            namespace,
            port,
            weight,
            filters,
        },
    )
}

/// One item of `matches` or `from`.
pub fn route_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        (select(&[PathMatchType::Exact, PathMatchType::PathPrefix][..]), path())
            .prop_map(|(kind, value)| PathMatch { kind, value }),
        expression().prop_map(|value| PathMatch { kind: PathMatchType::RegularExpression, value }),
    ];
    let header = (header_name(), value()).prop_map(|(name, (kind, value))| HeaderMatch { kind, name, value });
    let headers = vec(header, 0..3).prop_map(|headers| unique(headers, |header| header.name.clone()));
    let query = (any_name(), value()).prop_map(|(name, (kind, value))| QueryParamMatch { kind, name, value });
    let query_params = vec(query, 0..3).prop_map(|query| unique(query, |query| query.name.clone()));
    (option::of(path), headers, query_params, option::of(method()))
        .prop_map(|(path, headers, query_params, method)| RouteMatch { path, headers, query_params, method })
}

fn value() -> impl Strategy<Value = (ValueMatchType, String)> {
    prop_oneof![
        any_value().prop_map(|value| (ValueMatchType::Exact, value)),
        expression().prop_map(|value| (ValueMatchType::RegularExpression, value)),
    ]
}

fn method() -> impl Strategy<Value = HttpMethod> {
    select(METHODS.to_vec())
}

const METHODS: [HttpMethod; 8] = [
    HttpMethod::Get,
    HttpMethod::Head,
    HttpMethod::Post,
    HttpMethod::Put,
    HttpMethod::Delete,
    HttpMethod::Options,
    HttpMethod::Trace,
    HttpMethod::Patch,
];

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let limit = || option::of(duration(0, DAY_MS));
    (limit(), limit(), limit()).prop_map(|(request, backend_request, idle)| {
        let fits = |attempt: &GatewayDuration| {
            request.as_ref().and_then(GatewayDuration::limit).is_none_or(|request| attempt.get() <= request)
        };
        Timeouts { backend_request: backend_request.filter(fits), request, idle }
    })
}

fn retry() -> impl Strategy<Value = Retry> {
    use RetryCondition::{
        ConnectFailure, GatewayError, RefusedStream, Reset, ResetBeforeRequest, ResetOnReuse, Timeout,
    };
    let conditions = subsequence(
        vec![ConnectFailure, RefusedStream, ResetBeforeRequest, ResetOnReuse, Reset, Timeout, GatewayError],
        0..=7,
    );
    let codes = vec(400..=599_u16, 0..4).prop_map(|codes| unique(codes, |code| *code));
    let parts = (
        (0..=10_u32, conditions, codes, subsequence(GRPC_CODES.to_vec(), 0..=16)),
        (subsequence(METHODS.to_vec(), 0..=8), duration(1, 10_000), duration(0, 60_000)),
    );
    parts.prop_map(|((attempts, conditions, codes, grpc_codes), (methods, backoff, more))| Retry {
        attempts,
        conditions,
        codes,
        grpc_codes,
        methods,
        max_backoff: super::text::written(backoff.get() + more.get()),
        backoff,
    })
}

const GRPC_CODES: [GrpcCode; 16] = [
    GrpcCode::Cancelled,
    GrpcCode::Unknown,
    GrpcCode::InvalidArgument,
    GrpcCode::DeadlineExceeded,
    GrpcCode::NotFound,
    GrpcCode::AlreadyExists,
    GrpcCode::PermissionDenied,
    GrpcCode::ResourceExhausted,
    GrpcCode::FailedPrecondition,
    GrpcCode::Aborted,
    GrpcCode::OutOfRange,
    GrpcCode::Unimplemented,
    GrpcCode::Internal,
    GrpcCode::Unavailable,
    GrpcCode::DataLoss,
    GrpcCode::Unauthenticated,
];

/// Each of the three ways.
pub fn load_balancer() -> impl Strategy<Value = LoadBalancer> {
    use LoadBalancerType::{LeastRequest, Random, RoundRobin};
    select(&[LeastRequest, RoundRobin, Random][..]).prop_map(|kind| LoadBalancer { kind })
}

/// Every limit, set or not.
pub fn connection_pool() -> impl Strategy<Value = ConnectionPool> {
    let count = |from: u32| option::of(prop_oneof![from..100, Just(from), Just(1_000_000)]);
    let wait = || duration(1, DAY_MS);
    ((count(1), count(0), count(1), count(1)), wait(), wait(), wait()).prop_map(
        |((max_connections, max_pending_requests, max_requests, per_connection), pending, connect, idle)| {
            ConnectionPool {
                max_connections,
                max_pending_requests,
                pending_timeout: pending,
                max_requests,
                max_requests_per_connection: per_connection,
                connect_timeout: connect,
                idle_timeout: idle,
            }
        },
    )
}

/// Any budget.
pub fn retry_constraint() -> impl Strategy<Value = RetryConstraint> {
    let interval = || duration(1_000, 3_600_000);
    (0..=100_u32, interval(), prop_oneof![0..100_u32, Just(1_000_000)], interval()).prop_map(
        |(percent, budget_interval, count, rate_interval)| RetryConstraint {
            budget: RetryBudget { percent, interval: budget_interval },
            min_retry_rate: RetryRate { count, interval: rate_interval },
        },
    )
}
