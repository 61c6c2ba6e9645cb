//! The CustomResourceDefinitions, as `generated/*.yaml` has them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{OutlierDetection, RateLimitPolicy, ServiceRoute};

/// All of them, in the order of the docs.
///
/// # Errors
/// None in a build whose tests pass: the definition that kube derives does not go through JSON.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [ServiceRoute::crd(), OutlierDetection::crd(), RateLimitPolicy::crd()].into_iter().map(tidy).collect()
}

/// The files of `generated/`: name and content.
///
/// # Errors
/// As [`all`], and when the YAML writer fails.
pub fn files() -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    all()?
        .into_iter()
        .map(|definition| {
            let name = format!("{}.yaml", definition.spec.names.plural);
            let text = serde_saphyr::to_string(&definition)?;
            Ok((name, format!("# Generated from crds/src: change it there, then run `make generate`.\n{text}")))
        })
        .collect()
}

/// Takes out what kube's derive leaves in and the API server has no use for: `nullable` (an explicit null
/// then means "not set", as in every built-in kind) and the formats of Rust's unsigned integers.
fn tidy(definition: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(definition)?;
    if let Some(versions) = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        versions.iter_mut().filter_map(|version| version.get_mut("schema")).for_each(tidy_schema);
    }
    serde_json::from_value(value)
}

/// One schema and all within it.
fn tidy_schema(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("nullable") == Some(&Value::Bool(true)) {
                map.remove("nullable");
            }
            let foreign = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
            if map.get("format").is_some_and(foreign) {
                map.remove("format");
            }
            map.values_mut().for_each(tidy_schema);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy_schema),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
