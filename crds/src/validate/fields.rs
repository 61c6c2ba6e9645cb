//! Fields against the schema: which are unknown, of the wrong type, out of bounds; in the API server's words.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::Mutex;

use regex::Regex;
use serde_json::{Map, Value};

use super::{Violation, nearest};
use crate::duration;

/// A violation, and whether rules are evaluated beside it.
pub struct Fault {
    pub violation: Violation,
    /// CEL is typed: beside a wrong type, a missing field or too many items no rule is evaluated.
    pub blocks: bool,
}

/// Calls `visit` for an object and all that it holds.
pub fn walk(value: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(map) => map.iter().for_each(|(name, child)| walk(child, &join(path, name), visit)),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, child)| walk(child, &format!("{path}[{index}]"), visit));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Fields that the schema does not have, each with the name that was probably meant.
pub fn unknown(schema: &Value, object: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    unknown_at(schema, object, "", &mut violations);
    violations
}

fn unknown_at(schema: &Value, value: &Value, path: &str, violations: &mut Vec<Violation>) {
    match value {
        Value::Object(map) => {
            // A schema without properties is somebody else's: metadata.
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
            for (name, child) in map {
                let path = join(path, name);
                if let Some(schema) = properties.get(name) {
                    unknown_at(schema, child, &path, violations);
                } else if !(is_root(&path) && ROOT.contains(&name.as_str())) {
                    let known = properties.keys().map(String::as_str);
                    let advice = nearest::advice(name, known, "known are");
                    let message = format!("unknown field \"{path}\", {advice}");
                    violations.push(Violation::new(path, message));
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, child) in items.iter().enumerate() {
                unknown_at(schema, child, &format!("{path}[{index}]"), violations);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What every object has, in the schema or not.
const ROOT: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Whether a path is one step long.
fn is_root(path: &str) -> bool {
    !path.contains(['.', '['])
}

/// As the API server stores it: a null field is not set, and 10.0 is 10 where an integer is wanted.
pub fn normalize(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
            map.retain(|name, child| !(child.is_null() && properties.contains_key(name)));
            for (name, child) in map {
                if let Some(schema) = properties.get(name) {
                    normalize(schema, child);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| normalize(schema, item));
            }
        }
        Value::Number(number) => {
            let wanted = schema.get("type").and_then(Value::as_str) == Some("integer");
            if wanted && let Some(whole) = number.as_f64().and_then(whole) {
                *value = whole.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// A float that is an integer, as far as floats can tell integers apart.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    #[allow(clippy::cast_possible_truncation)] // Within 2^53, without a fraction.
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

/// Types, bounds and patterns.
pub fn check(schema: &Value, value: &Value) -> Vec<Fault> {
    let mut checker = Checker { faults: Vec::new() };
    checker.check(schema, value, "");
    checker.faults
}

struct Checker {
    faults: Vec<Fault>,
}

impl Checker {
    /// One value and all within it.
    fn check(&mut self, schema: &Value, value: &Value, path: &str) {
        let has_type = self.has_type(schema, value, path);
        self.one_of(schema, value, path);
        if !has_type {
            return;
        }
        match value {
            Value::Object(map) => self.object(schema, map, path),
            Value::Array(items) => self.array(schema, items, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
                if let Some(minimum) = bound("minimum").filter(|minimum| number < *minimum) {
                    let what = format!("should be greater than or equal to {minimum}");
                    self.in_body(path, &number.to_string(), &what, false);
                }
                if let Some(maximum) = bound("maximum").filter(|maximum| number > *maximum) {
                    let what = format!("should be less than or equal to {maximum}");
                    self.in_body(path, &number.to_string(), &what, false);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// `must be of type string: "integer"`, and what the API server leaves to the reader: what to write.
    fn has_type(&mut self, schema: &Value, value: &Value, path: &str) -> bool {
        let Some(wanted) = schema.get("type").and_then(Value::as_str) else { return true };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        if wanted == found {
            return true;
        }
        let mut what = format!("must be of type {wanted}: \"{found}\"");
        if wanted == "string" && schema.get("enum").is_none() {
            let is_duration = schema.get("pattern").and_then(Value::as_str) == Some(duration::PATTERN);
            match value {
                Value::Number(number) if is_duration => {
                    what.push_str(&format!(": {}", duration::advice(&number.to_string())));
                }
                Value::Number(_) | Value::Bool(_) => {
                    what.push_str(&format!(": write \"{value}\", in quotes"));
                }
                _ => {}
            }
        }
        let fields = schema.get("properties").and_then(Value::as_object).filter(|fields| !fields.is_empty());
        match (wanted, value, fields) {
            ("object", _, Some(fields)) => {
                let fields: Vec<&str> = fields.keys().map(String::as_str).collect();
                what.push_str(&format!(": write its fields, of which there are {}", fields.join(", ")));
            }
            ("array", ..) => what.push_str(": write a list, each item after a dash or all in [ ]"),
            ("integer", Value::String(text), _) if text.parse::<i64>().is_ok() => {
                what.push_str(&format!(": write {text}, without quotes"));
            }
            ("integer", ..) => what.push_str(": write a whole number"),
            _ => {}
        }
        self.in_body(path, &format!("\"{found}\""), &what, true);
        false
    }

    /// `enum`.
    fn one_of(&mut self, schema: &Value, value: &Value, path: &str) {
        let Some(allowed) = schema.get("enum").and_then(Value::as_array) else { return };
        if !allowed.contains(value) {
            let allowed: Vec<String> = allowed.iter().map(quoted).collect();
            let message = format!("Unsupported value: {value}: supported values: {}", allowed.join(", "));
            self.fault(path, message, true);
        }
    }

    fn object(&mut self, schema: &Value, map: &Map<String, Value>, path: &str) {
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if let Some(name) = name.as_str().filter(|name| !map.contains_key(*name)) {
                self.fault(&join(path, name), "Required value".to_owned(), true);
            }
        }
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        for (name, child) in map {
            if let Some(schema) = properties.get(name) {
                self.check(schema, child, &join(path, name));
            }
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        let bound =
            |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let count = items.len();
        if let Some(minimum) = bound("minItems").filter(|minimum| count < *minimum) {
            self.in_body(path, &count.to_string(), &format!("should have at least {minimum} items"), false);
        }
        if let Some(maximum) = bound("maxItems").filter(|maximum| count > *maximum) {
            self.fault(path, format!("Too many: {count}: must have at most {maximum} items"), true);
            return;
        }
        self.unique(schema, items, path);
        let Some(schema) = schema.get("items") else { return };
        for (index, item) in items.iter().enumerate() {
            self.check(schema, item, &format!("{path}[{index}]"));
        }
    }

    /// `x-kubernetes-list-type`.
    fn unique(&mut self, schema: &Value, items: &[Value], path: &str) {
        let kind = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
        let keys: Vec<&str> = match kind {
            Some("set") => Vec::new(),
            Some("map") => {
                let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                keys.into_iter().flatten().filter_map(Value::as_str).collect()
            }
            _ => return,
        };
        let identity = |item: &Value| -> Value {
            if keys.is_empty() {
                return item.clone();
            }
            keys.iter().filter_map(|key| Some(((*key).to_owned(), item.get(*key)?.clone()))).collect()
        };
        let mut seen: Vec<Value> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let identity = identity(item);
            if seen.contains(&identity) {
                self.fault(&format!("{path}[{index}]"), format!("Duplicate value: {identity}"), false);
            }
            seen.push(identity);
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        let bound =
            |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let length = text.chars().count();
        if let Some(minimum) = bound("minLength").filter(|minimum| length < *minimum) {
            self.in_body(
                path,
                &format!("{text:?}"),
                &format!("should be at least {minimum} chars long"),
                false,
            );
            return;
        }
        if let Some(maximum) = bound("maxLength").filter(|maximum| length > *maximum) {
            self.fault(path, format!("Too long: may not be more than {maximum} bytes"), true);
            return;
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && !matches(pattern, text)
        {
            self.in_body(path, &format!("{text:?}"), &format!("should match '{pattern}'"), false);
        }
    }

    /// `Invalid value: -1: spec.x in body should be ...`
    fn in_body(&mut self, path: &str, value: &str, what: &str, blocks: bool) {
        self.fault(path, format!("Invalid value: {value}: {path} in body {what}"), blocks);
    }

    fn fault(&mut self, path: &str, message: String, blocks: bool) {
        self.faults.push(Fault { violation: Violation::new(path, message), blocks });
    }
}

/// Whether a text matches a pattern of the schema; each is compiled once.
fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let expression = compiled.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
    expression.as_ref().is_none_or(|expression| expression.is_match(text))
}

/// As Go writes it: strings in quotes, numbers bare in quotes too.
fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => format!("\"{other}\""),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
