//! The limiter as the sidecar of the target uses it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use proptest::prelude::*;

use super::*;

const SERVICE: &str = "shop/orders:80";

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn peer() -> IpAddr {
    IpAddr::from([10, 0, 0, 1])
}

fn limiter(settings: serde_json::Value) -> RateLimiter {
    next(settings, None)
}

fn next(settings: serde_json::Value, previous: Option<&RateLimiter>) -> RateLimiter {
    let settings = settled(settings);
    settings.check().unwrap();
    RateLimiter::new(settings, previous)
}

/// The settings, written with each policy where it is for: the policies are put in a list, each once.
fn settled(mut settings: serde_json::Value) -> InboundSettings {
    let mut policies: Vec<serde_json::Value> = Vec::new();
    for target in settings["targets"].as_object_mut().unwrap().values_mut() {
        for policy in target.as_array_mut().unwrap() {
            if !policies.contains(policy) {
                policies.push(policy.clone());
            }
            *policy = policy["name"].clone();
        }
    }
    settings["policies"] = policies.into();
    serde_json::from_value(settings).unwrap()
}

#[test]
fn a_policy_that_is_not_there_is_refused() {
    let settings = serde_json::json!({"services": [SERVICE], "targets": {SERVICE: ["shop/gone"]}});
    let settings: InboundSettings = serde_json::from_value(settings).unwrap();
    let error = settings.check().unwrap_err().to_string();
    assert!(error.contains("shop/gone") && error.contains("not among the policies"), "{error}");
    assert!(admitted(&RateLimiter::new(settings, None), start(), None, &get(&[])));
}

/// One Service with these policies.
fn service(policies: serde_json::Value) -> serde_json::Value {
    let mut settings = serde_json::json!({"services": [SERVICE], "targets": {}});
    settings["targets"][SERVICE] = policies;
    settings
}

fn with(mut value: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    let (serde_json::Value::Object(value_fields), serde_json::Value::Object(more)) = (&mut value, more)
    else {
        panic!("objects only")
    };
    value_fields.extend(more);
    value
}

fn limit(name: &str, requests: u32, per_ms: u64, more: serde_json::Value) -> serde_json::Value {
    let limit = serde_json::json!({
        "name": name, "requests": requests, "perMs": per_ms, "burst": requests, "algorithm": "TokenBucket"
    });
    with(limit, more)
}

fn policy(name: &str, limits: serde_json::Value, more: serde_json::Value) -> serde_json::Value {
    let response = serde_json::json!({"status": 429, "body": "slow down", "headers": []});
    let mut policy = serde_json::json!({"name": name, "response": response});
    policy["limits"] = limits;
    with(policy, more)
}

fn none() -> serde_json::Value {
    serde_json::json!({})
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn get(headers: &[(&str, &str)]) -> Parts {
    request("GET", "/orders", headers)
}

fn admitted(limiter: &RateLimiter, now: Instant, target: Option<&str>, request: &Parts) -> bool {
    matches!(limiter.check(now, target, request, peer()), Decision::Admit(_))
}

fn refusal(decision: Decision) -> Response<Bytes> {
    match decision {
        Decision::Refuse(refusal) => refusal.into_response(),
        Decision::Admit(quota) => panic!("admitted: {quota:?}"),
    }
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    headers[name].to_str().unwrap().parse().unwrap()
}

#[test]
fn five_per_second_and_ten_thousand_per_hour() {
    let limits =
        serde_json::json!([limit("second", 5, 1000, none()), limit("hour", 10_000, 3_600_000, none())]);
    let (limiter, start) =
        (limiter(service(serde_json::json!([policy("shop/orders", limits, none())]))), start());
    for left in (0..5).rev() {
        let Decision::Admit(Some(quota)) = limiter.check(start, None, &get(&[]), peer()) else { panic!() };
        assert_eq!(quota, Quota { limit: 5, remaining: left, reset: 1 });
    }
    let answer = refusal(limiter.check(start, None, &get(&[]), peer()));
    assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::TOO_MANY_REQUESTS, &b"slow down"[..]));
    for (name, value) in
        [("ratelimit-limit", 5), ("ratelimit-remaining", 0), ("ratelimit-reset", 1), ("retry-after", 1)]
    {
        assert_eq!(number(answer.headers(), name), value, "{name}");
    }
    // The refused ones took nothing from the hour: 10,000 get through in all, then the hour speaks.
    let mut now = start;
    let mut through = 5;
    loop {
        now += ms(200);
        match limiter.check(now, None, &get(&[]), peer()) {
            Decision::Admit(_) => through += 1,
            Decision::Refuse(refusal) => {
                assert_eq!(&*refusal.limit, "hour");
                break;
            }
        }
        assert!(!admitted(&limiter, now, None, &get(&[])), "five a second and no more");
    }
    // What the hour's bucket gained meanwhile (10,000 an hour are 2.78 a second) came on top.
    let gained = ((now - start).as_millis() * 10_000 / 3_600_000) as usize;
    assert_eq!(through, 10_000 + gained);
}

#[test]
fn tokens_are_taken_from_all_or_from_none() {
    let limits = serde_json::json!([
        limit("all", 3, 3_600_000, none()),
        limit("post", 1, 3_600_000, serde_json::json!({"matches": [{"method": "POST"}]})),
    ]);
    let (limiter, now) = (limiter(service(serde_json::json!([policy("p", limits, none())]))), start());
    let post = request("POST", "/orders", &[]);
    assert!(admitted(&limiter, now, None, &post));
    for _ in 0..10 {
        assert!(!admitted(&limiter, now, None, &post), "refused by `post`");
    }
    assert!(admitted(&limiter, now, None, &get(&[])) && admitted(&limiter, now, None, &get(&[])));
    assert!(!admitted(&limiter, now, None, &get(&[])), "`all` had lost one token only");
    let report = limiter.report();
    let counts: Vec<_> = report.iter().map(|limit| (&*limit.limit, limit.admitted, limit.refused)).collect();
    assert_eq!(counts, [("all", 3, 1), ("post", 1, 10)]);
}

fn a_and_b() -> serde_json::Value {
    let one_caller = serde_json::json!({"from": [
        {"headers": [{"type": "Exact", "name": "x-consumer", "value": "jsmith"}]}
    ]});
    serde_json::json!([
        policy("shop/b", serde_json::json!([limit("b", 1, 3_600_000, none())]), one_caller),
        policy("shop/a", serde_json::json!([limit("a", 3, 3_600_000, none())]), none()),
    ])
}

#[test]
fn a_caller_with_a_limit_of_its_own_is_held_to_it_alone() {
    let (first, now) = (limiter(service(a_and_b())), start());
    let jsmith = get(&[("x-consumer", "jsmith")]);
    assert!(admitted(&first, now, Some(SERVICE), &jsmith));
    assert!(!admitted(&first, now, Some(SERVICE), &jsmith));
    for _ in 0..3 {
        assert!(admitted(&first, now, Some(SERVICE), &get(&[])), "all of A is for the others");
    }
    assert!(!admitted(&first, now, Some(SERVICE), &get(&[])));
    assert!(!admitted(&first, now, Some(SERVICE), &get(&[("x-consumer", "other")])));
    // B disabled: the operator leaves it out, and that caller falls back to A, which is used up.
    let only_a = serde_json::json!([a_and_b()[1]]);
    let second = next(service(only_a), Some(&first));
    assert!(!admitted(&second, now, Some(SERVICE), &jsmith));
    let later = now + ms(1_200_000);
    assert!(admitted(&second, later, Some(SERVICE), &jsmith));
    assert!(!admitted(&second, later, Some(SERVICE), &get(&[])));
}

#[test]
fn a_policy_without_a_matching_limit_is_passed_over() {
    let posts =
        serde_json::json!([limit("posts", 1, 1000, serde_json::json!({"matches": [{"method": "POST"}]}))]);
    let policies = serde_json::json!([
        policy("first", posts, none()),
        policy("second", serde_json::json!([limit("all", 2, 1000, none())]), none()),
    ]);
    let (limiter, now) = (limiter(service(policies)), start());
    let post = request("POST", "/", &[]);
    assert!(admitted(&limiter, now, None, &post) && !admitted(&limiter, now, None, &post));
    assert!(admitted(&limiter, now, None, &get(&[])) && admitted(&limiter, now, None, &get(&[])));
    assert!(!admitted(&limiter, now, None, &get(&[])));
}

#[test]
fn the_target_chooses_the_policies() {
    let one = |name: &str, requests| {
        policy(name, serde_json::json!([limit("l", requests, 3_600_000, none())]), none())
    };
    let settings = serde_json::json!({
        "services": ["shop/a:80", "shop/b:80"],
        "targets": {
            "shop/a:80": [one("a", 2)],
            "shop/a:80#canary": [one("canary", 1), one("a", 2)],
            "shop/b:80": [one("b", 3)],
            "shop/parent:80": [],
        }
    });
    let now = start();
    let count = |limiter: &RateLimiter, target: Option<&str>| {
        (0..10).filter(|_| admitted(limiter, now, target, &get(&[]))).count()
    };
    let fresh = || limiter(settings.clone());
    assert_eq!(count(&fresh(), Some("shop/a:80")), 2);
    assert_eq!(count(&fresh(), Some("shop/a:80#canary")), 1);
    assert_eq!(count(&fresh(), Some("shop/a:80#other")), 2, "a rule without its own has its Service's");
    assert_eq!(count(&fresh(), Some("shop/b:80")), 3);
    assert_eq!(count(&fresh(), Some("shop/parent:80")), 10, "known, and without limits");
    assert_eq!(count(&fresh(), None), 2, "all Services at once: the tighter");
    assert_eq!(count(&fresh(), Some("shop/unknown:80")), 2, "as if it had said nothing");
    let limiter = fresh();
    assert_eq!(count(&limiter, None), 2);
    assert_eq!(count(&limiter, Some("shop/b:80")), 1, "two had been taken from B as well, and no more");
}

#[test]
fn one_limit_of_a_service_holds_for_all_its_rules_together() {
    let a = || policy("a", serde_json::json!([limit("l", 2, 3_600_000, none())]), none());
    let canary = serde_json::json!({"matches": [{"method": "POST"}]});
    let canary = policy("canary", serde_json::json!([limit("l", 1, 3_600_000, canary)]), none());
    let settings = serde_json::json!({
        "services": [SERVICE],
        "targets": {SERVICE: [a()], "shop/orders:80#canary": [canary, a()]}
    });
    let (limiter, now) = (limiter(settings), start());
    assert!(admitted(&limiter, now, Some("shop/orders:80#canary"), &get(&[])));
    assert!(admitted(&limiter, now, Some("shop/orders:80#default"), &get(&[])));
    assert!(!admitted(&limiter, now, Some(SERVICE), &get(&[])));
}

#[test]
fn shadow_is_counted_beside_and_never_refuses() {
    let one = |name: &str, requests, shadow| {
        let limits = serde_json::json!([limit("l", requests, 3_600_000, none())]);
        policy(name, limits, serde_json::json!({"shadow": shadow}))
    };
    let now = start();
    let ahead = limiter(service(serde_json::json!([one("try", 1, true), one("real", 2, false)])));
    let through = (0..10).filter(|_| admitted(&ahead, now, None, &get(&[]))).count();
    assert_eq!(through, 2);
    let report = ahead.report();
    assert_eq!((&*report[0].policy, report[0].admitted, report[0].refused), ("real", 2, 8));
    assert_eq!((&*report[1].policy, report[1].admitted, report[1].would_refuse), ("try", 1, 9));
    assert!(report[1].shadow && !report[0].shadow);
    let behind = limiter(service(serde_json::json!([one("real", 2, false), one("try", 1, true)])));
    assert!(admitted(&behind, now, None, &get(&[])));
    assert_eq!(behind.report()[1].admitted, 0, "another one comes first: it would not be asked");
    let alone = limiter(service(serde_json::json!([one("try", 1, true)])));
    for _ in 0..3 {
        assert!(matches!(alone.check(now, None, &get(&[]), peer()), Decision::Admit(None)), "nobody is told");
    }
}

#[test]
fn every_kind_of_key_parts_the_requests() {
    let now = start();
    let keyed = |kind: &str, name: Option<&str>| {
        let key = serde_json::json!({"key": [{"type": kind, "name": name}]});
        let limits = serde_json::json!([limit("l", 1, 3_600_000, key)]);
        limiter(service(serde_json::json!([policy("p", limits, none())])))
    };
    let header = keyed("Header", Some("X-User"));
    assert!(admitted(&header, now, None, &get(&[("x-user", "a")])));
    assert!(!admitted(&header, now, None, &get(&[("x-user", "a")])));
    assert!(admitted(&header, now, None, &get(&[("x-user", "a"), ("x-user", "b")])));
    assert!(admitted(&header, now, None, &get(&[("x-user", "")])));
    assert!(admitted(&header, now, None, &get(&[])), "those without share a bucket of their own");
    assert!(!admitted(&header, now, None, &get(&[])));
    let host = keyed("Header", Some("Host"));
    assert!(admitted(&host, now, None, &request("GET", "http://a/", &[])), "HTTP/2 has it in its target");
    assert!(!admitted(&host, now, None, &request("GET", "/", &[("host", "a")])));
    assert!(admitted(&host, now, None, &request("GET", "http://b/", &[])));
    let query = keyed("QueryParam", Some("u"));
    assert!(admitted(&query, now, None, &request("GET", "/?u=1", &[])));
    assert!(!admitted(&query, now, None, &request("GET", "/x?u=1&u=2", &[])));
    assert!(admitted(&query, now, None, &request("GET", "/?u=2", &[])));
    let path = keyed("Path", None);
    assert!(admitted(&path, now, None, &request("GET", "/a?1", &[])));
    assert!(!admitted(&path, now, None, &request("GET", "/a?2", &[])));
    assert!(admitted(&path, now, None, &request("GET", "/b", &[])));
    let method = keyed("Method", None);
    assert!(admitted(&method, now, None, &get(&[])) && !admitted(&method, now, None, &get(&[])));
    assert!(admitted(&method, now, None, &request("PUT", "/", &[])));
    let source = keyed("SourceAddress", None);
    let from =
        |peer: &str| matches!(source.check(now, None, &get(&[]), peer.parse().unwrap()), Decision::Admit(_));
    assert!(
        from("10.0.0.1")
            && !from("10.0.0.1")
            && !from("::ffff:10.0.0.1")
            && from("10.0.0.2")
            && from("fd79::1")
    );
}

#[test]
fn limits_match_as_routes_do() {
    let matches = serde_json::json!({"matches": [
        {"path": {"type": "PathPrefix", "value": "/orders"}, "headers": [{"type": "RegularExpression", "name": "X-Tier", "value": "free|trial"}]},
        {"path": {"type": "RegularExpression", "value": "/v[0-9]+/orders"}, "queryParams": [{"type": "Exact", "name": "slow", "value": "1"}]},
        {"path": {"type": "Exact", "value": "/admin"}, "method": "DELETE"},
    ]});
    let limits = serde_json::json!([limit("l", 1, 3_600_000, matches)]);
    let (limiter, now) = (limiter(service(serde_json::json!([policy("p", limits, none())]))), start());
    assert!(admitted(&limiter, now, None, &request("GET", "/orders/7", &[("x-tier", "free")])));
    for (method, uri, headers, held) in [
        ("GET", "/orders", &[("x-tier", "trial")][..], true),
        ("GET", "/orders", &[("x-tier", "trials")], false),
        ("GET", "/ordersx", &[("x-tier", "free")], false),
        ("GET", "/v2/orders?slow=1", &[], true),
        ("GET", "/v2/orders?slow=2", &[], false),
        ("DELETE", "/admin", &[], true),
        ("GET", "/admin", &[], false),
    ] {
        assert_eq!(!admitted(&limiter, now, None, &request(method, uri, headers)), held, "{method} {uri}");
    }
}

#[test]
fn buckets_survive_a_configuration_that_leaves_their_limit_alone() {
    let one = |requests: u32, path: &str| {
        let matches = serde_json::json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}]});
        service(serde_json::json!([policy(
            "p",
            serde_json::json!([limit("l", requests, 3_600_000, matches)]),
            none()
        )]))
    };
    let (first, now) = (limiter(one(1, "/")), start());
    assert!(admitted(&first, now, None, &get(&[])));
    let second = next(one(1, "/orders"), Some(&first));
    assert!(!admitted(&second, now, None, &get(&[])), "other matches, the same bucket");
    assert!(!admitted(&first, now, None, &get(&[])), "both at once share it");
    let third = next(one(2, "/"), Some(&second));
    assert!(admitted(&third, now, None, &get(&[])), "other numbers, another bucket");
    assert_eq!(third.report()[0].refused, 2, "what was counted stays");
    let gone = next(serde_json::json!({"services": [SERVICE], "targets": {}}), Some(&third));
    assert!(admitted(&gone, now, None, &get(&[])) && gone.report().is_empty());
}

#[test]
fn grpc_is_told_in_its_own_words() {
    let limits = serde_json::json!([limit("l", 1, 10_000, none())]);
    let (limiter, now) = (limiter(service(serde_json::json!([policy("p", limits, none())]))), start());
    let call = request("POST", "/shop.Orders/Place", &[("content-type", "application/grpc+proto")]);
    assert!(admitted(&limiter, now, None, &call));
    let answer = refusal(limiter.check(now + ms(1), None, &call, peer()));
    assert_eq!((answer.status(), answer.body().len()), (StatusCode::OK, 0));
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    assert_eq!(number(answer.headers(), "grpc-status"), 8);
    assert_eq!(number(answer.headers(), "retry-after"), 10);
    assert_eq!(number(answer.headers(), "ratelimit-reset"), 10);
}

#[test]
fn the_policy_says_how_to_refuse() {
    let response = serde_json::json!({"response": {
        "status": 503, "body": "{}", "headers": [{"name": "Content-Type", "value": "application/json"}]
    }});
    let limits = serde_json::json!([limit("l", 1, 1500, serde_json::json!({"algorithm": "FixedWindow"}))]);
    let (limiter, now) = (limiter(service(serde_json::json!([policy("p", limits, response)]))), start());
    assert!(admitted(&limiter, now, None, &get(&[])));
    let answer = refusal(limiter.check(now, None, &get(&[]), peer()));
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (503, &b"{}"[..]));
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(number(answer.headers(), "retry-after"), 2, "rounded up");
}

#[test]
fn an_application_keeps_its_own_numbers() {
    let quota = Quota { limit: 5, remaining: 4, reset: 1 };
    let mut headers = HeaderMap::new();
    quota.apply(&mut headers);
    assert_eq!(number(&headers, "ratelimit-remaining"), 4);
    let mut own = HeaderMap::new();
    own.insert("ratelimit-remaining", 1.into());
    quota.apply(&mut own);
    assert_eq!(own.len(), 1);
    assert_eq!(number(&own, "ratelimit-remaining"), 1);
}

#[test]
fn what_cannot_be_used_is_named_and_skipped() {
    for (limits, more, word) in [
        (serde_json::json!([limit("l", 0, 1000, none())]), none(), "above zero"),
        (serde_json::json!([limit("l", 1, 0, none())]), none(), "above zero"),
        (serde_json::json!([limit("l", 1, 1, serde_json::json!({"algorithm": "Leaky"}))]), none(), "Leaky"),
        (
            serde_json::json!([limit("l", 1, 1, serde_json::json!({"key": [{"type": "Header"}]}))]),
            none(),
            "needs a name",
        ),
        (
            serde_json::json!([limit("l", 1, 1, serde_json::json!({"key": [{"type": "Moon"}]}))]),
            none(),
            "Moon",
        ),
        (
            serde_json::json!([limit(
                "l",
                1,
                1,
                serde_json::json!({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]})
            )]),
            none(),
            "regular expression",
        ),
        (
            serde_json::json!([limit("l", 1, 1, none())]),
            serde_json::json!({"response": {"status": 9999, "body": "", "headers": []}}),
            "status",
        ),
    ] {
        let settings = service(serde_json::json!([policy("p", limits, more)]));
        let settings = settled(settings);
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains(word) && error.starts_with('p'), "{error}");
        let limiter = RateLimiter::new(settings, None);
        for _ in 0..3 {
            assert!(admitted(&limiter, start(), None, &get(&[])), "{word}");
        }
    }
}

proptest! {
    /// Against limiters for each limit alone: a request passes if and only if every bucket has a token, and
    /// only then takes one from each.
    #[test]
    fn all_or_none(
        numbers in prop::collection::vec((1u32..5, 1u64..2000), 1..4),
        waits in prop::collection::vec(0u64..500, 1..100),
    ) {
        let limits: Vec<_> =
            numbers.iter().enumerate().map(|(at, &(requests, per))| limit(&at.to_string(), requests, per, none())).collect();
        let limiter = limiter(service(serde_json::json!([policy("p", limits.into(), none())])));
        // In units of 1 / per of a request.
        let mut levels: Vec<u64> = numbers.iter().map(|&(requests, per)| u64::from(requests) * per).collect();
        let mut now = start();
        for wait in waits {
            now += ms(wait);
            for (level, &(requests, per)) in levels.iter_mut().zip(&numbers) {
                *level = (*level + wait * u64::from(requests)).min(u64::from(requests) * per);
            }
            let expected = levels.iter().zip(&numbers).all(|(level, (_, per))| level >= per);
            if expected {
                levels.iter_mut().zip(&numbers).for_each(|(level, (_, per))| *level -= per);
            }
            prop_assert_eq!(admitted(&limiter, now, None, &get(&[])), expected);
        }
    }
}
