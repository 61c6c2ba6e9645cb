//! Routes: which host, which rule, which backend, and what the request looks like afterwards.

use http::{Request, StatusCode};
use proptest::prelude::*;

use super::*;

fn request(uri: &str, host: &str) -> Parts {
    let request = Request::builder().uri(uri);
    let request = if host.is_empty() { request } else { request.header("host", host) };
    request.body(()).unwrap().into_parts().0
}

fn backend(cluster: usize, weight: u32) -> Backend {
    Backend {
        cluster,
        weight,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
    }
}

fn rule(name: &str, path: PathMatcher, action: Action) -> Route {
    Route {
        name: name.into(),
        target: None,
        matcher: RouteMatcher { path, headers: vec![], query: vec![], grpc: false },
        action,
        timeout: None,
        per_try_timeout: None,
        idle_timeout: None,
        retry: RetryPolicy::never(),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        handles: std::sync::OnceLock::new(),
    }
}

fn forward(rewrite: Rewrite) -> Action {
    Action::Forward { backends: Backends::new(vec![backend(0, 1)]), rewrite }
}

fn any(name: &str) -> Route {
    rule(name, PathMatcher::Prefix("/".into()), forward(Rewrite::default()))
}

fn table(hosts: &[&[&str]], ignore_port: bool) -> Result<RouteTable, DuplicateDomain> {
    let hosts = hosts.iter().map(|domains| VirtualHost {
        domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        routes: vec![any(domains[0])],
    });
    RouteTable::new("t".into(), hosts.collect(), vec!["c".into()], ignore_port)
}

#[test]
fn the_virtual_host_is_chosen_as_envoy_does() {
    let table = table(
        &[&["*"], &["*.com"], &["*-bar.baz.com"], &["foo.*"], &["foo.ba*"], &["foo.baz.com", "x:80"]],
        false,
    )
    .unwrap();
    let of = |host: &str| table.route(&request("/", host)).map(|route| route.name.to_string()).unwrap();
    assert_eq!(of("foo.baz.com"), "foo.baz.com");
    assert_eq!(of("FOO.Baz.com"), "foo.baz.com");
    assert_eq!(of("a-bar.baz.com"), "*-bar.baz.com", "the longest suffix");
    assert_eq!(of("-bar.baz.com"), "*.com", "a star stands for something");
    assert_eq!(of("foo.com"), "*.com", "suffixes before prefixes");
    assert_eq!(of("foo.bar"), "foo.ba*");
    assert_eq!(of("foo.org"), "foo.*");
    assert_eq!(of("org"), "*");
    assert_eq!(of(""), "*");
    assert_eq!(of("x:80"), "foo.baz.com");
    assert_eq!(of("x"), "*", "the port belongs to the domain");
}

#[test]
fn the_port_is_cut_off_where_the_table_says_so() {
    let table = table(&[&["shop"], &["[::1]"]], true).unwrap();
    let of = |host: &str| table.route(&request("/", host)).map(|route| route.name.to_string());
    assert_eq!(of("shop:80").as_deref(), Some("shop"));
    assert_eq!(of("shop").as_deref(), Some("shop"));
    assert_eq!(of("[::1]:80").as_deref(), Some("[::1]"));
    assert_eq!(of("[::1]").as_deref(), Some("[::1]"));
    assert_eq!(of("other"), None);
}

#[test]
fn a_domain_stands_once() {
    assert_eq!(table(&[&["a"], &["A"]], false).unwrap_err(), DuplicateDomain("a".into()));
    assert!(table(&[&["*"], &["*"]], false).is_err());
    assert!(table(&[&["*.a"], &["*.a"]], false).is_err());
    assert!(table(&[&["a.*", "a.*"]], false).is_err());
}

#[test]
fn the_first_rule_that_matches_carries_the_request() {
    let routes = vec![
        rule("exact", PathMatcher::Exact("/a".into()), forward(Rewrite::default())),
        rule("prefix", PathMatcher::Prefix("/a".into()), forward(Rewrite::default())),
        rule("again", PathMatcher::Prefix("/a".into()), forward(Rewrite::default())),
    ];
    let hosts = vec![VirtualHost { domains: vec!["*".into()], routes }];
    let table = RouteTable::new("t".into(), hosts, vec![], false).unwrap();
    let of = |uri: &str| table.route(&request(uri, "h")).map(|route| route.name.to_string());
    assert_eq!(of("/a?x").as_deref(), Some("exact"));
    assert_eq!(of("/a/b").as_deref(), Some("prefix"));
    assert_eq!(of("/b"), None);
}

fn picks(weights: &[u32], count: usize) -> Vec<usize> {
    let backends =
        Backends::new(weights.iter().enumerate().map(|(at, &weight)| backend(at, weight)).collect());
    (0..count).map(|_| backends.pick().unwrap().cluster).collect()
}

#[test]
fn weights_one_two_three_start_c_b_a_c_b_c() {
    assert_eq!(picks(&[1, 2, 3], 12), [2, 1, 0, 2, 1, 2, 2, 1, 0, 2, 1, 2]);
}

#[test]
fn ninety_to_ten_is_exact_to_one_per_cycle() {
    let picks = picks(&[90, 10], 1000);
    for cycle in picks.chunks(10) {
        assert_eq!(cycle.iter().filter(|&&at| at == 1).count(), 1);
    }
}

#[test]
fn a_backend_without_weight_gets_nothing() {
    assert_eq!(picks(&[0, 7, 0], 3), [1, 1, 1]);
    assert!(Backends::new(vec![backend(0, 0)]).pick().is_none());
    assert!(Backends::new(vec![]).pick().is_none());
}

#[test]
fn shares_are_exact_over_several_workers() {
    let backends = Backends::new(vec![backend(0, 90), backend(1, 10)]);
    let counts = std::thread::scope(|scope| {
        let worker = || (0..2500).filter(|_| backends.pick().unwrap().cluster == 1).count();
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
    });
    assert_eq!(counts, 1000);
}

proptest! {
    /// Whatever the weights: over each cycle every backend gets exactly its weight, and at no time is one
    /// more than one request away from its share.
    #[test]
    fn smooth_weighted_shares_hold(weights in prop::collection::vec(1u32..20, 1..6)) {
        let total: u32 = weights.iter().sum();
        let picks = picks(&weights, total as usize * 2);
        let mut got = vec![0u32; weights.len()];
        for (made, &at) in picks.iter().enumerate() {
            got[at] += 1;
            for (index, &weight) in weights.iter().enumerate() {
                let share = f64::from(weight) * (made + 1) as f64 / f64::from(total);
                prop_assert!((f64::from(got[index]) - share).abs() < weights.len() as f64);
            }
        }
        prop_assert_eq!(got, weights.iter().map(|weight| weight * 2).collect::<Vec<_>>());
    }
}

fn rewritten(rewrite: Rewrite, path: PathMatcher, uri: &str) -> String {
    let route = rule("r", path, forward(rewrite));
    let mut parts = request(uri, "h");
    assert!(route.matcher.matches(&parts), "{uri}");
    route.apply_request(&mut parts, &backend(0, 1)).unwrap();
    parts.uri.to_string()
}

fn prefix(replacement: &str) -> Rewrite {
    Rewrite { prefix: Some(replacement.into()), ..Rewrite::default() }
}

#[test]
fn prefixes_are_replaced_and_slashes_never_doubled() {
    // A rule's prefix is sent as the exact path and the prefix with a slash, each with its replacement.
    let exact = |path: &str| PathMatcher::Exact(path.into());
    let below = |path: &str| PathMatcher::Prefix(path.into());
    assert_eq!(rewritten(prefix("/s/"), below("/tv0/"), "/tv0/req?q=1&r=%20"), "/s/req?q=1&r=%20");
    assert_eq!(rewritten(prefix("/s"), exact("/tv0"), "/tv0"), "/s");
    assert_eq!(rewritten(prefix("/s/fv0/"), below("/fv0/"), "/fv0/req"), "/s/fv0/req");
    assert_eq!(rewritten(prefix("/"), below("/tv0/"), "/tv0/req"), "/req");
    assert_eq!(rewritten(prefix("/"), exact("/tv0"), "/tv0?a"), "/?a");
    assert_eq!(rewritten(prefix("/s/"), below("/"), "/req"), "/s/req");
    let segment = |path: &str| PathMatcher::SegmentPrefix(path.into());
    for (service, route, path, expected) in [
        ("/s", "/tv0", "/tv0/req", "/s/req"),
        ("/s/", "/tv0", "/tv0/req", "/s/req"),
        ("/s", "/tv0/", "/tv0/req", "/s/req"),
        ("/s/", "/tv0/", "/tv0/req", "/s/req"),
        ("/s", "/tv0", "/tv0", "/s"),
        ("/s/", "/tv0", "/tv0", "/s/"),
        ("/s", "/tv0", "/tv0/", "/s/"),
        ("/", "/tv0", "/tv0/req", "/req"),
        ("/", "/tv0", "/tv0", "/"),
        ("", "/tv0", "/tv0", "/"),
        ("", "/tv0", "/tv0/req", "/req"),
        ("/s/fv0", "/fv0", "/fv0/req", "/s/fv0/req"),
        ("/s", "/", "/req", "/s/req"),
    ] {
        assert_eq!(rewritten(prefix(service), segment(route), path), expected, "{service} {route} {path}");
    }
}

#[test]
fn a_whole_path_is_replaced_and_its_query_kept() {
    let whole = |path: &str| Rewrite { path: Some(path.into()), ..Rewrite::default() };
    assert_eq!(rewritten(whole("/new"), PathMatcher::Prefix("/".into()), "/old/x?a=b"), "/new?a=b");
    assert_eq!(rewritten(whole("/new?c"), PathMatcher::Prefix("/".into()), "/old/x?a=b"), "/new?c");
    assert_eq!(rewritten(whole("/new"), PathMatcher::Prefix("/".into()), "http://h/old"), "http://h/new");
}

#[test]
fn expressions_rewrite_as_envoy_writes_them() {
    let by = |pattern: &str, substitution: &str| Rewrite {
        regex: Some(Rewrite::regex(pattern, substitution).unwrap()),
        ..Rewrite::default()
    };
    let any = || PathMatcher::Prefix("/".into());
    assert_eq!(
        rewritten(by("^/service/([^/]+)(/.*)$", r"\2/instance/\1"), any(), "/service/foo/v1/api?x"),
        "/v1/api/instance/foo?x"
    );
    assert_eq!(rewritten(by("one", "two"), any(), "/xxx/one/yyy/one/zzz"), "/xxx/two/yyy/two/zzz");
    assert_eq!(rewritten(by("a", "$1"), any(), "/a"), "/$1");
    assert_eq!(rewritten(by("^/a/", ""), any(), "/a/b?c"), "/b?c");
    assert!(Rewrite::regex("a", r"\1").is_err());
    assert!(Rewrite::regex("a", r"\x").is_err());
    assert!(Rewrite::regex("(", "").is_err());
}

#[test]
fn a_rewrite_that_makes_no_path_is_an_error_and_not_a_wrong_call() {
    let whole = Rewrite { path: Some("/a b".into()), ..Rewrite::default() };
    let route = rule("r", PathMatcher::Prefix("/".into()), forward(whole));
    let failure = route.apply_request(&mut request("/", "h"), &backend(0, 1)).unwrap_err();
    assert_eq!(failure.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[test]
fn the_authority_is_rewritten_where_it_stands() {
    let host = || Rewrite { host: Some(HeaderValue::from_static("reviews-v2")), ..Rewrite::default() };
    let route = rule("r", PathMatcher::Prefix("/".into()), forward(host()));
    let mut origin = request("/a", "old:80");
    route.apply_request(&mut origin, &backend(0, 1)).unwrap();
    assert_eq!(origin.headers["host"], "reviews-v2");
    assert_eq!(origin.uri, "/a");
    let mut absolute = request("http://old:80/a?b", "");
    route.apply_request(&mut absolute, &backend(0, 1)).unwrap();
    assert_eq!(absolute.uri, "http://reviews-v2/a?b");
    assert!(!absolute.headers.contains_key("host"));
}

#[test]
fn headers_are_removed_then_set_then_added_and_the_backend_comes_last() {
    let name = http::HeaderName::from_static;
    let value = HeaderValue::from_static;
    let mut route = any("r");
    route.request_headers = HeaderChanges {
        remove: vec![name("x-debug")],
        set: vec![(name("x-route"), value("canary"))],
        add: vec![(name("x-many"), value("2"))],
    };
    route.response_headers.set.push((name("x-served-by"), value("rule")));
    let mut v2 = backend(0, 1);
    v2.request_headers.set.push((name("x-route"), value("v2")));
    v2.response_headers.set.push((name("x-served-by"), value("v2")));
    let mut parts = request("/", "h");
    for (header, content) in
        [("x-debug", "1"), ("x-debug", "2"), ("x-route", "a"), ("x-route", "b"), ("x-many", "1")]
    {
        parts.headers.append(name(header), value(content));
    }
    route.apply_request(&mut parts, &v2).unwrap();
    let all =
        |header: &str| parts.headers.get_all(header).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert!(all("x-debug").is_empty());
    assert_eq!(all("x-route"), ["v2"]);
    assert_eq!(all("x-many"), ["1", "2"]);
    let mut answer = HeaderMap::new();
    route.apply_response(&mut answer, &v2);
    assert_eq!(answer["x-served-by"], "v2");
}

fn redirect() -> Redirect {
    Redirect {
        status: StatusCode::FOUND,
        scheme: None,
        host: None,
        port: None,
        path: None,
        prefix: None,
        strip_query: false,
    }
}

fn location(redirect: Redirect, uri: &str, host: &str) -> String {
    let route = rule("r", PathMatcher::Prefix("/old".into()), Action::Redirect(redirect));
    let answer = route.answer(&request(uri, host)).unwrap();
    assert_eq!(answer.status(), StatusCode::FOUND);
    answer.headers()["location"].to_str().unwrap().to_owned()
}

#[test]
fn redirects_say_where_to_go() {
    type Case = (fn(&mut Redirect), &'static str, &'static str, &'static str);
    let cases: [Case; 14] = [
        (|r| r.host = Some("new".into()), "/old?q", "svc:9080", "http://new/old?q"),
        (|r| (r.host, r.port) = (Some("new".into()), Some(9080)), "/old", "svc:9080", "http://new:9080/old"),
        (|r| r.path = Some("/new".into()), "/old?q", "svc:9080", "http://svc:9080/new?q"),
        (|r| r.path = Some("/new?mine".into()), "/old?q", "svc", "http://svc/new?mine"),
        (|r| r.strip_query = true, "/old?q", "svc", "http://svc/old"),
        (|r| r.prefix = Some("/new".into()), "/old/x", "svc", "http://svc/new/x"),
        (|r| r.scheme = Some("https".into()), "/old", "svc:80", "https://svc/old"),
        (|r| r.scheme = Some("https".into()), "/old", "svc:9080", "https://svc:9080/old"),
        (|r| (r.scheme, r.port) = (Some("https".into()), Some(443)), "/old", "svc:80", "https://svc/old"),
        (|r| (r.scheme, r.port) = (Some("https".into()), Some(8443)), "/old", "svc", "https://svc:8443/old"),
        (|r| r.port = Some(80), "/old", "svc:9080", "http://svc/old"),
        (|r| r.port = Some(8080), "/old", "[fd79::7]:9080", "http://[fd79::7]:8080/old"),
        (|r| r.port = Some(8080), "/old", "[fd79::7]", "http://[fd79::7]:8080/old"),
        (|r| r.path = Some("/new".into()), "/old", "", "/new"),
    ];
    for (change, uri, host, expected) in cases {
        let mut redirect = redirect();
        change(&mut redirect);
        assert_eq!(location(redirect, uri, host), expected);
    }
}

#[test]
fn a_direct_response_carries_the_rules_headers() {
    let body = Bytes::from_static(b"So long and thanks for all the fish!");
    let fixed = DirectResponse { status: StatusCode::FORBIDDEN, body: body.clone() };
    let mut route = rule("maintenance", PathMatcher::Prefix("/".into()), Action::Respond(fixed));
    let answer = route.answer(&request("/", "h")).unwrap();
    assert_eq!((answer.status(), answer.body()), (StatusCode::FORBIDDEN, &body));
    assert_eq!(answer.headers()["content-type"], "text/plain");
    let json = HeaderValue::from_static("application/json");
    route.response_headers.set.push((http::header::CONTENT_TYPE, json));
    assert_eq!(route.answer(&request("/", "h")).unwrap().headers()["content-type"], "application/json");
    assert!(any("r").answer(&request("/", "h")).is_none());
}
