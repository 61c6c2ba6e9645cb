//! Objects for tests, written as users write them. They are not validated: the model has to cope with what
//! a broken API server lets through.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{EndpointSlice, Inputs, Mesh, ObjectKey, Problem, ReferenceGrant, Service, compile};

/// The objects of these YAML documents.
pub fn inputs(yaml: &str) -> Inputs {
    let mut inputs = Inputs::default();
    for object in serde_saphyr::from_multiple::<Value>(yaml).unwrap() {
        add(&mut inputs, object);
    }
    inputs
}

/// Adds one object, or puts it in place of the one of that name.
pub fn add(inputs: &mut Inputs, mut object: Value) {
    object["metadata"].as_object_mut().unwrap().entry("namespace").or_insert(json!("shop"));
    object["apiVersion"] = match object["kind"].as_str().unwrap() {
        "Service" => json!("v1"),
        "EndpointSlice" => json!("discovery.k8s.io/v1"),
        "ReferenceGrant" => json!("gateway.networking.k8s.io/v1beta1"),
        _ => json!("fairlead.dev/v1alpha1"),
    };
    let name = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    let key = ObjectKey::new(name("namespace"), name("name"));
    match object["kind"].as_str().unwrap() {
        "Service" => {
            let service = Service::from_api(&serde_json::from_value(object).unwrap()).unwrap();
            inputs.services.insert(key, Arc::new(service));
        }
        "EndpointSlice" => {
            let slice = EndpointSlice::from_api(&serde_json::from_value(object).unwrap()).unwrap();
            inputs.endpoint_slices.insert(key, Arc::new(slice));
        }
        "ReferenceGrant" => {
            let grant = ReferenceGrant::from_spec(&object["spec"]).unwrap();
            inputs.reference_grants.get_or_insert_default().insert(key, Arc::new(grant));
        }
        "ServiceRoute" => {
            inputs.service_routes.insert(key, Arc::new(serde_json::from_value(object).unwrap()));
        }
        "OutlierDetection" => {
            inputs.outlier_detections.insert(key, Arc::new(serde_json::from_value(object).unwrap()));
        }
        "RateLimitPolicy" => {
            inputs.rate_limit_policies.insert(key, Arc::new(serde_json::from_value(object).unwrap()));
        }
        other => panic!("{other}"),
    }
}

/// A Service with one HTTP port 9080 at `10.96.0.ADDRESS`, and two endpoints `10.244.ADDRESS.1` and `.2`.
pub fn add_service(inputs: &mut Inputs, name: &str, address: u8) {
    add(
        inputs,
        json!({
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"clusterIP": format!("10.96.0.{address}"), "ports": [{"name": "http", "port": 9080}]},
        }),
    );
    add_slice(
        inputs,
        name,
        &format!("{name}-1"),
        &[&format!("10.244.{address}.1"), &format!("10.244.{address}.2")],
    );
}

/// A slice with ready endpoints on port 9080.
pub fn add_slice(inputs: &mut Inputs, service: &str, name: &str, addresses: &[&str]) {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    add(
        inputs,
        json!({
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 9080}],
            "endpoints": endpoints,
        }),
    );
}

/// `reviews`, `reviews-v2` and `ratings`, and what else `yaml` says.
pub fn shop(yaml: &str) -> Inputs {
    let mut inputs = inputs(yaml);
    for (name, address) in [("reviews", 1), ("reviews-v2", 2), ("ratings", 3)] {
        add_service(&mut inputs, name, address);
    }
    inputs
}

/// The mesh, and all problems as text, by object.
pub fn compiled(inputs: &Inputs) -> (Mesh, BTreeMap<String, Vec<String>>) {
    let (mesh, problems) = compile(inputs);
    let mut by_object: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for problem in problems {
        by_object.entry(problem.object.to_string()).or_default().push(text(&problem));
    }
    (mesh, by_object)
}

fn text(problem: &Problem) -> String {
    format!("{} {:?} {}: {}", problem.condition.as_str(), problem.severity, problem.reason, problem.message)
}
