//! The conditions one by one, as Envoy has them.

use http::Request;

use super::*;

fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method("GET").uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn header(name: &str, value: ValueMatcher) -> HeaderMatcher {
    HeaderMatcher { name: name.parse().unwrap(), value, invert: false }
}

#[test]
fn paths_are_compared_without_their_query() {
    let matcher = |path| RouteMatcher { path, headers: vec![], query: vec![], grpc: false };
    let of = |path: PathMatcher, uri: &str| matcher(path).matches(&request(uri, &[]));
    assert!(of(PathMatcher::Exact("/a".into()), "/a?x=/b"));
    assert!(!of(PathMatcher::Exact("/a".into()), "/a/"));
    assert!(of(PathMatcher::Prefix("/a".into()), "/abc"));
    assert!(of(PathMatcher::Prefix("/a".into()), "http://host/abc"));
    assert!(!of(PathMatcher::Prefix("/abc".into()), "/ab?c"));
    assert!(of(PathMatcher::SegmentPrefix("/a".into()), "/a"));
    assert!(of(PathMatcher::SegmentPrefix("/a".into()), "/a/b"));
    assert!(!of(PathMatcher::SegmentPrefix("/a".into()), "/ab"));
    assert!(of(PathMatcher::SegmentPrefix("/".into()), "/ab"));
    assert!(of(PathMatcher::SegmentPrefix("/".into()), "/"));
    assert!(of(PathMatcher::Regex(whole_regex("/v[0-9]+").unwrap()), "/v12?x"));
    assert!(!of(PathMatcher::Regex(whole_regex("/v[0-9]+").unwrap()), "/v12/x"));
    assert!(!of(PathMatcher::Regex(whole_regex("/a|/b").unwrap()), "/a/c"), "every alternative is anchored");
    assert!(!of(PathMatcher::Exact("/A".into()), "/a"));
    assert!(!of(PathMatcher::Exact("/a b".into()), "/a%20b"), "nothing is decoded");
}

#[test]
fn expressions_are_bounded_and_must_stand_alone() {
    assert!(whole_regex("a)|(b").is_err());
    assert!(whole_regex("(").unwrap_err().to_string().contains("\"(\""));
    let big = whole_regex(r"\w{1000}{1000}").unwrap_err();
    assert!(big.reason.contains("more than"), "{big}");
    assert!(whole_regex(r"(?i)/users/[a-z0-9-]{1,64}/orders/\d{1,10}").is_ok());
    assert!(!whole_regex("a$").unwrap().is_match("a\n"));
}

#[test]
fn headers_are_compared_with_all_their_values() {
    let two = request("/", &[("x-a", "1"), ("x-a", "2")]);
    assert!(header("x-a", ValueMatcher::Exact("1,2".into())).matches(&two));
    assert!(!header("x-a", ValueMatcher::Exact("1".into())).matches(&two));
    assert!(header("x-a", ValueMatcher::Prefix("1".into())).matches(&two));
    assert!(header("x-a", ValueMatcher::Suffix(",2".into())).matches(&two));
    assert!(header("x-a", ValueMatcher::Contains(",".into())).matches(&two));
    assert!(header("x-a", ValueMatcher::Regex(whole_regex("[0-9,]+").unwrap())).matches(&two));
}

#[test]
fn the_request_line_is_seen_as_headers() {
    let absolute = request("http://shop:80/a?b=c", &[]);
    let exact = |name: &str, value: &str| header(name, ValueMatcher::Exact(value.into()));
    assert!(exact(":method", "GET").matches(&absolute));
    assert!(exact(":path", "/a?b=c").matches(&absolute));
    assert!(exact(":authority", "shop:80").matches(&absolute));
    assert!(exact(":scheme", "http").matches(&absolute));
    let origin = request("/a", &[("host", "shop")]);
    assert!(exact(":authority", "shop").matches(&origin));
    assert!(exact("host", "shop").matches(&origin));
}

#[test]
fn a_missing_header_matches_nothing_but_its_absence() {
    let none = request("/", &[]);
    let one = request("/", &[("x-a", "")]);
    let inverted = |value| HeaderMatcher { name: "x-a".parse().unwrap(), value, invert: true };
    assert!(!header("x-a", ValueMatcher::Exact(String::new())).matches(&none));
    assert!(header("x-a", ValueMatcher::Exact(String::new())).matches(&one));
    assert!(!inverted(ValueMatcher::Exact("1".into())).matches(&none), "as in Envoy");
    assert!(inverted(ValueMatcher::Exact("1".into())).matches(&one));
    for (wanted, invert, request, expected) in [
        (true, false, &one, true),
        (true, false, &none, false),
        (false, false, &none, true),
        (false, false, &one, false),
        (true, true, &none, true),
        (true, true, &one, false),
        (false, true, &one, true),
    ] {
        let matcher =
            HeaderMatcher { name: "x-a".parse().unwrap(), value: ValueMatcher::Present(wanted), invert };
        assert_eq!(matcher.matches(request), expected, "{wanted} {invert}");
    }
}

#[test]
fn the_first_value_of_a_query_parameter_counts_as_sent() {
    let matcher = |value| QueryMatcher { name: "a".into(), value };
    let exact = |value: &str| matcher(ValueMatcher::Exact(value.into()));
    assert!(exact("1").matches(&request("/?a=1&a=2", &[])));
    assert!(!exact("2").matches(&request("/?a=1&a=2", &[])));
    assert!(exact("").matches(&request("/?x&a", &[])));
    assert!(exact("b=c").matches(&request("/?a=b=c", &[])));
    assert!(!exact("x y").matches(&request("/?a=x%20y", &[])));
    assert!(!exact("1").matches(&request("/", &[])));
    assert!(matcher(ValueMatcher::Present(false)).matches(&request("/?b=a", &[])));
    assert!(matcher(ValueMatcher::Present(true)).matches(&request("/?a=", &[])));
}

#[test]
fn grpc_is_told_by_the_content_type() {
    let of = |value: &str| is_grpc(&request("/", &[("content-type", value)]).headers);
    assert!(of("application/grpc") && of("application/grpc+proto") && of("application/grpc;charset=utf-8"));
    assert!(!of("application/grpc-web") && !of("application/json"));
    assert!(!is_grpc(&HeaderMap::new()));
}
