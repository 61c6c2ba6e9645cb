//! What users may write, the sidecar takes: objects -> `compile` -> bytes -> decode -> a configuration in force.
//!
//! No process and no socket: the operator's library answers what the sidecar's library asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use fairlead_crds::Object;
use fairlead_crds::arbitrary::{NAMESPACE, PORT_NAMES, PORTS, SERVICES, object};
use fairlead_operator::model::{EndpointSlice, Inputs, ObjectKey, Service, compile};
use fairlead_operator::xds::snapshot::{ResourceKind, Snapshot};
use fairlead_proxy::config::assemble::Assembler;
use fairlead_proxy::config::pieces::Kind;
use fairlead_proxy::config::{Destination, Known, ProxyConfig};
use fairlead_proxy::xds::subscription::Subscription;
use proptest::prelude::*;
use serde_json::json;

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

fn add(inputs: &mut Inputs, name: &str, address: &str, ports: &serde_json::Value, pods: &str) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// The sidecar never refuses what the API server accepts.
    #[test]
    fn any_valid_objects_are_accepted(objects in prop::collection::vec(object(), 1..6)) {
        if let Err(refused) = accepted(&with(objects)) {
            prop_assert!(false, "{refused}");
        }
    }
}
