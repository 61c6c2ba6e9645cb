//! Rules by method, and which of them may be tried again after a 503 that the backend answered.

use fairlead_tests::backend::Behaviour;
use fairlead_tests::client::{Call, call};
use fairlead_tests::world::{SidecarFlags, World};

#[tokio::test]
async fn s4_each_method_has_its_rule_and_only_idempotent_ones_are_retried_by_status() {
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    let mut world = World::new();
    let backends = world.backends("shop/article", 8080, "http", 2).await;
    let mut route = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: article, namespace: shop}
spec:
  parentRefs: [{name: article}]
  loadBalancer: {type: RoundRobin}
  # Half of the calls meet the broken one: more than the default budget would retry.
  retryConstraint: {budget: {percent: 100, interval: 10s}}
  rules:
"
    .to_owned();
    for method in methods {
        let name = method.to_lowercase();
        route += &format!(
            "  - name: {name}
    matches: [{{path: {{value: /articles}}, method: {method}}}]
    filters:
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: {name}}}]}}}}
    backendRefs: [{{name: article, port: 8080}}]
    retry: {{attempts: 2, codes: [503], backoff: 1ms}}
"
        );
    }
    world.apply("route", &route);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/article:8080"])).await;
    let address = sidecar.upstream("shop/article:8080").await;

    for method in methods {
        for path in ["/articles", "/articles/7"] {
            let answer = call(address, &Call::new(method, path)).await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("x-rule"), Some(method.to_lowercase().as_str()));
            assert_eq!(answer.json()["method"], method);
            assert_eq!(answer.json()["path"], path);
        }
    }
    assert_eq!(call(address, &Call::get("/articlesx")).await.unwrap().status, 404, "no rule");

    backends[0].set(Behaviour::Status(503));
    for method in methods {
        let retried = matches!(method, "GET" | "PUT" | "DELETE");
        let before = (backends[0].total(), backends[1].total());
        let mut refused = 0;
        for number in 0..10 {
            let request = Call::new(method, "/articles/7").header("x-id", &format!("{method}-{number}"));
            refused += usize::from(call(address, &request).await.unwrap().status == 503);
        }
        let processed = (backends[0].total() - before.0, backends[1].total() - before.1);
        if retried {
            assert_eq!((refused, processed.1), (0, 10), "{method}: {processed:?}");
            assert!(processed.0 > 0, "{method}");
        } else {
            assert_eq!((refused, processed), (5, (5, 5)), "{method}");
        }
    }

    // An Idempotency-Key makes any method repeatable.
    for number in 0..4 {
        let request = Call::post("/articles", "x").header("idempotency-key", &format!("\"{number}\""));
        assert_eq!(call(address, &request).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_answer_that_a_retry_hides_still_counts_for_ejection() {
    let mut world = World::new();
    let backends = world.backends("shop/article", 8080, "http", 2).await;
    world.apply(
        "policies",
        "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: article, namespace: shop}
spec:
  parentRefs: [{name: article}]
  loadBalancer: {type: RoundRobin}
  retryConstraint: {budget: {percent: 100, interval: 10s}}
  rules:
  - backendRefs: [{name: article, port: 8080}]
    retry: {attempts: 2, codes: [503], backoff: 1ms}
---
apiVersion: fairlead.dev/v1alpha1
kind: OutlierDetection
metadata: {name: article, namespace: shop}
spec:
  targetRefs: [{name: article}]
  consecutiveErrors: 3
  ejection: {baseTime: 300s}
",
    );
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/article:8080"])).await;
    let address = sidecar.upstream("shop/article:8080").await;
    backends[0].set(Behaviour::Status(503));
    for _ in 0..20 {
        assert_eq!(call(address, &Call::get("/")).await.unwrap().status, 200);
    }
    assert_eq!(backends[0].total(), 3, "three errors, then nothing more");
}
