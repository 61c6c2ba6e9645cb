//! Rate limits, enforced by the sidecar before the target's application.

use std::net::SocketAddr;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Answer, Call, call};
use fairlead_tests::load::burst;
use fairlead_tests::until::eventually;
use fairlead_tests::world::{Sidecar, SidecarFlags, World};

/// `shop/orders` with one endpoint: a sidecar with the application behind it; and a caller's sidecar.
async fn orders(world: &mut World, policies: &str) -> (Backend, [Sidecar; 2], SocketAddr) {
    world.service("shop/orders", 8080, "http");
    let host = world.host();
    let application = Backend::start("orders", SocketAddr::new(host, 18080), Behaviour::Ok).await;
    world.ready_endpoints("shop/orders", &[host]);
    world.apply("policies", policies);
    world.start_operator().await;
    let listen = SocketAddr::new(host, 8080);
    let target = world.sidecar(&SidecarFlags::serving("shop/orders-0", listen, application.address)).await;
    let caller = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/orders:8080"])).await;
    let address = caller.upstream("shop/orders:8080").await;
    (application, [target, caller], address)
}

const A: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: a, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  limits: [{name: all, requests: 5, per: 1h}]
";

const B: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: b, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  mode: Enforce
  from: [{headers: [{name: x-consumer, value: jsmith}]}]
  limits: [{name: one, requests: 2, per: 1h}]
";

async fn as_jsmith(address: SocketAddr) -> Answer {
    call(address, &Call::get("/orders").header("x-consumer", "jsmith")).await.unwrap()
}

#[tokio::test]
async fn s11_a_caller_with_a_limit_of_its_own_is_held_to_that_alone() {
    let mut world = World::new();
    let (application, _sidecars, address) = orders(&mut world, &format!("{A}---{B}")).await;

    let statuses = [as_jsmith(address).await, as_jsmith(address).await, as_jsmith(address).await];
    assert_eq!(statuses.each_ref().map(|answer| answer.status), [200, 200, 429]);
    assert_eq!(statuses[2].number("ratelimit-limit"), Some(2));
    for expected in [200, 200, 200, 200, 200, 429] {
        let answer = call(address, &Call::get("/orders")).await.unwrap();
        assert_eq!(answer.status, expected, "others have all of A: {}", answer.text());
    }
    assert_eq!(application.total(), 7);

    // B switched off: this caller falls back to A, whose bucket is empty.
    world.apply("policies", &format!("{A}---{}", B.replace("mode: Enforce", "mode: Disabled")));
    let (answer, took) = eventually("jsmith is held to A", || async {
        let answer = as_jsmith(address).await;
        (answer.number("ratelimit-limit") == Some(5)).then_some(answer)
    })
    .await;
    println!("policy in force after {took:?}");
    assert_eq!(answer.status, 429);
    assert_eq!(application.total(), 7);
}

#[tokio::test]
async fn s22_two_windows_on_a_rule_and_truthful_headers() {
    let mut world = World::new();
    let policies = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{name: orders}]
  rules:
  - name: buy
    matches: [{path: {value: /buy}}]
    backendRefs: [{name: orders, port: 8080}]
  - name: rest
    backendRefs: [{name: orders, port: 8080}]
---
apiVersion: fairlead.dev/v1alpha1
kind: RateLimitPolicy
metadata: {name: orders, namespace: shop}
spec:
  targetRefs: [{kind: ServiceRoute, name: orders, sectionName: buy}]
  limits:
  - {name: burst, requests: 5, per: 1h}
  - {name: daily, requests: 10000, per: 24h, algorithm: FixedWindow}
  response: {status: 429, body: '{\"message\":\"API rate limit exceeded\"}', headers: [{name: content-type, value: application/json}]}
";
    let (application, _sidecars, address) = orders(&mut world, policies).await;
    let answers = burst(address, 6, 6, |_| Call::get("/buy")).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert_eq!(refused.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 5);
    assert_eq!(application.total(), 5);

    let refused = refused[0];
    assert_eq!(refused.json()["message"], "API rate limit exceeded");
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert_eq!(refused.number("ratelimit-limit"), Some(5));
    assert_eq!(refused.number("ratelimit-remaining"), Some(0));
    // One token every 3600 s / 5, rounded up; a busy machine may have used some of them.
    let wait = refused.number("retry-after").unwrap();
    assert!((690..=720).contains(&wait), "Retry-After: {wait}");
    let reset = refused.number("ratelimit-reset").unwrap();
    assert!((690..=3600).contains(&reset), "RateLimit-Reset: {reset}");

    // The other rule has no limit; nothing that an application says about itself changes that.
    for _ in 0..10 {
        assert_eq!(call(address, &Call::get("/look")).await.unwrap().status, 200);
    }
    let forged = Call::get("/buy").header("x-fairlead-target", "shop/orders:8080#rest");
    assert_eq!(call(address, &forged).await.unwrap().status, 429);
}
