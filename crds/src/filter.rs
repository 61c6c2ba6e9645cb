//! What is done to a request or its answer: HTTPRoute's `filters`, and DirectResponse.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// One change; `type` says which of the other fields holds it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(self.type == 'RequestHeaderModifier') == has(self.requestHeaderModifier)",
    "type RequestHeaderModifier and the field requestHeaderModifier belong together: write both or neither"
))]
#[x_kube(validation = (
    "(self.type == 'ResponseHeaderModifier') == has(self.responseHeaderModifier)",
    "type ResponseHeaderModifier and the field responseHeaderModifier belong together: write both or neither"
))]
#[x_kube(validation = (
    "(self.type == 'URLRewrite') == has(self.urlRewrite)",
    "type URLRewrite and the field urlRewrite belong together: write both or neither"
))]
#[x_kube(validation = (
    "(self.type == 'RequestRedirect') == has(self.requestRedirect)",
    "type RequestRedirect and the field requestRedirect belong together: write both or neither"
))]
#[x_kube(validation = (
    "(self.type == 'DirectResponse') == has(self.directResponse)",
    "type DirectResponse and the field directResponse belong together: write both or neither"
))]
pub struct Filter {
    /// RequestHeaderModifier: change the request's headers. ResponseHeaderModifier: change the answer's
    /// headers. URLRewrite: change path or host before the request is sent on. RequestRedirect: answer
    /// with a redirect. DirectResponse: answer at once. Each type stands at most once in a rule.
    #[serde(rename = "type")]
    pub kind: FilterType,
    /// For type RequestHeaderModifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For type ResponseHeaderModifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// For type URLRewrite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// For type RequestRedirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// For type DirectResponse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
}

/// Which change a filter makes.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
pub enum FilterType {
    /// Change the request's headers.
    RequestHeaderModifier,
    /// Change the answer's headers.
    ResponseHeaderModifier,
    /// Change path or host.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Answer with a redirect.
    RequestRedirect,
    /// Answer at once.
    DirectResponse,
}

/// What the schema allows of a [`Filter`] on one backend; `type` says which of the other fields holds it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(self.type == 'RequestHeaderModifier') == has(self.requestHeaderModifier)",
    "type RequestHeaderModifier and the field requestHeaderModifier belong together: write both or neither"
))]
#[x_kube(validation = (
    "(self.type == 'ResponseHeaderModifier') == has(self.responseHeaderModifier)",
    "type ResponseHeaderModifier and the field responseHeaderModifier belong together: write both or neither"
))]
pub struct BackendFilter {
    /// RequestHeaderModifier: change the request's headers. ResponseHeaderModifier: change the answer's
    /// headers. The other filters stand in the rule.
    #[serde(rename = "type")]
    pub kind: BackendFilterType,
    /// For type RequestHeaderModifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For type ResponseHeaderModifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
}

/// Which change a filter of a backend makes.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
pub enum BackendFilterType {
    /// Change the request's headers.
    RequestHeaderModifier,
    /// Change the answer's headers.
    ResponseHeaderModifier,
}

/// Changes to headers, in this order: remove, set, add. Header names are compared in any case.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct HeaderModifier {
    /// Headers that get this value alone, whatever was there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub set: Vec<Header>,
    /// Headers that get this value beside what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub add: Vec<Header>,
    /// Names of headers that are taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::removed_headers")]
    pub remove: Vec<String>,
}

/// A header to write.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Name of the header. Not host, nor one that belongs to the connection (content-length,
    /// transfer-encoding, connection, ...).
    #[schemars(schema_with = "schema::changeable_header_name")]
    pub name: String,
    /// Value, taken as it is: visible ASCII characters, spaces and tabs within. At most 4096 characters.
    #[schemars(schema_with = "schema::header_value")]
    pub value: String,
}

/// Path or host as the backend gets them.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.hostname) || has(self.path)", "a rewrite changes something: write hostname or path"))]
pub struct UrlRewrite {
    /// Host that the backend sees. Default: the request's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hostname")]
    pub hostname: Option<String>,
    /// Path that the backend sees. Default: the request's own. The query stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A new path; `type` says which of the other fields holds it.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(self.type == 'ReplaceFullPath') == has(self.replaceFullPath)",
    "type ReplaceFullPath and the field replaceFullPath belong together: write both or neither"
))]
#[x_kube(validation = (
    "(self.type == 'ReplacePrefixMatch') == has(self.replacePrefixMatch)",
    "type ReplacePrefixMatch and the field replacePrefixMatch belong together: write both or neither"
))]
pub struct PathModifier {
    /// ReplaceFullPath: the whole path. ReplacePrefixMatch: the part that the rule's PathPrefix matched.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// For type ReplaceFullPath: the new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::path")]
    pub replace_full_path: Option<String>,
    /// For type ReplacePrefixMatch: what takes the place of the matched prefix. With prefix /v2 and / here,
    /// /v2/x becomes /x and /v2 becomes /. There is never a double slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::path")]
    pub replace_prefix_match: Option<String>,
}

/// Which part of the path is replaced.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[schemars(inline)]
pub enum PathModifierType {
    /// The whole path.
    ReplaceFullPath,
    /// The part that PathPrefix matched.
    ReplacePrefixMatch,
}

/// A redirect as the answer. What is not set is taken from the request.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.scheme) || has(self.hostname) || has(self.path) || has(self.port)",
    "a redirect to where the request came from never ends: write scheme, hostname, port or path"
))]
pub struct RequestRedirect {
    /// Scheme of the new address: http or https. Default: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::choice::<Scheme>")]
    pub scheme: Option<Scheme>,
    /// Host of the new address. Default: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::hostname")]
    pub hostname: Option<String>,
    /// Path of the new address. Default: the request's. The query stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// Port of the new address. Default: the well-known port of scheme when that is set, else the
    /// request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Status of the answer: 301, 302, 303, 307 or 308. Default: 302.
    #[serde(default = "found")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub status_code: u16,
}

/// Default status of a redirect.
fn found() -> u16 {
    302
}

/// Scheme of a redirect.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Scheme {
    /// http.
    Http,
    /// https.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// An answer that no backend gives.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!(self.status in [204, 205, 304]) || !has(self.body) || self.body == ''",
    "an answer with status 204, 205 or 304 has no body: remove body, or choose another status"
))]
pub struct DirectResponse {
    /// Status of the answer, 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Body of the answer. Default: empty. At most 16384 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::body")]
    pub body: String,
    /// Headers of the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<Header>,
}
