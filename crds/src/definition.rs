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
            Ok((
                name,
                format!("# Generated from crds/src: change it there, then run `make generate`.\n{text}"),
            ))
        })
        .collect()
}

/// The same file as the Helm chart has it: `helm uninstall` keeps the definition, for with it every object of
/// the kind would go.
#[must_use]
pub fn for_chart(text: &str) -> String {
    text.replacen("metadata:\n", "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n", 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_current() {
        let files = files().unwrap();
        let for_chart: Vec<_> =
            files.iter().map(|(name, text)| (name.clone(), super::for_chart(text))).collect();
        for (folder, files) in [("generated", files), ("../charts/fairlead/files/crds", for_chart)] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            for (name, text) in &files {
                let committed = std::fs::read_to_string(path.join(name)).unwrap_or_default();
                assert!(committed == *text, "{folder}/{name} is not what the types say: run `make generate`");
            }
            assert_eq!(std::fs::read_dir(path).unwrap().count(), files.len(), "a file too many in {folder}");
        }
    }

    #[test]
    fn uninstalling_the_chart_keeps_the_definitions() {
        for (name, text) in files().unwrap() {
            let definition: serde_json::Value = serde_saphyr::from_str(&super::for_chart(&text)).unwrap();
            let kept = &definition["metadata"]["annotations"]["helm.sh/resource-policy"];
            assert_eq!(kept, "keep", "{name}");
        }
    }

    #[test]
    fn every_field_is_explained_and_bounded() {
        for definition in all().unwrap() {
            let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
            let schema = &schema["openAPIV3Schema"]["properties"];
            for part in ["spec", "status"] {
                let path = format!("{} {part}", definition.spec.names.kind);
                explained(&schema[part], &path, false);
            }
        }
    }

    /// What `kubectl explain` shows, and what the API server needs to estimate the cost of rules.
    fn explained(schema: &Value, path: &str, item: bool) {
        assert!(item || schema["description"].is_string(), "{path} has no description");
        match schema["type"].as_str() {
            Some("string") => {
                let bounded = schema["maxLength"].is_u64() || schema["enum"].is_array();
                assert!(bounded || schema["format"] == "date-time", "{path} has no maxLength");
            }
            Some("array") => {
                assert!(schema["maxItems"].is_u64(), "{path} has no maxItems");
                explained(&schema["items"], &format!("{path}[]"), true);
            }
            Some("integer") => {
                let bounded = schema["minimum"].is_number() && schema["maximum"].is_number();
                assert!(
                    bounded || schema["enum"].is_array() || schema["format"] == "int64",
                    "{path} has no bounds"
                );
            }
            Some("object") => {
                assert!(schema["additionalProperties"].is_null(), "{path} is a map");
                for (name, child) in schema["properties"].as_object().unwrap() {
                    explained(child, &format!("{path}.{name}"), false);
                }
            }
            other => panic!("{path} has type {other:?}"),
        }
    }

    #[test]
    fn a_choice_that_may_be_left_out_is_explained_by_its_field() {
        let definitions = all().unwrap();
        let schema = serde_json::to_value(&definitions[0].spec.versions[0].schema).unwrap();
        let rule =
            &schema["openAPIV3Schema"]["properties"]["spec"]["properties"]["rules"]["items"]["properties"];
        let method = &rule["matches"]["items"]["properties"]["method"];
        assert_eq!(method["description"], "Method of the request, in capitals. Default: every method.");
        assert_eq!(method["enum"].as_array().map(Vec::len), Some(8));
        let filter = &rule["filters"]["items"]["properties"];
        let scheme = &filter["requestRedirect"]["properties"]["scheme"];
        assert_eq!(
            scheme["description"],
            "Scheme of the new address: http or https. Default: the request's."
        );
        assert_eq!(scheme["enum"], serde_json::json!(["http", "https"]));
    }

    #[test]
    fn every_rule_has_a_message() {
        fn messages(value: &Value, count: &mut usize) {
            for rule in value["x-kubernetes-validations"].as_array().into_iter().flatten() {
                assert!(rule["message"].is_string() || rule["messageExpression"].is_string(), "{rule}");
                *count += 1;
            }
            match value {
                Value::Object(map) => map.values().for_each(|child| messages(child, count)),
                Value::Array(items) => items.iter().for_each(|child| messages(child, count)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let mut count = 0;
        for definition in all().unwrap() {
            messages(&serde_json::to_value(definition).unwrap(), &mut count);
        }
        assert!(count > 60, "{count}");
    }
}
