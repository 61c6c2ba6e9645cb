//! What Envoy has no field for: `metadata.filter_metadata["fairlead.dev"]`.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Number};

use super::Rejection;

/// The key of our metadata.
pub const KEY: &str = "fairlead.dev";

/// Our metadata as `T`; none when there is none.
pub(super) fn ours<T: DeserializeOwned>(metadata: Option<Metadata>) -> Result<Option<T>, Rejection> {
    let Some(ours) = metadata.and_then(|mut metadata| metadata.filter_metadata.remove(KEY)) else {
        return Ok(None);
    };
    match serde_json::from_value(serde_json::Value::Object(object(ours))) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(Rejection::new(error.to_string()).within(format_args!("metadata {KEY}"))),
    }
}

fn object(fields: Struct) -> Map<String, serde_json::Value> {
    fields.fields.into_iter().map(|(name, field)| (name, json(field))).collect()
}

fn json(value: Value) -> serde_json::Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StructValue(value)) => serde_json::Value::Object(object(value)),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
    }
}

/// A `Struct` has floating point numbers alone; whole ones become integers again.
fn number(value: f64) -> serde_json::Value {
    /// Above this a floating point number no longer tells integers apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the bounds of an i64")]
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return (value as i64).into();
    }
    Number::from_f64(value).map_or(serde_json::Value::Null, serde_json::Value::Number)
}
