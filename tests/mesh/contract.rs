//! What users may write, the sidecar takes: objects -> `compile` -> bytes -> decode -> a configuration in force.
//!
//! No process and no socket: the operator's library answers what the sidecar's library asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use fairlead_crds::Object;
use fairlead_crds::arbitrary::{NAMESPACE, PORT_NAMES, PORTS, SERVICES, object};
use fairlead_operator::model::{EndpointSlice, Inputs, ObjectKey, Problem, Service, compile, size};
use fairlead_operator::xds::snapshot::{ResourceKind, Snapshot};
use fairlead_proxy::config::assemble::Assembler;
use fairlead_proxy::config::pieces::Kind;
use fairlead_proxy::config::{Destination, Known, ProxyConfig};
use fairlead_proxy::xds::subscription::Subscription;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The Services that the strategies name, each with two endpoints, and one of each odd kind.
fn services() -> Inputs {
    let mut inputs = Inputs::default();
    let ports: Vec<_> =
        PORT_NAMES.iter().zip(PORTS).map(|(name, port)| json!({"name": name, "port": port})).collect();
    for (index, name) in SERVICES.iter().enumerate() {
        add(&mut inputs, name, &format!("10.96.0.{}", index + 1), &json!(ports), &format!("10.244.{index}"));
    }
    let odd = json!([{"name": "web", "port": 80}, {"name": "mysql", "port": 3306}]);
    add(&mut inputs, "odd", "10.96.0.9", &odd, "10.244.9");
    add(&mut inputs, "headless", "None", &json!([{"name": "http", "port": 9080}]), "10.244.8");
    inputs
}

fn add(inputs: &mut Inputs, name: &str, address: &str, ports: &Value, pods: &str) {
    let key = ObjectKey::new(NAMESPACE, name);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"clusterIP": address, "ports": ports},
    });
    let service = Service::from_api(&serde_json::from_value(service).unwrap()).unwrap();
    inputs.services.insert(key.clone(), Arc::new(service));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE, "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [format!("{pods}.1")], "zone": "a"}, {"addresses": [format!("{pods}.2")]}],
    });
    let slice = EndpointSlice::from_api(&serde_json::from_value(slice).unwrap()).unwrap();
    inputs.endpoint_slices.insert(key, Arc::new(slice));
}

/// Every listener that a sidecar may ask for here.
fn listeners(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    let mut names: BTreeSet<Arc<str>> = snapshot.names(ResourceKind::Listener).into_iter().collect();
    for service in snapshot.names(ResourceKind::Cluster) {
        let (path, port) = service.rsplit_once(':').unwrap();
        if let Some((namespace, name)) = path.split_once('/') {
            let api = format!("{name}.{namespace}.svc.cluster.local:{port}");
            // gRPC has no use for a port of bytes.
            names.extend(snapshot.get(ResourceKind::Listener, &api).map(|listener| listener.name.clone()));
            names.insert(service);
        }
    }
    for pods in ["10.244.0", "10.244.1", "10.244.2", "10.244.8"] {
        names.insert(format!("inbound/{pods}.1:9080").into());
    }
    names.insert("inbound/10.244.9.2:3306".into());
    names
}

fn kind(type_url: &str) -> ResourceKind {
    ResourceKind::from_type_url(type_url).unwrap()
}

/// What the server answers.
fn answer(snapshot: &Snapshot, request: &DeltaDiscoveryRequest) -> DeltaDiscoveryResponse {
    let kind = kind(&request.type_url);
    let mut response = DeltaDiscoveryResponse {
        type_url: request.type_url.clone(),
        nonce: "1".to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    for name in &request.resource_names_subscribe {
        match snapshot.get(kind, name) {
            None => response.removed_resources.push(name.clone()),
            Some(resource) => response.resources.push(Resource {
                name: name.clone(),
                version: resource.version.to_string(),
                resource: Some(Any { type_url: request.type_url.clone(), value: resource.any.to_vec() }),
                ..Resource::default()
            }),
        }
    }
    response
}

/// Asks for all of these and answers until nothing more is asked for.
fn converge(snapshot: &Snapshot, names: BTreeSet<Arc<str>>) -> Result<(Arc<ProxyConfig>, Assembler), String> {
    let now = tokio::time::Instant::now().into_std();
    let mut subscription = Subscription::default();
    let mut assembler = Assembler::default();
    assembler.want(&names);
    subscription.want(Kind::Listener, names);
    subscription.opened(Node::default());
    let mut config = Arc::default();
    while let Some(request) = subscription.request(now) {
        if let Some(error) = request.error_detail {
            return Err(format!("{}: {}", request.type_url, error.message));
        }
        if request.response_nonce.is_empty() {
            let received = subscription.receive(answer(snapshot, &request));
            assembler.apply(received.updates);
            config = assembler.assemble().map_or(config, |assembled| assembled.config);
            for kind in [Kind::Route, Kind::Cluster, Kind::Endpoints] {
                subscription.want(kind, assembler.wanted(kind));
            }
        }
    }
    Ok((config, assembler))
}

fn with(objects: Vec<Object>) -> Inputs {
    let mut inputs = services();
    for object in objects {
        let name = object.metadata().name.clone().unwrap();
        let key = ObjectKey::new(NAMESPACE, name);
        match object {
            Object::ServiceRoute(route) => drop(inputs.service_routes.insert(key, Arc::new(*route))),
            Object::OutlierDetection(policy) => {
                drop(inputs.outlier_detections.insert(key, Arc::new(*policy)));
            }
            Object::RateLimitPolicy(policy) => {
                drop(inputs.rate_limit_policies.insert(key, Arc::new(*policy)));
            }
        }
    }
    inputs
}

/// Everything that these objects come to is in force in a sidecar that asks for everything.
fn accepted(inputs: &Inputs) -> Result<Arc<ProxyConfig>, String> {
    let (mesh, _) = compile(inputs);
    let snapshot = Snapshot::new(Arc::new(mesh), None);
    let names = listeners(&snapshot);
    let (config, assembler) = converge(&snapshot, names.clone())?;
    for (name, known) in assembler.known() {
        if known != Known::InForce {
            return Err(format!("{name}: {known:?}"));
        }
    }
    for (name, destination) in &config.destinations {
        let Destination::Known(service) = destination.as_ref() else {
            return Err(format!("{name} is unknown"));
        };
        let clusters = service.routes.iter().flat_map(|routes| routes.clusters.iter()).zip(&service.clusters);
        for (cluster, built) in clusters {
            if built.is_none() != cluster.starts_with("invalid/") {
                return Err(format!("{name}: the cluster {cluster} is {built:?}"));
            }
        }
    }
    let inbound = names.iter().filter(|name| name.starts_with("inbound/")).count();
    if config.inbound.len() != inbound || config.destinations.len() != names.len() - inbound {
        return Err("a listener is missing".to_owned());
    }
    Ok(config)
}

#[test]
fn services_without_policies_are_accepted() {
    let config = accepted(&services()).unwrap();
    let Destination::Known(service) = config.destinations["shop/reviews:9080"].as_ref() else { panic!() };
    assert_eq!(service.clusters[0].as_ref().unwrap().endpoints.len(), 2);
    assert!(config.destinations.contains_key("10.96.0.1:9080"));
    assert!(config.destinations.contains_key("10.244.8.1:9080"));
}

/// The object that was written, which the API server takes.
fn valid(object: Value) -> Object {
    let mut object = object;
    object["apiVersion"] = json!(fairlead_crds::API_VERSION);
    object["metadata"]["namespace"] = json!(NAMESPACE);
    fairlead_crds::admit(&object).unwrap_or_else(|violations| panic!("{violations:?}"))
}

fn problems(inputs: &Inputs) -> Vec<Problem> {
    compile(inputs).1
}

fn headers(count: usize, value: usize) -> Value {
    (0..count)
        .map(|n| json!({"name": format!("x-{n}-{}", "n".repeat(100)), "value": "v".repeat(value)}))
        .collect()
}

/// A match with as much as one may have.
fn largest_match(n: usize) -> Value {
    let compared = |kind: &str| -> Value {
        let name = |m: usize| format!("{m}{}", "n".repeat(127));
        (0..8).map(|m| json!({"type": kind, "name": name(m), "value": "v".repeat(512)})).collect()
    };
    json!({
        "path": {"value": format!("/{n}{}", "p".repeat(1000))},
        "headers": compared("Exact"),
        "queryParams": compared("RegularExpression"),
    })
}

/// Rules with as many header changes and matches as one may have, and retries that make the most of it.
fn rules(rules: usize, matches: usize, value: usize, each: impl Fn(usize) -> Value) -> Value {
    let change = |n: usize| json!({"set": headers(16, value - n % 2), "add": headers(16, value)});
    let backend = |n: usize| {
        json!({"name": SERVICES[n % SERVICES.len()], "port": PORTS[0], "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": headers(1, 10)}},
        ]})
    };
    let rule = |n: usize| {
        json!({
            "name": format!("r{n}{}", "n".repeat(50)),
            "matches": (0..matches).map(&each).collect::<Vec<_>>(),
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": change(n)},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": change(n)},
            ],
            "backendRefs": (0..16).map(backend).collect::<Vec<_>>(),
            "retry": {"codes": (500..516).collect::<Vec<_>>(), "conditions": ["Reset", "GatewayError", "Timeout"]},
        })
    };
    (0..rules).map(rule).collect()
}

fn route(name: &str, service: &str, rules: &Value) -> Object {
    valid(json!({
        "kind": "ServiceRoute", "metadata": {"name": name},
        "spec": {"parentRefs": [{"name": service}], "rules": rules},
    }))
}

/// The largest objects that the schema allows are taken, or refused with a condition; never does a sidecar
/// get what it cannot take.
#[test]
fn objects_at_the_bounds_of_the_schema_harm_nobody() {
    let plain = |n: usize| json!({"path": {"value": format!("/{n}")}});
    // What the audit found: 530 KB, of which 25 MB were made.
    let audited = rules(4, 8, 4096, plain);
    let largest = rules(32, 8, 4096, largest_match);
    let matches_only: Value = (0..32)
        .map(|n| {
            json!({
                "name": format!("r{n}"), "matches": (0..8).map(|m| largest_match(8 * n + m)).collect::<Vec<_>>(),
                "backendRefs": [{"name": SERVICES[0], "port": PORTS[0]}],
            })
        })
        .collect();
    for (rules, what) in [(audited, "audited"), (largest, "largest"), (matches_only, "matches only")] {
        let inputs = with(vec![route("large", SERVICES[0], &rules)]);
        let problems = problems(&inputs);
        assert_eq!(problems.iter().map(|it| it.reason).collect::<Vec<_>>(), ["TooLarge"], "{what}");
        assert!(problems[0].message.contains("limit is 3.0 MiB"), "{}", problems[0].message);
        accepted(&inputs).unwrap();
    }
    // Header changes, backends and retries without number, each of the size that people write.
    let many = rules(3, 8, 40, plain);
    let inputs = with(vec![route("many", SERVICES[0], &many)]);
    assert_eq!(problems(&inputs), []);
    sizes_hold(&inputs).unwrap();
    accepted(&inputs).unwrap();
    // As many rules and matches as one may write.
    let rule = |n: usize| {
        let matches: Vec<_> =
            (0..8).map(|m| json!({"path": {"value": format!("/shop/{n}/items/{m}")}})).collect();
        json!({"name": format!("rule-of-{n}"), "matches": matches, "retry": {"codes": [502, 503]},
               "backendRefs": [{"name": SERVICES[0], "port": PORTS[0]}]})
    };
    let inputs = with(vec![route("most", SERVICES[0], &(0..32).map(rule).collect())]);
    assert_eq!(problems(&inputs), []);
    sizes_hold(&inputs).unwrap();
    accepted(&inputs).unwrap();
    let snapshot = Snapshot::new(Arc::new(compile(&inputs).0), None);
    let name = format!("{NAMESPACE}/{}:{}", SERVICES[0], PORTS[0]);
    let bytes = snapshot.get(ResourceKind::Route, &name).unwrap().any.len();
    let counted = size::of_routes(&snapshot.mesh().ports.get(name.as_str()).unwrap().routes, name.len());
    assert!((bytes..2 * bytes).contains(&counted), "{counted} are counted of {bytes}");
    // What all rules have in common counts once: 48 routes with 256 KiB of headers.
    let one = rules(1, 8, 4000, plain);
    let inputs = with(vec![route("one", SERVICES[0], &one)]);
    assert_eq!(problems(&inputs), []);
    sizes_hold(&inputs).unwrap();
    accepted(&inputs).unwrap();
}

#[test]
fn policies_at_the_bounds_of_the_schema_harm_nobody() {
    let limit = |n: usize, matches: usize| {
        json!({"name": format!("l{n}"), "requests": 1, "per": "1s",
               "matches": (0..matches).map(largest_match).collect::<Vec<_>>()})
    };
    let policy = |name: &str, limits: usize, matches: usize| {
        valid(json!({
            "kind": "RateLimitPolicy", "metadata": {"name": name},
            "spec": {
                "targetRefs": [{"kind": "ServiceRoute", "name": "many"}],
                "from": (0..8).map(largest_match).collect::<Vec<_>>(),
                "limits": (0..limits).map(|n| limit(n, matches)).collect::<Vec<_>>(),
                "response": {"status": 429, "body": "b".repeat(16384), "headers": headers(16, 4096)},
            },
        }))
    };
    let rule = |n: usize| {
        json!({"matches": [{"path": {"value": format!("/{n}")}}],
               "backendRefs": [{"name": SERVICES[0], "port": PORTS[0]}]})
    };
    let many = route("many", SERVICES[0], &(0..32).map(rule).collect());
    // 32 rules with one policy, which counts once.
    let inputs = with(vec![many.clone(), policy("a", 2, 8)]);
    assert_eq!(problems(&inputs), []);
    sizes_hold(&inputs).unwrap();
    accepted(&inputs).unwrap();
    // The largest is too large; the others stay in force as long as there is room.
    let all = ["a", "c", "d", "e"].map(|name| policy(name, 2, 8));
    let inputs = with([vec![many, policy("b", 16, 8)], all.into()].concat());
    let refused: Vec<_> =
        problems(&inputs).into_iter().map(|it| (it.object.key.name.to_string(), it.reason)).collect();
    assert!(refused.contains(&("b".to_owned(), "TooLarge")), "{refused:?}");
    assert!(!refused.iter().any(|(name, _)| name == "a" || name == "c"), "{refused:?}");
    accepted(&inputs).unwrap();
}

/// The size that is counted is never less than that of the bytes.
fn sizes_hold(inputs: &Inputs) -> Result<(), String> {
    let snapshot = Snapshot::new(Arc::new(compile(inputs).0), None);
    for name in snapshot.names(ResourceKind::Route) {
        let Some(port) = snapshot.mesh().ports.get(&*name) else { continue };
        let bytes = snapshot.get(ResourceKind::Route, &name).map_or(0, |route| route.any.len());
        let counted = size::of_routes(&port.routes, name.len());
        if port.routes.object.is_some() && counted < bytes {
            return Err(format!("{name} has {bytes} bytes, {counted} are counted"));
        }
    }
    for name in listeners(&snapshot).into_iter().filter(|name| name.starts_with("inbound/")) {
        let Some(listener) = snapshot.get(ResourceKind::Listener, &name) else { continue };
        let ports = snapshot.mesh().ports.iter();
        let policies: BTreeMap<_, _> = ports
            .flat_map(|(_, port)| port.inbound.targets.values().flatten().map(|it| (it.key.clone(), it.size)))
            .collect();
        let counted: usize = policies.values().sum();
        // Names of rules and policies stand there beside the policies themselves.
        if listener.any.len() > counted + 65_536 {
            return Err(format!("{name} has {} bytes, {counted} are counted", listener.any.len()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// The sidecar never refuses what the API server accepts.
    #[test]
    fn any_valid_objects_are_accepted(objects in prop::collection::vec(object(), 1..6)) {
        let inputs = with(objects);
        if let Err(refused) = accepted(&inputs).and_then(|_| sizes_hold(&inputs)) {
            prop_assert!(false, "{refused}");
        }
    }
}
