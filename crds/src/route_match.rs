//! What a request must look like: HTTPRoute's `matches`, for routes and limits alike.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{expression, schema};

/// All that it says must hold. What it leaves out holds for every request.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// The path of the request, without the query. Default: every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Headers that the request must have; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that the request must have; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub query_params: Vec<QueryParamMatch>,
    /// Method of the request, in capitals. Default: every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<HttpMethod>")]
    pub method: Option<HttpMethod>,
}

/// How the path is compared.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = plain_path())]
#[x_kube(validation = (
    "self.type == 'RegularExpression' || !self.value.contains('//')",
    "a path to compare with has no //: write one slash"
))]
#[x_kube(validation = (
    "self.type == 'RegularExpression' || !self.value.matches('/[.][.]?(/|$)')",
    "a path to compare with has no . or .. segment: write the path that they lead to"
))]
#[x_kube(validation = expression::compiles())]
#[x_kube(validation = expression::portable())]
pub struct PathMatch {
    /// Exact: equal, case-sensitive. PathPrefix (the default): equal, or continued after a slash; /v2 holds
    /// for /v2 and /v2/x, not for /v2x; a slash at its end makes no difference. RegularExpression: the
    /// whole path matches.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// The path, or the expression (RE2 syntax, matched against the whole path). Default: /.
    #[serde(default = "root")]
    #[schemars(schema_with = "schema::path_value")]
    pub value: String,
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> Self {
        Self { kind: PathMatchType::default(), value: root() }
    }
}

/// The default path.
fn root() -> String {
    "/".to_owned()
}

/// An Exact or PathPrefix value is a path.
fn plain_path() -> Rule {
    let is_path = schema::is_path("self.value");
    Rule::new(format!("self.type == 'RegularExpression' || {is_path}")).message(schema::PATH_MESSAGE)
}

/// How a path is compared.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[schemars(inline)]
pub enum PathMatchType {
    /// Equal.
    Exact,
    /// Equal, or continued after a slash.
    #[default]
    PathPrefix,
    /// The whole path matches.
    RegularExpression,
}

/// A header that the request must have.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = expression::compiles())]
#[x_kube(validation = expression::portable())]
pub struct HeaderMatch {
    /// Exact (the default): equal, case-sensitive. RegularExpression: the whole value matches.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    /// Name of the header, in any case.
    #[schemars(schema_with = "schema::header_name")]
    pub name: String,
    /// The value, or the expression (RE2 syntax). A header that stands several times is compared as one,
    /// its values joined by commas.
    #[schemars(schema_with = "schema::match_value")]
    pub value: String,
}

/// A query parameter that the request must have.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = expression::compiles())]
#[x_kube(validation = expression::portable())]
pub struct QueryParamMatch {
    /// Exact (the default): equal, case-sensitive. RegularExpression: the whole value matches.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    /// Name of the parameter, case-sensitive.
    #[schemars(schema_with = "schema::query_name")]
    pub name: String,
    /// The value, or the expression (RE2 syntax). Of a parameter that stands several times, the first
    /// counts.
    #[schemars(schema_with = "schema::match_value")]
    pub value: String,
}

/// How a value is compared.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[schemars(inline)]
pub enum ValueMatchType {
    /// Equal.
    #[default]
    Exact,
    /// The whole value matches.
    RegularExpression,
}

/// A method of HTTP (RFC 9110, RFC 5789); CONNECT is never routed.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub enum HttpMethod {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// TRACE.
    Trace,
    /// PATCH.
    Patch,
}

impl HttpMethod {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}
