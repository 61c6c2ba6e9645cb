//! `metadata`, and what stands beside `spec`: the API server knows these without a schema of ours.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{Violation, nearest};

/// All fields of `ObjectMeta`.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Unknown fields, a missing or impossible name.
pub fn check(object: &Value) -> Vec<Violation> {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let mut violations = Vec::new();
    for field in metadata.as_object().into_iter().flatten().map(|(name, _)| name) {
        if !FIELDS.contains(&field.as_str()) {
            let advice = nearest::advice(field, FIELDS.into_iter(), "known are");
            let path = format!("metadata.{field}");
            let message = format!("unknown field \"{path}\", {advice}");
            violations.push(Violation::new(path, message));
        }
    }
    match serde_json::from_value::<Option<ObjectMeta>>(metadata.clone()) {
        Err(error) => violations.push(Violation::new("metadata", error.to_string())),
        Ok(metadata) => violations.extend(names(&metadata.unwrap_or_default())),
    }
    violations
}

/// Its name and namespace.
fn names(metadata: &ObjectMeta) -> Option<Violation> {
    let name = metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Some(Violation::new("metadata.name", "Required value: name is required"));
    }
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Some(Violation::new("metadata.name", format!("Invalid value: \"{name}\": {SUBDOMAIN}")));
    }
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    if namespace.len() > 63 || !is_label(namespace) {
        let message = format!("Invalid value: \"{namespace}\": a namespace has a-z, 0-9 and - within only");
        return Some(Violation::new("metadata.namespace", message));
    }
    None
}

/// In the words of the API server.
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character";

/// Lower-case letters, digits and `-`, which stands neither first nor last.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}
