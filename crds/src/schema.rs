//! Schemas of the strings that occur in several places, each bounded: the API server estimates what a CEL
//! rule may cost from these bounds, and refuses a definition that could cost too much.

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// The longest name of an object (RFC 1123 subdomain).
const NAME_MAX: u32 = 253;
/// The longest label: a namespace, a rule, a port.
const LABEL_MAX: u32 = 63;
/// The longest header or query parameter name.
const TOKEN_MAX: u32 = 128;
/// The longest path, or expression for paths.
const PATH_MAX: u32 = 1024;
/// The longest value, or expression for values, of a header or query parameter to compare with.
const VALUE_MAX: u32 = 512;
/// The longest header value to set.
const HEADER_VALUE_MAX: u32 = 4096;
/// The longest body of an answer of our own, in characters.
pub const BODY_MAX: u32 = 16384;

/// RFC 1123 label.
pub const LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// RFC 1123 subdomain.
pub const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// RFC 3986 path of unreserved, sub-delims, `:`, `@` and percent-encoded characters.
const PATH_PATTERN: &str = "^/([-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*$";

/// The CEL expression that holds for a path that may stand in a match or a rewrite.
pub fn is_path(field: &str) -> String {
    let pattern = PATH_PATTERN.replace('\'', r"\'");
    format!("{field}.matches('{pattern}')")
}

/// The name of an object.
pub fn object_name(_: &mut SchemaGenerator) -> Schema {
    text(1, NAME_MAX, Some(NAME_PATTERN), &[])
}

/// An API group; the empty string is the core group.
pub fn group(_: &mut SchemaGenerator) -> Schema {
    text(0, NAME_MAX, None, &[])
}

/// A namespace.
pub fn namespace(_: &mut SchemaGenerator) -> Schema {
    text(1, LABEL_MAX, Some(LABEL_PATTERN), &[])
}

/// The name of a rule, a limit or a port.
pub fn label(_: &mut SchemaGenerator) -> Schema {
    text(1, LABEL_MAX, Some(LABEL_PATTERN), &[])
}

/// The name of a rule: a label that an unnamed rule cannot have.
pub fn rule_name(_: &mut SchemaGenerator) -> Schema {
    text(
        1,
        LABEL_MAX,
        Some(LABEL_PATTERN),
        &[(
            "!self.matches('^rule-[0-9]+$')",
            "rule-N is what an unnamed rule is called: choose another name",
        )],
    )
}

/// A host name without port, lower case.
pub fn hostname(_: &mut SchemaGenerator) -> Schema {
    text(1, NAME_MAX, Some(NAME_PATTERN), &[])
}

/// The name of a header to compare with.
pub fn header_name(_: &mut SchemaGenerator) -> Schema {
    text(
        1,
        TOKEN_MAX,
        None,
        &[(&is_header_name("self"), HEADER_NAME_MESSAGE), (&is_not_ours("self"), NOT_OURS_MESSAGE)],
    )
}

/// The name of a header to change: not one that frames the message or is Fairlead's own.
pub fn changeable_header_name(_: &mut SchemaGenerator) -> Schema {
    text(1, TOKEN_MAX, None, &[(&is_header_name("self"), HEADER_NAME_MESSAGE), NOT_HOST, NOT_FRAMING])
}

/// The names of headers to remove.
pub fn removed_headers(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": changeable_header_name(generator),
        "x-kubernetes-list-type": "set",
    })
}

/// The CEL expression that holds for the name of a header (RFC 9110 token).
pub fn is_header_name(field: &str) -> String {
    format!("{field}.matches('^[-A-Za-z0-9!#$%&*+.^_`|~]+$')")
}

/// What [`is_header_name`] asks for.
pub const HEADER_NAME_MESSAGE: &str =
    "a header name has letters, digits and - _ . ! # $ % & * + ^ ` | ~ only: no colon, no space";

/// What sidecars say to each other never reaches a rule: CEL for one that is compared.
pub fn is_not_ours(field: &str) -> String {
    format!("!{field}.lowerAscii().startsWith('x-fairlead-')")
}

/// What [`is_not_ours`] asks for.
pub const NOT_OURS_MESSAGE: &str =
    "headers that begin with x-fairlead- are what sidecars say to each other: name another header";

/// The authority has a filter of its own.
const NOT_HOST: (&str, &str) =
    ("self.lowerAscii() != 'host'", "host is not changed as a header: write urlRewrite.hostname");
/// Changing these would change where the message ends, or what the sidecars tell one another.
const NOT_FRAMING: (&str, &str) = (
    "!(self.lowerAscii() in ['connection', 'content-length', 'keep-alive', 'proxy-connection', 'te', 'trailer', \
     'transfer-encoding', 'upgrade']) && !self.lowerAscii().startsWith('x-fairlead-')",
    "this header belongs to the connection or to Fairlead and cannot be changed: remove it here",
);

/// The name of a query parameter.
pub fn query_name(_: &mut SchemaGenerator) -> Schema {
    text(1, TOKEN_MAX, None, &[])
}

/// The name of a header or of a query parameter.
pub fn key_name(_: &mut SchemaGenerator) -> Schema {
    text(1, TOKEN_MAX, None, &[])
}

/// A value to compare with.
pub fn match_value(_: &mut SchemaGenerator) -> Schema {
    text(1, VALUE_MAX, None, &[])
}

/// A path or an expression for paths; what it may contain depends on the type of the match.
pub fn path_value(_: &mut SchemaGenerator) -> Schema {
    let mut schema = text(1, PATH_MAX, None, &[]);
    schema.insert("default".into(), "/".into());
    schema
}

/// A path to write.
pub fn path(_: &mut SchemaGenerator) -> Schema {
    let rule = is_path("self");
    text(1, PATH_MAX, None, &[(rule.as_str(), PATH_MESSAGE)])
}

/// What [`is_path`] asks for.
pub const PATH_MESSAGE: &str =
    "a path begins with / and has no space, ? or # (what else is special is percent-encoded, as %20)";

/// The value of a header to set: visible ASCII, spaces and tabs within.
pub fn header_value(_: &mut SchemaGenerator) -> Schema {
    text(1, HEADER_VALUE_MAX, Some("^[!-~]([\t -~]*[!-~])?$"), &[])
}

/// The body of an answer.
pub fn body(_: &mut SchemaGenerator) -> Schema {
    text(0, BODY_MAX, None, &[])
}

/// One of several words, in a field that may be left out: of an `Option` of an enumeration `kubectl explain`
/// would show the enumeration's text in place of the field's.
pub fn choice<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// A bounded string with what else it must hold.
fn text(min: u32, max: u32, pattern: Option<&str>, rules: &[(&str, &str)]) -> Schema {
    let mut schema = json_schema!({"type": "string", "maxLength": max});
    if min > 0 {
        schema.insert("minLength".into(), min.into());
    }
    if let Some(pattern) = pattern {
        schema.insert("pattern".into(), pattern.into());
    }
    if !rules.is_empty() {
        schema.insert("x-kubernetes-validations".into(), rules_json(rules));
    }
    schema
}

/// As `x-kubernetes-validations` has them.
fn rules_json(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|rule| json!(Rule::from(*rule))).collect()
}
