use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::*;
use crate::{admit, definition, validate};

fn json(object: &Object) -> Value {
    match object {
        Object::ServiceRoute(route) => serde_json::to_value(route),
        Object::OutlierDetection(policy) => serde_json::to_value(policy),
        Object::RateLimitPolicy(policy) => serde_json::to_value(policy),
    }
    .unwrap()
}

proptest! {
    #[test]
    fn what_is_generated_is_valid(object in object()) {
        let value = json(&object);
        let violations = validate(&value);
        prop_assert!(violations.is_empty(), "{violations:?}\n{value:#}");
        prop_assert_eq!(admit(&value), Ok(object));
    }
}

/// `rules[].matches[].path.type`, for all that a schema has.
fn paths(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    if let Some(items) = schema.get("items") {
        paths(items, &format!("{path}[]"), found);
    }
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        paths(child, &format!("{path}.{name}"), found);
    }
}

/// The same, for what an object has.
fn present(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        Value::Array(items) => items.iter().for_each(|item| present(item, &format!("{path}[]"), found)),
        Value::Object(map) => {
            map.iter().for_each(|(name, child)| present(child, &format!("{path}.{name}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_field_is_reached() {
    let mut wanted = BTreeSet::new();
    for definition in definition::all().unwrap() {
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
        paths(spec, &definition.spec.names.kind, &mut wanted);
    }
    let mut runner = TestRunner::deterministic();
    let strategy = object();
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let value = json(&strategy.new_tree(&mut runner).unwrap().current());
        present(&value["spec"], value["kind"].as_str().unwrap(), &mut seen);
    }
    let missed: Vec<&String> = wanted.difference(&seen).collect();
    assert!(missed.is_empty(), "{missed:?}");
}
