//! The request target: what was asked for, in one form.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Method, Uri};

use super::Refusal;
use super::fields::{self, Fields};

/// Brings the target into origin form (or `*`). In absolute form the authority replaces the Host
/// (RFC 9112, 3.2.2); authority form belongs to CONNECT.
pub(super) fn resolve(
    method: &Method,
    target: &str,
    block: &Bytes,
    fields: &mut Fields,
    http_10: bool,
) -> Result<Uri, Refusal> {
    if !fields.has_host && !http_10 {
        return Err(Refusal::bad("no Host"));
    }
    if target.contains('#') {
        return Err(Refusal::bad("fragment in the request target"));
    }
    if *method == Method::CONNECT {
        return Ok(Uri::default());
    }
    if target.starts_with('/') {
        return Uri::from_maybe_shared(block.slice_ref(target.as_bytes())).or_else(|_| escaped(target));
    }
    if target == "*" {
        return if *method == Method::OPTIONS {
            Ok(asterisk())
        } else {
            Err(Refusal::bad("`*` is for OPTIONS"))
        };
    }
    absolute(method, target, fields)
}

fn absolute(method: &Method, target: &str, fields: &mut Fields) -> Result<Uri, Refusal> {
    let Some((scheme, rest)) = target.split_once("://") else { return Err(malformed()) };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Refusal::bad("unknown scheme in the request target"));
    }
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    if authority.is_empty() || !authority.bytes().all(fields::is_host_byte) {
        return Err(Refusal::bad("malformed authority in the request target"));
    }
    fields.headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| malformed())?);
    match path {
        "" if *method == Method::OPTIONS => Ok(asterisk()),
        "" => Ok(Uri::from_static("/")),
        path if path.starts_with('/') => Uri::try_from(path).or_else(|_| escaped(path)),
        query => Uri::try_from(format!("/{query}")).or_else(|_| escaped(&format!("/{query}"))),
    }
}

/// A target with characters that RFC 3986 has nowhere and some callers send all the same (`?query=up{job="x"}`):
/// percent-encoded, they mean what they meant.
fn escaped(target: &str) -> Result<Uri, Refusal> {
    let mut escaped = String::with_capacity(target.len() + 16);
    for byte in target.bytes() {
        match byte {
            b'"' | b'<' | b'>' | b'`' | b'\\' | b'^' | b'{' | b'|' | b'}' | 0x80.. => {
                let _ = write!(escaped, "%{byte:02X}"); // Cannot fail.
            }
            _ => escaped.push(char::from(byte)),
        }
    }
    Uri::try_from(escaped).map_err(|_| malformed())
}

fn asterisk() -> Uri {
    Uri::from_static("*")
}

fn malformed() -> Refusal {
    Refusal::bad("malformed request target")
}
