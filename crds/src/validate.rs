//! What the API server would say, where there is none: for a directory of YAML, `fairlead check` and tests.
//!
//! The same steps in the same order, on the same schema:
//!
//! ```text
//! apiVersion, kind -> metadata -> unknown fields -> null = not set, defaults -> types, bounds, patterns
//!                                            -> CEL (not beside a wrong type) -> regular expressions
//! ```
//!
//! Only the last step says more than the API server does: an expression that is too large, or that a sidecar
//! reads differently, is refused here, and in a cluster shows as the condition `Accepted=False, Invalid`.

mod fields;
mod metadata;
mod nearest;

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use kube::core::ObjectMeta;
use kube::core::cel::{self, CompiledSchema, ErrorKind, ValidationError};
use serde_json::Value;

use crate::{API_VERSION, GROUP, OutlierDetection, RateLimitPolicy, ServiceRoute, definition, expression};

/// What is wrong with an object, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, `spec.rules[0].backendRefs[0].weight`.
    pub path: String,
    /// In the words of the API server.
    pub message: String,
}

impl Violation {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return formatter.write_str(&self.message);
        }
        write!(formatter, "{}: {}", self.path, self.message)
    }
}

/// One of our kinds, typed, every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A ServiceRoute.
    ServiceRoute(Box<ServiceRoute>),
    /// An OutlierDetection.
    OutlierDetection(Box<OutlierDetection>),
    /// A RateLimitPolicy.
    RateLimitPolicy(Box<RateLimitPolicy>),
}

impl Object {
    /// `ServiceRoute`, `OutlierDetection` or `RateLimitPolicy`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ServiceRoute(_) => "ServiceRoute",
            Self::OutlierDetection(_) => "OutlierDetection",
            Self::RateLimitPolicy(_) => "RateLimitPolicy",
        }
    }

    /// Name, namespace and the rest.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ServiceRoute(route) => &route.metadata,
            Self::OutlierDetection(policy) => &policy.metadata,
            Self::RateLimitPolicy(policy) => &policy.metadata,
        }
    }
}

/// Whether an object is one of ours to judge: its group is `fairlead.dev`, whatever version and kind it says.
#[must_use]
pub fn is_ours(object: &Value) -> bool {
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    version.split('/').next() == Some(GROUP)
}

/// Everything that is wrong with an object of one of our kinds; empty when the API server would take it (as
/// `kubectl apply` asks for it: unknown fields are refused, not dropped).
#[must_use]
pub fn validate(object: &Value) -> Vec<Violation> {
    match prepare(object) {
        Ok(_) => Vec::new(),
        Err(violations) => violations,
    }
}

/// The typed object, every default filled in.
///
/// # Errors
/// Everything that [`validate`] says about it.
pub fn admit(object: &Value) -> Result<Object, Vec<Violation>> {
    let (kind, value) = prepare(object)?;
    let typed = match kind {
        "ServiceRoute" => serde_json::from_value(value).map(Object::ServiceRoute),
        "OutlierDetection" => serde_json::from_value(value).map(Object::OutlierDetection),
        _ => serde_json::from_value(value).map(Object::RateLimitPolicy),
    };
    typed.map_err(|error| vec![Violation::new("", error.to_string())])
}

/// The kind, and the object as it would be stored, without its status.
fn prepare(object: &Value) -> Result<(&'static str, Value), Vec<Violation>> {
    let kind = Kind::of(object).map_err(|violation| vec![violation])?;
    let mut violations = metadata::check(object);
    violations.extend(fields::unknown(&kind.schema, object));
    let mut stored = object.clone();
    if let Some(map) = stored.as_object_mut() {
        map.remove("status");
    }
    fields::normalize(&kind.schema, &mut stored);
    let stored = cel::apply_defaults(&kind.schema, &stored);
    let faults = fields::check(&kind.schema, &stored);
    let unchecked = faults.iter().any(|fault| fault.blocks);
    violations.extend(faults.into_iter().map(|fault| fault.violation));
    if unchecked {
        violations.push(Violation::new("", UNCHECKED));
    } else {
        violations.extend(kind.rules(&stored));
    }
    if violations.is_empty() {
        violations.extend(expressions(&stored));
    }
    if violations.is_empty() { Ok((kind.name, stored)) } else { Err(violations) }
}

/// The API server evaluates no rule beside a field of the wrong type: neither do we.
const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the \
                         existing errors to complete validation";

/// A definition, ready to be used.
struct Kind {
    name: &'static str,
    schema: Value,
    compiled: CompiledSchema,
    /// The message of each rule, for a rule that fails to evaluate.
    messages: HashMap<String, String>,
}

impl Kind {
    /// By `apiVersion` and `kind`.
    fn of(object: &Value) -> Result<&'static Self, Violation> {
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let unknown = |advice: String| {
            Violation::new("", format!("no matches for kind \"{kind}\" in version \"{version}\": {advice}"))
        };
        if version != API_VERSION {
            return Err(unknown(format!("write apiVersion: {API_VERSION}")));
        }
        let kinds = KINDS.get_or_init(Self::all);
        kinds.iter().find(|known| known.name == kind).ok_or_else(|| {
            unknown(nearest::advice(kind, kinds.iter().map(|known| known.name), "the kinds are"))
        })
    }

    /// The three kinds.
    fn all() -> Vec<Self> {
        let definitions = definition::all().unwrap_or_default();
        let names = ["ServiceRoute", "OutlierDetection", "RateLimitPolicy"];
        names
            .into_iter()
            .filter_map(|name| {
                let definition = definitions.iter().find(|one| one.spec.names.kind == name)?;
                let version = definition.spec.versions.first()?;
                let schema = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
                let schema = serde_json::to_value(schema).ok()?;
                let compiled = cel::compile_schema(&schema);
                let mut messages = HashMap::new();
                collect_messages(&schema, &mut messages);
                Some(Self { name, schema, compiled, messages })
            })
            .collect()
    }

    /// What the CEL rules say.
    fn rules(&self, object: &Value) -> Vec<Violation> {
        let Err(errors) = cel::validate_compiled(&self.compiled, object, None) else { return Vec::new() };
        errors.into_iter().map(|error| self.violation(error)).collect()
    }

    /// A rule that fails says its message; one that cannot be evaluated (an expression that does not
    /// compile) says why, too.
    fn violation(&self, error: ValidationError) -> Violation {
        let message = match (&error.kind, self.messages.get(&error.rule)) {
            (ErrorKind::EvaluationError, Some(message)) => {
                let reason = error.message.lines().last().unwrap_or_default();
                let reason = reason.trim_start_matches("error: ");
                format!("Invalid value: {reason} evaluating rule: {message}")
            }
            _ => format!("Invalid value: {}", error.message),
        };
        Violation::new(error.field_path, message)
    }
}

/// Made at the first use: deriving schemas and compiling rules takes some milliseconds.
static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();

/// The messages of all rules in a schema.
fn collect_messages(schema: &Value, messages: &mut HashMap<String, String>) {
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| rule.get(field).and_then(Value::as_str);
        if let (Some(rule), Some(message)) = (text("rule"), text("message")) {
            messages.insert(rule.to_owned(), message.to_owned());
        }
    }
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    for child in properties.map(|(_, child)| child).chain(schema.get("items")) {
        collect_messages(child, messages);
    }
}

/// What a sidecar could not use: every `value` beside `type: RegularExpression`.
fn expressions(object: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    fields::walk(object, "", &mut |path, value| {
        if value.get("type").and_then(Value::as_str) == Some("RegularExpression")
            && let Some(text) = value.get("value").and_then(Value::as_str)
            && let Err(error) = expression::check(text)
        {
            violations.push(Violation::new(format!("{path}.value"), format!("Invalid value: {error}")));
        }
    });
    violations
}

#[cfg(test)]
mod tests;
