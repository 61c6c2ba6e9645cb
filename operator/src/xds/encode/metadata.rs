//! `metadata.filter_metadata["fairlead.dev"]`: what Envoy has no field for.
//!
//! `google.protobuf.Struct` is generated with a `HashMap`, which is written in another order each time. Here
//! are the same messages with ordered maps; the bytes are the same as far as a reader can tell.

use std::collections::BTreeMap;

use prost::{Message, Oneof};
use serde_json::Value as Json;

use crate::xds::resource::METADATA;

/// `envoy.config.core.v3.Metadata`.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, Struct>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Flag(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(List),
}

impl Metadata {
    /// Our metadata with these fields.
    pub fn new(fields: impl IntoIterator<Item = (&'static str, Json)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Self { filter_metadata: BTreeMap::from([(METADATA.to_owned(), Struct { fields })]) }
    }
}

impl From<Json> for Value {
    fn from(value: Json) -> Self {
        let kind = match value {
            Json::Null => Kind::Null(0),
            Json::Bool(flag) => Kind::Flag(flag),
            // Every number here is far below 2^53.
            Json::Number(number) => Kind::Number(number.as_f64().unwrap_or_default()),
            Json::String(text) => Kind::Text(text),
            Json::Array(values) => Kind::List(List { values: values.into_iter().map(Into::into).collect() }),
            Json::Object(fields) => Kind::Struct(Struct {
                fields: fields.into_iter().map(|(name, value)| (name, value.into())).collect(),
            }),
        };
        Self { kind: Some(kind) }
    }
}
