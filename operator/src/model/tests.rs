//! Objects in, mesh and problems out.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::fixture::{add, add_service, add_slice, compiled, inputs, shop};
use super::mesh::Port;
use super::route::Action;
use super::*;

fn port(mesh: &Mesh, name: &str) -> Arc<Port> {
    mesh.ports.get(name).unwrap().clone()
}

fn addresses(mesh: &Mesh, name: &str) -> Vec<String> {
    port(mesh, name).endpoints.list.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, ObjectKey::new("shop", name))
}

#[test]
fn endpoints_of_all_slices_once_each() {
    let mut inputs = shop("");
    add(
        &mut inputs,
        json!({
            "kind": "EndpointSlice",
            "metadata": {"name": "reviews-2", "labels": {"kubernetes.io/service-name": "reviews"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 9080}, {"name": "admin", "port": 1}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "zone": "b"},
                {"addresses": ["10.244.1.3"], "zone": "a", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.4"], "conditions": {"ready": false}},
                {"addresses": ["10.244.1.5"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ],
        }),
    );
    add(
        &mut inputs,
        json!({
            "kind": "EndpointSlice",
            "metadata": {"name": "reviews-6", "labels": {"kubernetes.io/service-name": "reviews"}},
            "addressType": "IPv6",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["fd79::5"]}],
        }),
    );
    let (mesh, problems) = compiled(&inputs);
    assert!(problems.is_empty(), "{problems:?}");
    let expected = ["10.244.1.1:9080", "10.244.1.2:9080", "10.244.1.3:9080", "[fd79::5]:8080"];
    assert_eq!(addresses(&mesh, "shop/reviews:9080"), expected);
    // The Service's first address is one of IPv4.
    let called: Vec<_> =
        port(&mesh, "shop/reviews:9080").endpoints.called().map(|one| one.address.to_string()).collect();
    assert_eq!(called, expected[..3]);
    let zones: Vec<_> =
        port(&mesh, "shop/reviews:9080").endpoints.list.iter().map(|one| one.zone.to_string()).collect();
    assert_eq!(zones, ["", "b", "a", ""]);
    assert_eq!(addresses(&mesh, "shop/ratings:9080").len(), 2);
}

#[test]
fn terminating_endpoints_only_when_nothing_is_ready() {
    let mut inputs = Inputs::default();
    add_service(&mut inputs, "reviews", 1);
    let mut slice = json!({
        "kind": "EndpointSlice",
        "metadata": {"name": "reviews-1", "labels": {"kubernetes.io/service-name": "reviews"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9080}],
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": false, "terminating": true}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
        ],
    });
    add(&mut inputs, slice.clone());
    assert_eq!(addresses(&compile(&inputs).0, "shop/reviews:9080"), ["10.0.0.1:9080"]);
    slice["endpoints"][2]["conditions"] = json!({});
    add(&mut inputs, slice);
    assert_eq!(addresses(&compile(&inputs).0, "shop/reviews:9080"), ["10.0.0.3:9080"]);
}

/// Two ServiceRoutes for `reviews`, the first with this age.
fn rivals(first: &str, second: &str, parents: &str) -> Inputs {
    let route = |name: &str, created: &str, parents: &str| {
        format!(
            "kind: ServiceRoute\nmetadata: {{name: {name}{created}}}\nspec:\n  parentRefs: [{parents}]\n  rules:\n  \
             - backendRefs: [{{name: reviews-v2, port: 9080}}]\n  connectionPool: {{maxConnections: 4}}\n---\n"
        )
    };
    shop(&(route("zebra", first, "{name: reviews}") + &route("aardvark", second, parents)))
}

#[test]
fn the_older_route_wins_then_the_name() {
    let (mesh, problems) = compiled(&rivals(
        ", creationTimestamp: 2026-01-01T00:00:00Z",
        ", creationTimestamp: 2026-01-02T00:00:00Z",
        "{name: reviews}",
    ));
    assert_eq!(port(&mesh, "shop/reviews:9080").routes.object, Some(ObjectKey::new("shop", "zebra")));
    let lost = "rules of shop/reviews:9080: shop/zebra is older or comes first by name; \
                connectionPool of shop/reviews:9080: shop/zebra is older or comes first by name";
    assert_eq!(
        problems["ServiceRoute shop/aardvark"],
        [format!("Accepted Error Conflicted: {lost}"), format!("Conflicted Error Conflicted: {lost}")]
    );
    assert!(!problems.contains_key("ServiceRoute shop/zebra"));

    let (mesh, problems) = compiled(&rivals("", "", "{name: reviews}"));
    assert_eq!(port(&mesh, "shop/reviews:9080").routes.object, Some(ObjectKey::new("shop", "aardvark")));
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["ServiceRoute shop/zebra"]);
}

#[test]
fn a_route_that_keeps_a_port_is_accepted() {
    let (mesh, problems) = compiled(&rivals(
        "",
        ", creationTimestamp: 2026-01-02T00:00:00Z",
        "{name: reviews}, {name: ratings}",
    ));
    assert_eq!(port(&mesh, "shop/reviews:9080").routes.object, Some(ObjectKey::new("shop", "zebra")));
    assert_eq!(port(&mesh, "shop/ratings:9080").routes.object, Some(ObjectKey::new("shop", "aardvark")));
    let told = &problems["ServiceRoute shop/aardvark"];
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("Conflicted Error Conflicted: rules of shop/reviews:9080: shop/zebra"),
        "{told:?}"
    );
    assert_eq!(port(&mesh, "shop/ratings:9080").cluster.pool.max_connections, Some(4));
}

#[test]
fn each_setting_is_won_whole_by_the_oldest_object_that_sets_it() {
    let (mesh, problems) = compiled(&shop(
        "
kind: ServiceRoute
metadata: {name: a}
spec: {parentRefs: [{name: reviews}], loadBalancer: {type: RoundRobin}}
---
kind: ServiceRoute
metadata: {name: b}
spec: {parentRefs: [{name: reviews, port: 9080}], connectionPool: {maxRequests: 7}}
---
kind: ServiceRoute
metadata: {name: c}
spec:
  parentRefs: [{name: reviews}]
  connectionPool: {maxConnections: 1}
  retryConstraint: {budget: {percent: 5}}
  rules: [{backendRefs: [{name: reviews, port: 9080}]}]
",
    ));
    let cluster = &port(&mesh, "shop/reviews:9080").cluster;
    assert_eq!(cluster.load_balancer, fairlead_crds::LoadBalancerType::RoundRobin);
    assert_eq!((cluster.pool.max_requests, cluster.pool.max_connections), (Some(7), None));
    assert_eq!(cluster.retries.budget.percent, 5);
    assert_eq!(
        problems["ServiceRoute shop/c"],
        [
            "Conflicted Error Conflicted: connectionPool of shop/reviews:9080: shop/b is older or comes first by name"
        ]
    );
    assert_eq!(port(&mesh, "shop/reviews:9080").routes.object, Some(ObjectKey::new("shop", "c")));
}

#[test]
fn references_that_lead_nowhere_are_named_with_the_nearest() {
    let (mesh, problems) = compiled(&shop(
        "
kind: ServiceRoute
metadata: {name: reviews}
spec:
  parentRefs: [{name: reviews}, {name: reviewz}, {name: ratings, port: 80}]
  rules:
  - name: canary
    backendRefs: [{name: reveiws, port: 9080}, {name: reviews, port: 9081}, {name: reviews, port: 9080}]
  - name: elsewhere
    matches: [{path: {value: /x}}]
    backendRefs: [{name: secret, namespace: bank, port: 80}]
  - matches: [{path: {value: /y}}]
    backendRefs: [{name: reviews, namespace: shop, port: 9080}]
---
kind: ReferenceGrant
metadata: {name: others-may, namespace: bank}
spec: {from: [{group: fairlead.dev, kind: ServiceRoute, namespace: other}], to: [{group: '', kind: Service}]}
---
kind: OutlierDetection
metadata: {name: od}
spec: {targetRefs: [{name: reviews, sectionName: htpp}, {name: reviews, sectionName: '9080'}]}
---
kind: OutlierDetection
metadata: {name: nobody}
spec: {targetRefs: [{name: nobody}]}
---
kind: RateLimitPolicy
metadata: {name: rl}
spec:
  targetRefs: [{kind: ServiceRoute, name: review}, {kind: ServiceRoute, name: reviews, sectionName: canari}, {name: ratings}]
  limits: [{name: a, requests: 1, per: 1s}]
",
    ));
    assert_eq!(
        problems["ServiceRoute shop/reviews"],
        [
            "ResolvedRefs Error BackendNotFound: rule canary, backendRef shop/reveiws:9080, whose share is answered with \
             500: there is no Service shop/reveiws; did you mean reviews?",
            "ResolvedRefs Error BackendNotFound: rule canary, backendRef shop/reviews:9081, whose share is answered with \
             500: Service shop/reviews has no TCP port 9081; it has 9080",
            "ResolvedRefs Error ParentNotFound: parentRef ratings: Service shop/ratings has no TCP port 80; it has 9080",
            "ResolvedRefs Error ParentNotFound: parentRef reviewz: there is no Service shop/reviewz; did you mean reviews?",
            "ResolvedRefs Error RefNotPermitted: rule elsewhere, backendRef bank/secret:80, whose share is answered \
             with 500: a Service of another namespace may be used only where a ReferenceGrant there allows it: write \
             one in namespace bank with from: [{group: fairlead.dev, kind: ServiceRoute, namespace: shop}] and to: \
             [{group: \"\", kind: Service, name: secret}]",
        ]
    );
    assert_eq!(
        problems["OutlierDetection shop/od"],
        [
            "ResolvedRefs Error TargetNotFound: Service shop/reviews has no port named htpp; did you mean http?"
        ]
    );
    assert_eq!(
        problems["OutlierDetection shop/nobody"],
        [
            "Accepted Error TargetNotFound: no Service that targetRefs name is there",
            "ResolvedRefs Error TargetNotFound: there is no Service shop/nobody",
        ]
    );
    assert_eq!(
        problems["RateLimitPolicy shop/rl"],
        [
            "ResolvedRefs Error TargetNotFound: ServiceRoute shop/reviews has no rule canari; did you mean canary?",
            "ResolvedRefs Error TargetNotFound: there is no ServiceRoute shop/review; did you mean reviews?",
        ]
    );
    let routes = &port(&mesh, "shop/reviews:9080").routes;
    let usable: Vec<Vec<_>> = routes
        .rules
        .iter()
        .map(|rule| match &rule.action {
            Action::Forward { backends, .. } => {
                backends.iter().map(|backend| (&*backend.port, backend.usable)).collect()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        usable,
        [
            vec![("shop/reveiws:9080", false), ("shop/reviews:9081", false), ("shop/reviews:9080", true)],
            vec![("bank/secret:80", false)],
            vec![("shop/reviews:9080", true)],
        ]
    );
    assert!(port(&mesh, "shop/reviews:9080").cluster.outlier.is_some());
}

#[test]
fn a_backend_in_another_namespace_needs_a_grant_where_there_are_grants() {
    let yaml = "
kind: Service
metadata: {name: ledger, namespace: bank}
spec: {clusterIP: 10.96.0.9, ports: [{name: http, port: 80}]}
---
kind: ServiceRoute
metadata: {name: reviews}
spec:
  parentRefs: [{name: reviews}]
  rules: [{backendRefs: [{name: ledger, namespace: bank, port: 80}]}]
---
kind: RateLimitPolicy
metadata: {name: few}
spec: {targetRefs: [{name: reviews}], limits: [{name: a, requests: 1, per: 1s}]}
";
    let grant = |to: Value| {
        json!({
            "kind": "ReferenceGrant", "metadata": {"name": "shop-may", "namespace": "bank"},
            "spec": {"from": [{"group": "fairlead.dev", "kind": "ServiceRoute", "namespace": "shop"}], "to": [to]},
        })
    };
    let usable = |inputs: &Inputs| {
        let (mesh, problems) = compiled(inputs);
        let backends: Vec<_> = port(&mesh, "shop/reviews:9080").routes.backends().cloned().collect();
        let problems = problems.get("ServiceRoute shop/reviews").cloned().unwrap_or_default();
        // Who is called holds its callers to the limits of what they called.
        assert_eq!(port(&mesh, "bank/ledger:80").inbound.targets.len(), backends.len());
        (
            backends.len(),
            problems.iter().map(|problem| problem.contains("RefNotPermitted")).collect::<Vec<_>>(),
        )
    };
    let mut inputs = shop(yaml);
    assert_eq!(usable(&inputs), (1, vec![]), "nobody can give a grant in this cluster");
    add(&mut inputs, grant(json!({"group": "", "kind": "Service", "name": "vault"})));
    assert_eq!(usable(&inputs), (0, vec![true]));
    add(&mut inputs, grant(json!({"group": "", "kind": "Service", "name": "ledger"})));
    assert_eq!(usable(&inputs), (1, vec![]));
    add(&mut inputs, grant(json!({"group": "", "kind": "Service"})));
    assert_eq!(usable(&inputs), (1, vec![]));
    inputs.reference_grants = Some(Default::default());
    assert_eq!(usable(&inputs), (0, vec![true]), "the kind is there, and no object of it");
}

#[test]
fn a_broken_rule_answers_500_and_its_neighbours_stay() {
    let huge = format!("({})", "[a-z0-9]{1,1000}".repeat(20));
    let (mesh, problems) = compiled(&shop(&format!(
        "
kind: ServiceRoute
metadata: {{name: reviews}}
spec:
  parentRefs: [{{name: reviews}}]
  rules:
  - name: huge
    matches: [{{path: {{type: RegularExpression, value: '{huge}'}}}}, {{path: {{value: /huge}}}}]
    backendRefs: [{{name: reviews, port: 9080}}]
  - name: mixed
    matches: [{{path: {{type: Exact, value: /a}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /b}}}}}}]
    backendRefs: [{{name: reviews, port: 9080}}]
  - name: default
    backendRefs: [{{name: reviews, port: 9080}}]
---
kind: RateLimitPolicy
metadata: {{name: a}}
spec:
  targetRefs: [{{name: reviews}}]
  limits:
  - {{name: one, requests: 1, per: 1s, matches: [{{headers: [{{type: RegularExpression, name: x, value: '(?=a)'}}]}}]}}
  - {{name: two, requests: 1, per: 1s}}
---
kind: RateLimitPolicy
metadata: {{name: b}}
spec:
  targetRefs: [{{name: reviews}}]
  from: [{{headers: [{{type: RegularExpression, name: x, value: '('}}]}}]
  limits: [{{name: one, requests: 1, per: 1s}}]
",
    )));
    let told = &problems["ServiceRoute shop/reviews"];
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with(
            "Accepted Error PartiallyInvalid: rule huge answers 500, the other rules are in force: matches[0]: path: "
        ),
        "{told:?}"
    );
    assert!(told[1].starts_with("Accepted Error PartiallyInvalid: rule mixed answers 500"), "{told:?}");
    let port = port(&mesh, "shop/reviews:9080");
    assert!(matches!(port.routes.rules[0].action, Action::Broken));
    assert!(matches!(port.routes.rules[1].action, Action::Broken));
    assert!(matches!(port.routes.rules[2].action, Action::Forward { .. }));
    assert_eq!(port.routes.order.iter().map(|candidate| candidate.rule).collect::<Vec<_>>(), [1, 0, 2]);
    assert!(problems["RateLimitPolicy shop/a"][0].contains("limit one is not in force, the others are"));
    assert!(
        problems["RateLimitPolicy shop/b"][0]
            .starts_with("Accepted Error Invalid: the policy is not in force")
    );
    let policies = &port.inbound.targets["shop/reviews:9080"];
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0].limits.iter().map(|limit| limit.name.as_str()).collect::<Vec<_>>(), ["two"]);
}

#[test]
fn services_that_are_left_to_kube_proxy() {
    let yaml = "
kind: Service
metadata: {name: sticky}
spec: {clusterIP: 10.96.0.9, sessionAffinity: ClientIP, ports: [{port: 80, name: http}]}
---
kind: Service
metadata: {name: local}
spec: {clusterIP: 10.96.0.10, internalTrafficPolicy: Local, ports: [{port: 80, name: http}]}
---
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
kind: Service
metadata: {name: db}
spec: {clusterIP: 10.96.0.11, ports: [{port: 3306, name: mysql}, {port: 53, protocol: UDP}]}
";
    let (mesh, _) = compiled(&inputs(yaml));
    let names: BTreeSet<_> = mesh.ports.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["shop/db:3306", "shop/local:80", "shop/sticky:80"]);
    assert_eq!(mesh.service_addresses.len(), 1);

    let route = "
---
kind: ServiceRoute
metadata: {name: r}
spec:
  parentRefs: [{name: sticky}, {name: outside}, {name: db, port: 3306}]
  rules: [{backendRefs: [{name: outside, port: 80}]}]
---
kind: RateLimitPolicy
metadata: {name: rl}
spec: {targetRefs: [{name: db}], limits: [{name: a, requests: 1, per: 1s}]}
";
    let (mesh, problems) = compiled(&inputs(&format!("{yaml}{route}")));
    assert_eq!(mesh.service_addresses.len(), 2);
    assert!(
        problems["RateLimitPolicy shop/rl"][0].starts_with("Accepted Note OpaquePort: shop/db carries bytes")
    );
    assert_eq!(
        problems["ServiceRoute shop/r"],
        [
            "Accepted Note KubeProxyReplaced: Service shop/sticky has sessionAffinity: ClientIP, which kube-proxy no \
             longer applies to meshed callers, for this route names it",
            "Accepted Note OpaquePort: shop/db:3306 carries bytes, not HTTP, so rules have no effect there: set the \
             port's appProtocol to http, kubernetes.io/h2c or grpc if it does speak HTTP",
            "ResolvedRefs Error BackendNotFound: rule rule-0, backendRef shop/outside:80, whose share is answered with \
             500: Service shop/outside is of type ExternalName and has no endpoints to call",
            "ResolvedRefs Error ParentNotFound: parentRef outside: Service shop/outside is of type ExternalName and has no endpoints to call",
        ]
    );
}

const LIMITS: &str = "
kind: ServiceRoute
metadata: {name: reviews}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - name: canary
    matches: [{path: {value: /v2}}]
    backendRefs: [{name: reviews-v2, port: 9080}]
  - name: default
    backendRefs: [{name: reviews, port: 9080}]
---
kind: RateLimitPolicy
metadata: {name: service}
spec: {targetRefs: [{name: reviews}], limits: [{name: a, requests: 1, per: 1s}]}
---
kind: RateLimitPolicy
metadata: {name: another-service}
spec: {targetRefs: [{name: reviews}], limits: [{name: a, requests: 1, per: 1s}]}
---
kind: RateLimitPolicy
metadata: {name: port}
spec: {targetRefs: [{name: reviews, sectionName: http}, {name: reviews}], limits: [{name: a, requests: 1, per: 1s}]}
---
kind: RateLimitPolicy
metadata: {name: rule}
spec:
  targetRefs: [{kind: ServiceRoute, name: reviews, sectionName: canary}]
  limits: [{name: a, requests: 1, per: 1s}]
---
kind: RateLimitPolicy
metadata: {name: caller}
spec:
  targetRefs: [{name: reviews}]
  mode: Shadow
  from: [{headers: [{name: x-consumer, value: jsmith}]}]
  limits: [{name: a, requests: 1, per: 1s}]
---
kind: RateLimitPolicy
metadata: {name: disabled}
spec: {targetRefs: [{name: reviews}], mode: Disabled, limits: [{name: a, requests: 1, per: 1s}]}
";

#[test]
fn policies_in_order_of_precedence_reach_every_endpoint_that_a_rule_leads_to() {
    let (mesh, problems) = compiled(&shop(LIMITS));
    assert!(problems.is_empty(), "{problems:?}");
    let names = |target: &str| -> Vec<String> {
        let policies = &port(&mesh, "shop/reviews-v2:9080").inbound.targets[target];
        policies.iter().map(|policy| policy.key.name.to_string()).collect()
    };
    assert_eq!(names("shop/reviews:9080"), ["caller", "port", "another-service", "service"]);
    assert_eq!(names("shop/reviews:9080#canary"), ["caller", "rule", "port", "another-service", "service"]);
    let reviews = port(&mesh, "shop/reviews:9080");
    assert_eq!(
        reviews.inbound.targets.keys().map(|key| &**key).collect::<Vec<_>>(),
        ["shop/reviews:9080", "shop/reviews:9080#canary"]
    );
    assert_eq!(reviews.inbound.targets, port(&mesh, "shop/reviews-v2:9080").inbound.targets);
    assert!(reviews.inbound.targets["shop/reviews:9080"][0].shadow);
    assert!(port(&mesh, "shop/ratings:9080").inbound.targets.is_empty());
}

#[test]
fn what_an_object_contributes_to() {
    let (mesh, _) = compile(&shop(&format!(
        "{LIMITS}
---
kind: OutlierDetection
metadata: {{name: od}}
spec: {{targetRefs: [{{name: ratings}}]}}
"
    )));
    let names = |set: &BTreeSet<mesh::PortName>| set.iter().map(ToString::to_string).collect::<Vec<_>>();
    let route = &mesh.contributions[&object(Kind::ServiceRoute, "reviews")];
    assert_eq!(names(&route.routes), ["shop/reviews:9080"]);
    assert_eq!(names(&route.inbound), ["shop/reviews-v2:9080"]);
    assert!(route.clusters.is_empty() && route.listeners.is_empty());
    let policy = &mesh.contributions[&object(Kind::RateLimitPolicy, "rule")];
    assert_eq!(names(&policy.inbound), ["shop/reviews-v2:9080", "shop/reviews:9080"]);
    let outlier = &mesh.contributions[&object(Kind::OutlierDetection, "od")];
    assert_eq!(names(&outlier.clusters), ["shop/ratings:9080"]);
    assert!(!mesh.contributions.contains_key(&object(Kind::RateLimitPolicy, "disabled")));
}

#[test]
fn invalid_objects_say_so_and_nothing_else_happens() {
    let mut inputs = shop("");
    inputs.invalid.insert(object(Kind::ServiceRoute, "bad"), vec!["spec.rules: one".into(), "two".into()]);
    let (_, problems) = compiled(&inputs);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems["ServiceRoute shop/bad"], ["Accepted Error Invalid: spec.rules: one; two"]);
}

/// Everything that a mesh says, whatever it shares.
fn content(mesh: &Mesh) -> Value {
    let mut ports: Vec<_> = mesh.ports.iter().map(|(name, port)| format!("{name} {port:?}")).collect();
    ports.sort_unstable();
    let mut endpoints: Vec<_> = mesh.endpoint_addresses.iter().map(|entry| format!("{entry:?}")).collect();
    endpoints.sort_unstable();
    let mut services: Vec<_> = mesh.service_addresses.iter().map(|entry| format!("{entry:?}")).collect();
    services.sort_unstable();
    json!([ports, endpoints, services, format!("{:?}", mesh.contributions)])
}

#[test]
fn an_endpoint_change_alone_comes_to_the_same_as_compiling_everything() {
    let mut inputs = shop(LIMITS);
    let (mut mesh, _) = compile(&inputs);
    let changes: [(&str, &str, &[&str]); 5] = [
        ("reviews", "reviews-1", &["10.244.1.1", "10.244.1.7"]),
        // The same endpoints in another Service.
        ("ratings", "ratings-2", &["10.244.1.7", "10.244.1.8"]),
        ("reviews", "reviews-1", &[]),
        ("reviews", "reviews-3", &["10.244.9.9"]),
        ("ratings", "ratings-2", &["10.244.3.1"]),
    ];
    for (service, slice, addresses) in changes {
        add_slice(&mut inputs, service, slice, addresses);
        let before = mesh.clone();
        mesh = mesh.with_endpoints(&inputs, [&ObjectKey::new("shop", service)]);
        assert_eq!(content(&mesh), content(&compile(&inputs).0), "{service} {addresses:?}");
        let mut changed = Vec::new();
        let same = |old: &Arc<Port>, new: &Arc<Port>| Arc::ptr_eq(old, new);
        mesh.ports.differences(&before.ports, same, |name, _, _| changed.push(name.to_string()));
        assert!(changed.len() <= 1, "{changed:?}");
    }
    let unknown = ObjectKey::new("shop", "unknown");
    assert_eq!(content(&mesh.with_endpoints(&inputs, [&unknown])), content(&mesh));
}

#[test]
fn compiling_again_shares_everything_that_is_equal() {
    let mut inputs = shop(LIMITS);
    let (mesh, _) = compile(&inputs);
    let same = |old: &Arc<Port>, new: &Arc<Port>| Arc::ptr_eq(old, new);
    let (again, _) = recompile(&inputs, &mesh);
    again.ports.differences(&mesh.ports, same, |name, _, _| panic!("{name}"));

    add(
        &mut inputs,
        json!({
            "kind": "OutlierDetection",
            "metadata": {"name": "od"},
            "spec": {"targetRefs": [{"name": "ratings"}]},
        }),
    );
    let (changed, _) = recompile(&inputs, &mesh);
    assert_eq!(content(&changed), content(&compile(&inputs).0));
    let mut names = Vec::new();
    changed.ports.differences(&mesh.ports, same, |name, _, _| names.push(name.to_string()));
    assert_eq!(names, ["shop/ratings:9080"]);
    let (before, after) = (port(&mesh, "shop/ratings:9080"), port(&changed, "shop/ratings:9080"));
    assert!(
        Arc::ptr_eq(&before.endpoints, &after.endpoints) && !Arc::ptr_eq(&before.cluster, &after.cluster)
    );
}
