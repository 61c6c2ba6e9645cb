//! The rules about single fields: which frame the message, which are for this hop only, which are refused.
//!
//! Hop-by-hop fields end here (RFC 9110, 7.6.1) and [`crate::http1::encode`] writes our own. Two survive because
//! something needs them end to end: `te: trailers` (gRPC) and `upgrade`, when it was asked for properly. What
//! `Connection` lists is removed too, except fields that only somebody who wants to deceive the next hop would
//! list ([`is_protected`]).

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::Framing;
use super::names::{self, Rule};
use crate::said;

/// Which message the fields belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A request.
    Request {
        /// HTTP/1.0 has no transfer codings, no expectations, no upgrades.
        http_10: bool,
    },
    /// A response.
    Response {
        /// As for a request.
        http_10: bool,
        /// Decides whether `Upgrade` means something.
        status: StatusCode,
    },
}

/// A message's fields, and what those that were removed said.
#[derive(Debug)]
pub struct Fields {
    /// What goes on to the next hop.
    pub headers: HeaderMap,
    /// `Connection: close`.
    pub close: bool,
    /// `Connection: keep-alive`; matters in HTTP/1.0.
    pub keep_alive: bool,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// There is a Host.
    pub has_host: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Fields {
    /// Reads fields; `block` is what they are slices of, `headers` an empty map to fill.
    pub fn read(
        parsed: &[httparse::Header<'_>],
        block: &Bytes,
        side: Side,
        headers: HeaderMap,
    ) -> Result<Self, &'static str> {
        let connection = Connection::read(parsed)?;
        let mut fields = Self {
            headers,
            close: connection.close,
            keep_alive: connection.keep_alive,
            expects_continue: false,
            has_host: false,
            length: None,
            chunked: false,
        };
        let (is_request, http_10, upgrades) = match side {
            Side::Request { http_10 } => (true, http_10, connection.upgrade && !http_10),
            Side::Response { http_10, status } => {
                let switches =
                    status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::UPGRADE_REQUIRED;
                (false, http_10, connection.upgrade && !http_10 && switches)
            }
        };
        for field in parsed {
            let (name, rule) = names::read(field.name.as_bytes()).ok_or("malformed field name")?;
            match rule {
                Rule::Pass => {
                    if connection.lists(&name) {
                        continue;
                    }
                }
                Rule::Drop => continue,
                Rule::Length => fields.content_length(field.value)?,
                Rule::TransferEncoding => {
                    fields.transfer_encoding(field.value, http_10)?;
                    continue;
                }
                Rule::Host if is_request => fields.host(field.value)?,
                Rule::Te if is_request => {
                    if has_token(field.value, b"trailers") {
                        fields.headers.insert(header::TE, HeaderValue::from_static("trailers"));
                    }
                    continue;
                }
                Rule::Te => continue,
                Rule::Upgrade => {
                    if upgrades && let Some(value) = upgrade_without_http(field.value, block) {
                        fields.headers.append(header::UPGRADE, value);
                    }
                    continue;
                }
                Rule::Expect if is_request && field.value.eq_ignore_ascii_case(b"100-continue") => {
                    if http_10 {
                        continue; // RFC 9110, 10.1.1: a 1.0 client cannot understand a 100.
                    }
                    fields.expects_continue = true;
                }
                Rule::Host | Rule::Expect => {}
            }
            let value = HeaderValue::from_maybe_shared(block.slice_ref(field.value))
                .map_err(|_| "malformed field value")?;
            fields.headers.append(name, value);
        }
        Ok(fields)
    }

    /// What follows a request's head (RFC 9112, 6.3).
    pub fn request_framing(&mut self) -> Result<Framing, &'static str> {
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err("Content-Length beside Transfer-Encoding"),
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::None,
        };
        if !matches!(framing, Framing::None | Framing::Length(0)) {
            // An upgrade takes effect after the request: one with a body would need both at once.
            self.headers.remove(header::UPGRADE);
        }
        Ok(framing)
    }

    /// What follows a response's head (RFC 9112, 6.3).
    pub fn response_framing(&self, request: &Method, status: StatusCode) -> Result<Framing, &'static str> {
        if self.chunked && self.length.is_some() {
            return Err("Content-Length beside Transfer-Encoding");
        }
        if request == Method::HEAD || !has_content(status) {
            return Ok(Framing::None);
        }
        Ok(match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Close,
        })
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.length.is_some() {
            return Err("two Content-Lengths");
        }
        self.length = Some(decimal(value).ok_or("malformed Content-Length")?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8], http_10: bool) -> Result<(), &'static str> {
        if http_10 {
            return Err("Transfer-Encoding in HTTP/1.0");
        }
        if self.chunked {
            return Err("two Transfer-Encodings");
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err("unsupported Transfer-Encoding");
        }
        self.chunked = true;
        Ok(())
    }

    fn host(&mut self, value: &[u8]) -> Result<(), &'static str> {
        if self.has_host {
            return Err("two Hosts");
        }
        if !value.iter().all(|byte| is_host_byte(*byte)) {
            return Err("malformed Host");
        }
        self.has_host = true;
        Ok(())
    }
}

/// Whether a field is for one hop only, or frames the message, or cannot come after it: what may neither be
/// taken from the outside nor stand in trailers (RFC 9110, 6.5.1). What sidecars say stands in heads.
pub fn is_never_a_trailer(name: &HeaderName) -> bool {
    !matches!(Rule::of(name), Rule::Pass)
        || said::is_ours(name)
        || matches!(
            name.as_str(),
            "trailer"
                | "authorization"
                | "cookie"
                | "set-cookie"
                | "content-encoding"
                | "content-type"
                | "content-range"
        )
}

/// Bytes of `Connection` fields that name others. Every field is looked up in them, so a long list would cost
/// us much more than its sender.
const MAX_LISTED: usize = 1024;

/// What the `Connection` fields say together.
#[derive(Default)]
struct Connection<'a> {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// The fields that name others; most often none.
    listing: Vec<&'a [u8]>,
}

impl<'a> Connection<'a> {
    fn read(parsed: &[httparse::Header<'a>]) -> Result<Self, &'static str> {
        let (mut connection, mut listed) = (Self::default(), 0);
        for field in parsed.iter().filter(|field| field.name.eq_ignore_ascii_case("connection")) {
            let mut lists = false;
            for token in tokens(field.value) {
                if token.eq_ignore_ascii_case(b"close") {
                    connection.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    connection.keep_alive = true;
                } else if token.eq_ignore_ascii_case(b"upgrade") {
                    connection.upgrade = true;
                } else {
                    lists = true;
                }
            }
            if lists {
                connection.listing.push(field.value);
                listed += field.value.len();
            }
        }
        if listed > MAX_LISTED { Err("Connection lists too much") } else { Ok(connection) }
    }

    fn lists(&self, name: &HeaderName) -> bool {
        self.listing.iter().any(|value| has_token(value, name.as_str().as_bytes())) && !is_protected(name)
    }
}

/// Fields that stay although `Connection` lists them. They are end-to-end by nature: listing one is a known
/// way to make a proxy hide from the next hop who is calling, or what the content is.
fn is_protected(name: &HeaderName) -> bool {
    said::is_ours(name)
        || matches!(
            name.as_str(),
            "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-range"
                | "content-type"
                | "cookie"
                | "forwarded"
                | "idempotency-key"
                | "set-cookie"
                | "traceparent"
                | "trailer"
                | "x-forwarded-for"
                | "x-forwarded-host"
                | "x-forwarded-proto"
                | "x-real-ip"
                | "x-request-id"
        )
}

/// The protocols of an `Upgrade` field that are not HTTP: an upgrade to h2c would carry requests past
/// everything that looks at requests here.
fn upgrade_without_http(value: &[u8], block: &Bytes) -> Option<HeaderValue> {
    if !tokens(value).any(is_http_protocol) {
        return HeaderValue::from_maybe_shared(block.slice_ref(value)).ok();
    }
    let kept: Vec<&[u8]> = tokens(value).filter(|token| !is_http_protocol(token)).collect();
    if kept.is_empty() { None } else { HeaderValue::from_bytes(&kept.join(&b", "[..])).ok() }
}

fn is_http_protocol(token: &[u8]) -> bool {
    let name = token.split(|byte| *byte == b'/').next().unwrap_or_default().trim_ascii();
    [&b"h2c"[..], b"h2", b"h3", b"http"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a response with this status has content at all (RFC 9110, 6.4.1).
pub fn has_content(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// The elements of a comma-separated list.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn has_token(value: &[u8], wanted: &[u8]) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted))
}

/// Digits and nothing else; none when it does not fit.
pub fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// RFC 9110, 5.6.2.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a `Host` is made of (RFC 3986, 3.2.2 and 3.2.3): no user, no path, no list with blanks.
pub fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte)
}
