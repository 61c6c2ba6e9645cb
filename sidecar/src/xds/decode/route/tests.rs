//! Each field of a route configuration.

#![expect(clippy::unnecessary_wraps, reason = "the fields of protobuf messages are options")]

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue as EnvoyHeaderValue, HeaderValueOption, RuntimeFractionalPercent,
    data_source::Specifier,
};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration, UpgradeConfig,
};
use envoy_types::pb::envoy::config::route::v3::route_match::{
    ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, RandomValueSpecifier};
use envoy_types::pb::envoy::config::route::v3::{
    CookieMatcher, DirectResponseAction, HeaderMatcher as EnvoyHeader, NonForwardingAction,
    QueryParameterMatcher, RedirectAction, RetryPolicy as EnvoyRetry, RouteAction, RouteMatch,
    WeightedCluster,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Int64Range};
use envoy_types::pb::google::protobuf::{BoolValue, Duration as ProtoDuration, UInt32Value};
use http::{HeaderMap, StatusCode, request::Parts};

use super::*;
use crate::retry::Condition;
use crate::route::PathMatcher;
use crate::xds::testing::{forward, ours, route as one_route, routes};

fn table(config: &RouteConfiguration) -> Result<RouteTable, String> {
    decode(&"t".into(), config).map_err(|error| error.to_string())
}

fn of_route(route: EnvoyRoute) -> Result<Route, String> {
    let mut table = table(&routes("t", vec![route]))?;
    Ok(table.virtual_hosts.remove(0).routes.remove(0))
}

fn of_action(action: RouteAction) -> Result<Route, String> {
    of_route(one_route(route::Action::Route(action)))
}

fn of_match(matcher: RouteMatch) -> Result<Route, String> {
    of_route(EnvoyRoute { r#match: Some(matcher), ..one_route(route::Action::Route(forward("c"))) })
}

fn of_headers(headers: Vec<EnvoyHeader>) -> Result<Route, String> {
    let path_specifier = Some(PathSpecifier::Prefix("/".to_owned()));
    of_match(RouteMatch { headers, path_specifier, ..RouteMatch::default() })
}

fn request(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn seconds(seconds: i64) -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds, nanos: 0 })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn option(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(EnvoyHeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: action as i32,
        ..HeaderValueOption::default()
    }
}

fn add(key: &str, value: &str) -> HeaderValueOption {
    option(key, value, HeaderAppendAction::AppendIfExistsOrAdd)
}

fn set(key: &str, value: &str) -> HeaderValueOption {
    option(key, value, HeaderAppendAction::OverwriteIfExistsOrAdd)
}

fn regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..RegexMatcher::default() }
}

#[test]
fn a_plain_route_has_envoys_defaults() {
    let route = of_action(forward("c")).unwrap();
    assert_eq!(route.name.as_ref(), "shop/reviews#default");
    assert_eq!(route.timeout, Some(Duration::from_secs(15)));
    assert_eq!((route.per_try_timeout, route.idle_timeout), (None, None));
    assert_eq!(route.retry, RetryPolicy::never());
    assert!(route.target.is_none());
    let Action::Forward { backends, .. } = route.action else { panic!() };
    assert_eq!(backends.list().len(), 1);
    let nameless =
        of_route(EnvoyRoute { name: String::new(), ..one_route(route::Action::Route(forward("c"))) });
    assert_eq!(nameless.unwrap().name.as_ref(), "all[0]");
}

#[test]
fn the_operators_route_has_its_target_and_retries() {
    let metadata = serde_json::json!({
        "target": "shop/reviews:9080#canary",
        "retry": {"conditions": ["ConnectFailure", "GatewayError"], "codes": [502], "grpcCodes": [14], "methods": ["GET", "PUT"]}
    });
    let policy = EnvoyRetry {
        retry_on: "5xx,nonsense".to_owned(),
        num_retries: number(3),
        per_try_timeout: seconds(2),
        retry_back_off: Some(RetryBackOff { base_interval: seconds(1), max_interval: seconds(4) }),
        ..EnvoyRetry::default()
    };
    let action = RouteAction {
        timeout: seconds(0),
        idle_timeout: seconds(300),
        retry_policy: Some(policy),
        ..forward("c")
    };
    let with =
        |metadata, action| of_route(EnvoyRoute { metadata, ..one_route(route::Action::Route(action)) });
    let route = with(ours(&metadata), action).unwrap();
    assert_eq!(route.target.unwrap(), "shop/reviews:9080#canary");
    assert_eq!((route.timeout, route.idle_timeout), (None, Some(Duration::from_secs(300))));
    assert_eq!(route.per_try_timeout, Some(Duration::from_secs(2)));
    let expected = RetryPolicy {
        attempts: 3,
        conditions: vec![Condition::ConnectFailure, Condition::GatewayError],
        codes: vec![StatusCode::BAD_GATEWAY],
        grpc_codes: vec![14],
        methods: vec![http::Method::GET, http::Method::PUT],
        backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(4),
    };
    assert_eq!(route.retry, expected);

    assert!(with(ours(&metadata), forward("c")).unwrap_err().contains("no retry_policy"));
    let unknown = ours(&serde_json::json!({"tarjet": "x"}));
    assert!(with(unknown, forward("c")).unwrap_err().contains("tarjet"));
}

#[test]
fn paths() {
    let with = |path| of_match(RouteMatch { path_specifier: Some(path), ..RouteMatch::default() });
    let path = |specifier| with(specifier).unwrap().matcher.path;
    assert!(
        matches!(path(PathSpecifier::Prefix("/v".to_owned())), PathMatcher::Prefix(prefix) if prefix == "/v")
    );
    assert!(matches!(path(PathSpecifier::Path("/v".to_owned())), PathMatcher::Exact(path) if path == "/v"));
    let segments = path(PathSpecifier::PathSeparatedPrefix("/v".to_owned()));
    assert!(matches!(segments, PathMatcher::SegmentPrefix(prefix) if prefix == "/v"));
    let whole = path(PathSpecifier::SafeRegex(regex("/v[0-9]")));
    assert!(whole.matches("/v2") && !whole.matches("/v22"));

    let bad = with(PathSpecifier::SafeRegex(regex("("))).unwrap_err();
    assert!(
        bad.starts_with(r#"virtual_hosts[0] "all": routes[0] "shop/reviews#default": match: safe_regex: "#),
        "{bad}"
    );
    assert!(with(PathSpecifier::SafeRegex(regex("a)|(b"))).is_err());
    assert!(with(PathSpecifier::SafeRegex(regex("(?:a{1000}){1000}"))).is_err());
    assert!(with(PathSpecifier::ConnectMatcher(ConnectMatcher {})).unwrap_err().contains("connect_matcher"));
    assert!(of_match(RouteMatch::default()).unwrap_err().contains("no path condition"));
}

#[test]
#[expect(deprecated, reason = "the forms before string_match are tested too")]
fn headers() {
    let string = |pattern, ignore_case| {
        HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(pattern), ignore_case })
    };
    let matches = |specifier: Option<HeaderMatchSpecifier>, value: &str| {
        let header = EnvoyHeader {
            name: "X-A".to_owned(),
            header_match_specifier: specifier,
            ..EnvoyHeader::default()
        };
        let route = of_headers(vec![header]).unwrap();
        route.matcher.matches(&request("/", &[("x-a", value)]))
    };
    let text = || "Bc".to_owned();
    for (specifier, yes, no) in [
        (HeaderMatchSpecifier::ExactMatch(text()), "Bc", "bc"),
        (HeaderMatchSpecifier::PrefixMatch(text()), "Bcd", "aBc"),
        (HeaderMatchSpecifier::SuffixMatch(text()), "aBc", "Bcd"),
        (HeaderMatchSpecifier::ContainsMatch(text()), "aBcd", "abcd"),
        (HeaderMatchSpecifier::SafeRegexMatch(regex("B.")), "Bx", "aBx"),
        (string(MatchPattern::Exact(text()), false), "Bc", "bc"),
        (string(MatchPattern::Prefix(text()), false), "Bcd", "aBc"),
        (string(MatchPattern::Suffix(text()), false), "aBc", "Bcd"),
        (string(MatchPattern::Contains(text()), false), "aBcd", "abcd"),
        (string(MatchPattern::SafeRegex(regex("B.")), false), "Bx", "aBx"),
        (string(MatchPattern::Exact("b.C".to_owned()), true), "B.c", "bxc"),
        (string(MatchPattern::Prefix(text()), true), "bCd", "abc"),
        (string(MatchPattern::Suffix(text()), true), "abC", "bcd"),
        (string(MatchPattern::Contains(text()), true), "aBCd", "abd"),
    ] {
        assert!(matches(Some(specifier.clone()), yes), "{specifier:?} {yes}");
        assert!(!matches(Some(specifier.clone()), no), "{specifier:?} {no}");
    }
    assert!(matches(None, "anything"));
    assert!(matches(Some(HeaderMatchSpecifier::PresentMatch(true)), "anything"));
    assert!(!matches(Some(HeaderMatchSpecifier::PresentMatch(false)), "anything"));

    let named = |name: &str| EnvoyHeader { name: name.to_owned(), ..EnvoyHeader::default() };
    assert!(of_headers(vec![named(":method"), named(":authority")]).is_ok());
    assert!(of_headers(vec![named(":nonsense")]).is_err() && of_headers(vec![named("")]).is_err());
    let range = HeaderMatchSpecifier::RangeMatch(Int64Range { start: 1, end: 2 });
    let range = EnvoyHeader { header_match_specifier: Some(range), ..named("x") };
    assert!(of_headers(vec![range]).unwrap_err().contains("range_match"));
    let missing = EnvoyHeader { treat_missing_header_as_empty: true, ..named("x") };
    assert!(of_headers(vec![missing]).unwrap_err().contains("treat_missing_header_as_empty"));
    let inverted = of_headers(vec![EnvoyHeader { invert_match: true, ..named("x") }]).unwrap();
    assert!(inverted.matcher.headers[0].invert);
}

#[test]
fn query_parameters_grpc_and_fractions() {
    let exact =
        StringMatcher { match_pattern: Some(MatchPattern::Exact("1".to_owned())), ignore_case: false };
    let plain = |fraction| RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        runtime_fraction: fraction,
        ..RouteMatch::default()
    };
    let route = of_match(RouteMatch {
        query_parameters: vec![
            QueryParameterMatcher {
                name: "beta".to_owned(),
                query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(exact)),
            },
            QueryParameterMatcher { name: "there".to_owned(), query_parameter_match_specifier: None },
        ],
        grpc: Some(GrpcRouteMatchOptions {}),
        ..plain(None)
    })
    .unwrap();
    let grpc = [("content-type", "application/grpc")];
    assert!(route.matcher.matches(&request("/?beta=1&there", &grpc)));
    assert!(!route.matcher.matches(&request("/?beta=2&there", &grpc)));
    assert!(!route.matcher.matches(&request("/?beta=1&there", &[])));

    let fraction = |numerator| {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent { numerator, denominator: 0 }),
            runtime_key: "k".to_owned(),
        })
    };
    assert!(of_match(plain(fraction(100))).is_ok());
    assert!(of_match(plain(fraction(50))).unwrap_err().contains("runtime_fraction"));
    let never =
        EnvoyRoute { r#match: Some(plain(fraction(0))), ..one_route(route::Action::Route(forward("c"))) };
    assert!(table(&routes("t", vec![never])).unwrap().virtual_hosts[0].routes.is_empty());
    let cookie = RouteMatch { cookies: vec![CookieMatcher::default()], ..plain(None) };
    assert!(of_match(cookie).unwrap_err().contains("cookies"));
    let blind = RouteMatch { case_sensitive: Some(BoolValue { value: false }), ..plain(None) };
    assert!(of_match(blind).unwrap_err().contains("case_sensitive"));
}

#[test]
fn weighted_clusters() {
    let weight =
        |name: &str, weight| ClusterWeight { name: name.to_owned(), weight, ..ClusterWeight::default() };
    let with = |clusters: Vec<ClusterWeight>| {
        let clusters = WeightedCluster { clusters, ..WeightedCluster::default() };
        RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(clusters)),
            ..RouteAction::default()
        }
    };
    let table = |action| table(&routes("t", vec![one_route(route::Action::Route(action))]));
    let mut first = weight("a", number(10));
    first.request_headers_to_add = vec![set("x-to", "a")];
    first.response_headers_to_remove = vec!["x-from".to_owned()];
    let decoded =
        table(with(vec![first, weight("off", number(0)), weight("b", number(90)), weight("a", number(1))]))
            .unwrap();
    assert_eq!(decoded.clusters, [Arc::from("a"), Arc::from("b")], "each once, and none without weight");
    let Action::Forward { backends, .. } = &decoded.virtual_hosts[0].routes[0].action else { panic!() };
    let shares: Vec<_> = backends.list().iter().map(|backend| (backend.cluster, backend.weight)).collect();
    assert_eq!(shares, [(0, 10), (1, 90), (0, 1)]);
    assert_eq!(backends.list()[0].request_headers.set.len(), 1);
    assert_eq!(backends.list()[0].response_headers.remove.len(), 1);

    assert!(table(with(vec![weight("a", None)])).unwrap_err().contains("no weight"));
    assert!(table(with(vec![weight("a", number(0))])).unwrap_err().contains("at least 1"));
    assert!(
        table(with(vec![weight("a", number(u32::MAX)), weight("b", number(1))]))
            .unwrap_err()
            .contains("4294967295")
    );
    assert!(table(with(vec![weight("", number(1))])).unwrap_err().contains("empty"));
    let by_header = ClusterWeight { cluster_header: "x".to_owned(), ..weight("", number(1)) };
    assert!(table(with(vec![by_header])).unwrap_err().contains("cluster_header"));
    let random = WeightedCluster {
        clusters: vec![weight("a", number(1))],
        random_value_specifier: Some(RandomValueSpecifier::HeaderName("x".to_owned())),
        ..WeightedCluster::default()
    };
    let random = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(random)),
        ..RouteAction::default()
    };
    assert!(table(random).unwrap_err().contains("random_value_specifier"));
}

#[test]
fn rewrites() {
    let rewrite = |action| match of_action(action).unwrap().action {
        Action::Forward { rewrite, .. } => rewrite,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        rewrite(RouteAction { prefix_rewrite: "/x".to_owned(), ..forward("c") }).prefix.unwrap(),
        "/x"
    );
    assert_eq!(
        rewrite(RouteAction { path_rewrite: "/100%%".to_owned(), ..forward("c") }).path.unwrap(),
        "/100%"
    );
    let substitute = |pattern: &str, substitution: &str| {
        Some(RegexMatchAndSubstitute { pattern: Some(regex(pattern)), substitution: substitution.to_owned() })
    };
    let (pattern, replacement) =
        rewrite(RouteAction { regex_rewrite: substitute("^/(a)/(b)", r"/\2/\1$"), ..forward("c") })
            .regex
            .unwrap();
    assert_eq!(pattern.replace_all("/a/b/c", replacement.as_str()), "/b/a$/c");
    assert!(
        of_action(RouteAction { regex_rewrite: substitute("a", r"\1"), ..forward("c") })
            .unwrap_err()
            .contains("regex_rewrite")
    );
    assert!(
        of_action(RouteAction { path_rewrite: "/%REQ(x)%".to_owned(), ..forward("c") })
            .unwrap_err()
            .contains("formatter")
    );
    let both = RouteAction { prefix_rewrite: "/x".to_owned(), path_rewrite: "/y".to_owned(), ..forward("c") };
    assert!(of_action(both).unwrap_err().contains("only one of"));

    let host = |specifier| RouteAction { host_rewrite_specifier: Some(specifier), ..forward("c") };
    let literal = HostRewriteSpecifier::HostRewriteLiteral("reviews-v2:80".to_owned());
    assert_eq!(rewrite(host(literal)).host.unwrap(), "reviews-v2:80");
    let off = HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: false });
    assert!(rewrite(host(off)).host.is_none());
    let auto = HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true });
    assert!(of_action(host(auto)).unwrap_err().contains("host_rewrite_specifier"));
    let bad = HostRewriteSpecifier::HostRewriteLiteral("a b".to_owned());
    assert!(of_action(host(bad)).unwrap_err().contains("authority"));
}

#[test]
fn redirects() {
    let with = |redirect| of_route(one_route(route::Action::Redirect(redirect)));
    let redirect = |action| match with(action).unwrap().action {
        Action::Redirect(redirect) => redirect,
        other => panic!("{other:?}"),
    };
    let plain = redirect(RedirectAction::default());
    assert_eq!(plain.status, StatusCode::MOVED_PERMANENTLY);
    assert!(plain.scheme.is_none() && plain.host.is_none() && plain.port.is_none() && !plain.strip_query);
    let full = redirect(RedirectAction {
        host_redirect: "reviews".to_owned(),
        port_redirect: 8443,
        response_code: 4,
        strip_query: true,
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
        path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("/new".to_owned())),
    });
    assert_eq!(full.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(
        (full.scheme.as_deref(), full.host.as_deref(), full.port),
        (Some("https"), Some("reviews"), Some(8443))
    );
    assert_eq!((full.path.as_deref(), full.strip_query), (Some("/new"), true));
    let prefix = redirect(RedirectAction {
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::SchemeRedirect("http".to_owned())),
        path_rewrite_specifier: Some(PathRewriteSpecifier::PrefixRewrite("/p".to_owned())),
        ..RedirectAction::default()
    });
    assert_eq!((prefix.prefix.as_deref(), prefix.scheme.as_deref()), (Some("/p"), Some("http")));
    let by_regex = Some(PathRewriteSpecifier::RegexRewrite(RegexMatchAndSubstitute::default()));
    assert!(
        with(RedirectAction { path_rewrite_specifier: by_regex, ..Default::default() })
            .unwrap_err()
            .contains("regex_rewrite")
    );
    assert!(
        with(RedirectAction { port_redirect: 70_000, ..Default::default() }).unwrap_err().contains("70000")
    );
    assert!(
        with(RedirectAction { response_code: 9, ..Default::default() })
            .unwrap_err()
            .contains("response_code 9")
    );
    assert!(with(RedirectAction { host_redirect: "a\nb".to_owned(), ..Default::default() }).is_err());
}

#[test]
fn direct_responses() {
    let with = |status, body: Option<Specifier>| {
        let body = body.map(|specifier| DataSource { specifier: Some(specifier), ..DataSource::default() });
        of_route(one_route(route::Action::DirectResponse(DirectResponseAction {
            status,
            body,
            body_format: None,
        })))
    };
    let answer = |status, body| match with(status, body).unwrap().action {
        Action::Respond(response) => (response.status.as_u16(), response.body),
        other => panic!("{other:?}"),
    };
    let fish = || "So long and thanks for all the fish!".to_owned();
    assert_eq!(answer(403, Some(Specifier::InlineString(fish()))), (403, fish().into()));
    assert_eq!(answer(200, Some(Specifier::InlineBytes(vec![1, 2]))), (200, vec![1, 2].into()));
    assert_eq!(answer(500, None).1.len(), 0);
    for status in [0, 100, 199, 600, 70_000] {
        assert!(with(status, None).unwrap_err().contains("is not 200 to 599"));
    }
    assert!(with(200, Some(Specifier::Filename("/etc/passwd".to_owned()))).is_err());
    let neither = one_route(route::Action::NonForwardingAction(NonForwardingAction {}));
    assert!(of_route(neither).unwrap_err().contains("this action"));
}

/// What changes make of a header block `x: 0`.
fn applied(changes: &crate::route::HeaderChanges) -> Vec<String> {
    let mut headers = HeaderMap::new();
    headers.insert("x", http::HeaderValue::from_static("0"));
    changes.apply(&mut headers);
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    all.sort();
    all
}

#[test]
fn header_changes_of_one_level() {
    let with = |add: Vec<HeaderValueOption>, remove: &[&str]| {
        of_route(EnvoyRoute {
            request_headers_to_add: add,
            request_headers_to_remove: remove.iter().map(ToString::to_string).collect(),
            ..one_route(route::Action::Route(forward("c")))
        })
    };
    let result = |add, remove: &[&str]| applied(&with(add, remove).unwrap().request_headers);
    assert_eq!(result(vec![add("x", "1")], &[]), ["x: 0", "x: 1"]);
    assert_eq!(result(vec![set("X", "1")], &[]), ["x: 1"]);
    assert_eq!(result(vec![add("x", "1")], &["x"]), ["x: 1"]);
    assert_eq!(result(vec![], &["x"]), Vec::<String>::new());
    assert_eq!(result(vec![add("x", "1"), set("x", "2"), add("x", "3")], &[]), ["x: 2", "x: 3"]);
    assert_eq!(result(vec![add("x", "5%%")], &["x"]), ["x: 5%"]);
    assert_eq!(result(vec![add("y", "")], &[]), ["x: 0"], "an empty value is left out");
    let empty = HeaderValueOption { keep_empty_value: true, ..add("y", "") };
    assert_eq!(result(vec![empty], &[]), ["x: 0", "y: "]);
    #[expect(deprecated, reason = "the older form is tested")]
    let older = |value| HeaderValueOption { append: Some(BoolValue { value }), ..add("x", "1") };
    assert_eq!(result(vec![older(false)], &[]), ["x: 1"]);
    assert_eq!(result(vec![older(true)], &[]), ["x: 0", "x: 1"]);

    let formatter = with(vec![add("x", "%REQ(y)%")], &[]).unwrap_err();
    assert!(formatter.contains("request headers: x: value: the formatter in"), "{formatter}");
    for action in [HeaderAppendAction::AddIfAbsent, HeaderAppendAction::OverwriteIfExists] {
        assert!(with(vec![option("x", "1", action)], &[]).unwrap_err().contains("append_action"));
    }
    for name in [":path", "host", "Host", "bad name", ""] {
        assert!(with(vec![], &[name]).unwrap_err().contains("no header that may be changed"), "{name}");
        assert!(with(vec![set(name, "1")], &[]).is_err(), "{name}");
    }
    assert!(with(vec![add("x", "a\nb")], &[]).unwrap_err().contains("cannot carry"));
}

#[test]
fn header_changes_of_all_levels() {
    let config = |most_specific_wins| {
        let mut config = routes(
            "t",
            vec![EnvoyRoute {
                response_headers_to_add: vec![set("x", "route"), add("r", "1")],
                ..one_route(route::Action::Route(forward("c")))
            }],
        );
        config.virtual_hosts[0].response_headers_to_add = vec![set("x", "host")];
        config.response_headers_to_add = vec![set("x", "table")];
        config.response_headers_to_remove = vec!["r".to_owned()];
        config.most_specific_header_mutations_wins = most_specific_wins;
        table(&config).unwrap().virtual_hosts.remove(0).routes.remove(0)
    };
    assert_eq!(applied(&config(false).response_headers), ["x: table"]);
    assert_eq!(applied(&config(true).response_headers), ["r: 1", "x: route"]);
}

#[test]
fn retries_without_metadata() {
    let with = |policy| of_action(RouteAction { retry_policy: Some(policy), ..forward("c") });
    let on = |words: &str| EnvoyRetry { retry_on: words.to_owned(), ..EnvoyRetry::default() };
    let retry = |policy| with(policy).unwrap().retry;

    let safe = retry(on("connect-failure, refused-stream,reset-before-request"));
    assert_eq!(
        safe.conditions,
        [Condition::ConnectFailure, Condition::RefusedStream, Condition::ResetBeforeRequest]
    );
    assert_eq!(
        (safe.attempts, safe.backoff, safe.max_backoff),
        (1, Duration::from_millis(25), Duration::from_millis(250))
    );
    assert_eq!(safe.methods, RetryPolicy::idempotent_methods());

    let any = retry(on("5xx,reset"));
    assert_eq!((any.codes.len(), any.conditions.len()), (100, 6), "each condition once");
    assert!(retry(on("gateway-error")).conditions.contains(&Condition::GatewayError));
    let codes = EnvoyRetry { retriable_status_codes: vec![503, 429], ..on("retriable-status-codes") };
    assert_eq!(retry(codes).codes, [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS]);
    assert_eq!(
        retry(on("cancelled,unavailable,internal,resource-exhausted,deadline-exceeded")).grpc_codes,
        [1, 14, 13, 8, 4]
    );
    assert_eq!(retry(on("retriable-4xx")).codes, [StatusCode::CONFLICT]);

    let short = EnvoyRetry {
        retry_back_off: Some(RetryBackOff { base_interval: seconds(2), max_interval: seconds(1) }),
        ..on("5xx")
    };
    assert_eq!(retry(short).max_backoff, Duration::from_secs(2));
    assert!(with(on("someday")).unwrap_err().contains("retry_on \"someday\""));
    let matching = EnvoyRetry { retriable_request_headers: vec![EnvoyHeader::default()], ..on("5xx") };
    assert!(with(matching).unwrap_err().contains("retriable_request_headers"));
    let idle = EnvoyRetry { per_try_idle_timeout: seconds(1), ..on("5xx") };
    assert!(with(idle).unwrap_err().contains("per_try_idle_timeout"));
}

#[test]
fn a_retry_policy_of_the_virtual_host_is_inherited() {
    let own = RouteAction {
        retry_policy: Some(EnvoyRetry { num_retries: number(7), ..EnvoyRetry::default() }),
        ..forward("c")
    };
    let mut config = routes(
        "t",
        vec![one_route(route::Action::Route(forward("c"))), one_route(route::Action::Route(own))],
    );
    config.virtual_hosts[0].retry_policy = Some(EnvoyRetry {
        num_retries: number(4),
        retry_on: "connect-failure".to_owned(),
        ..EnvoyRetry::default()
    });
    let table = table(&config).unwrap();
    let attempts: Vec<_> = table.virtual_hosts[0].routes.iter().map(|route| route.retry.attempts).collect();
    assert_eq!(attempts, [4, 7]);
}

#[test]
fn times() {
    let stream =
        |seconds_| Some(MaxStreamDuration { max_stream_duration: seconds(seconds_), ..Default::default() });
    let timeout = |action| of_action(action).unwrap().timeout;
    assert_eq!(timeout(RouteAction { timeout: seconds(3), ..forward("c") }), Some(Duration::from_secs(3)));
    assert_eq!(
        timeout(RouteAction { max_stream_duration: stream(5), ..forward("c") }),
        Some(Duration::from_secs(5))
    );
    assert_eq!(
        timeout(RouteAction { timeout: seconds(0), max_stream_duration: stream(60), ..forward("c") }),
        Some(Duration::from_secs(60))
    );
    assert!(of_action(RouteAction { timeout: seconds(-1), ..forward("c") }).unwrap_err().contains("timeout"));
}

#[test]
fn what_routes_lack_is_refused_by_name() {
    let tunnel = UpgradeConfig { connect_config: Some(Default::default()), ..UpgradeConfig::default() };
    for (action, field) in [
        (RouteAction { cluster_specifier: None, ..forward("c") }, "no cluster"),
        (forward(""), "the cluster is empty"),
        (
            RouteAction {
                cluster_specifier: Some(ClusterSpecifier::ClusterHeader("x".to_owned())),
                ..forward("c")
            },
            "cluster_specifier",
        ),
        (RouteAction { metadata_match: Some(Default::default()), ..forward("c") }, "metadata_match"),
        (
            RouteAction { request_mirror_policies: vec![Default::default()], ..forward("c") },
            "request_mirror_policies",
        ),
        (RouteAction { append_x_forwarded_host: true, ..forward("c") }, "append_x_forwarded_host"),
        (RouteAction { priority: 1, ..forward("c") }, "priority HIGH"),
        (
            RouteAction { internal_redirect_policy: Some(Default::default()), ..forward("c") },
            "internal_redirect_policy",
        ),
        (RouteAction { upgrade_configs: vec![tunnel], ..forward("c") }, "connect_config"),
        (
            RouteAction { path_rewrite_policy: Some(Default::default()), ..forward("c") },
            "path_rewrite_policy",
        ),
    ] {
        let error = of_action(action).unwrap_err();
        assert!(error.contains(field), "{field}: {error}");
    }
    let websocket = UpgradeConfig { upgrade_type: "websocket".to_owned(), ..UpgradeConfig::default() };
    of_action(RouteAction { upgrade_configs: vec![websocket], ..forward("c") }).unwrap();

    let plain = || routes("t", vec![one_route(route::Action::Route(forward("c")))]);
    let mut cases = Vec::new();
    let mut case = |field: &'static str, change: &dyn Fn(&mut RouteConfiguration)| {
        let mut config = plain();
        change(&mut config);
        cases.push((field, config));
    };
    case("vhds", &|config| config.vhds = Some(Default::default()));
    case("vhost_header", &|config| config.vhost_header = "x".to_owned());
    case("request_mirror_policies", &|config| config.request_mirror_policies = vec![Default::default()]);
    case("ignore_path_parameters", &|config| config.ignore_path_parameters_in_path_matching = true);
    case("no domains", &|config| config.virtual_hosts[0].domains.clear());
    case("a domain is empty", &|config| config.virtual_hosts[0].domains.push(String::new()));
    case("stands twice", &|config| config.virtual_hosts[0].domains.push("*".to_owned()));
    case("require_tls", &|config| config.virtual_hosts[0].require_tls = 2);
    case("matcher", &|config| config.virtual_hosts[0].matcher = Some(Default::default()));
    case("hedge_policy", &|config| {
        config.virtual_hosts[0].hedge_policy =
            Some(HedgePolicy { hedge_on_per_try_timeout: true, ..HedgePolicy::default() });
    });
    case("no match", &|config| config.virtual_hosts[0].routes[0].r#match = None);
    for (field, config) in cases {
        let error = table(&config).unwrap_err();
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn virtual_hosts_are_chosen_by_the_authority() {
    let mut config = routes("t", vec![one_route(route::Action::Route(forward("any")))]);
    let mut named = config.virtual_hosts[0].clone();
    named.domains = vec!["reviews.shop".to_owned()];
    named.routes = vec![one_route(route::Action::Route(forward("named")))];
    config.virtual_hosts.push(named);
    config.ignore_port_in_host_matching = true;
    let table = table(&config).unwrap();
    let cluster = |host: &str| {
        let route = table.route(&request("/", &[("host", host)])).unwrap();
        let Action::Forward { backends, .. } = &route.action else { panic!() };
        table.clusters[backends.list()[0].cluster].to_string()
    };
    assert_eq!((cluster("reviews.shop:9080"), cluster("other")), ("named".to_owned(), "any".to_owned()));
}

#[test]
fn the_same_expression_is_built_once() {
    let mut regexes = Regexes::default();
    for _ in 0..2 {
        regexes.whole("f", "a+".to_owned()).unwrap();
    }
    assert!(format!("{regexes:?}").matches("a+").count() <= 3);
    for index in 0..20_000 {
        if regexes.whole("f", format!("x{index}")).is_err() {
            return;
        }
    }
    panic!("the number of expressions is not bounded");
}
