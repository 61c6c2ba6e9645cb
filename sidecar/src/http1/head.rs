//! Heads: from bytes to `http::Request` and `http::Response`, or a refusal.
//!
//! A head is parsed when all of it is there, so how it was cut on the way cannot matter: [`Scan`] looks for the
//! empty line, from left to right and over each byte once, and meanwhile refuses what no later byte can repair.
//! httparse does the grammar; what it is lenient about (bare LF, leading empty lines, targets) is refused here.
//! The rules about single fields are in [`fields`].

mod target;
pub mod fields;
mod names;

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Version};

use crate::body::Body;
use crate::buffers;
use crate::http1::Limits;
use fields::{Fields, Side};

/// Fields a message may have; Envoy's default.
pub const MAX_FIELDS: usize = 100;

/// No registered method is longer than 17 bytes.
const MAX_METHOD: usize = 64;

/// Empty lines before a request line that are ignored (RFC 9112, 2.2 asks for one).
const MAX_EMPTY_LINES: u8 = 4;

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Refusal {
    /// 400, 408, 414, 431, 501 or 505.
    pub status: StatusCode,
    /// For the log and for the body of the answer.
    pub reason: &'static str,
}

impl Refusal {
    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }

    const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }
}

/// How a message's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// By its length in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection; responses only.
    Close,
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// The head without its hop-by-hop fields. The target is in origin form (or `*`), the Host is the one that counts.
    pub request: Request<Body>,
    /// What follows the head.
    pub framing: Framing,
    /// Whether the caller wants to send another request.
    pub keep_alive: bool,
    /// Whether the caller waits for a 100 before it sends the body.
    pub expects_continue: bool,
}

/// A response's head, interim ones too.
#[derive(Debug)]
pub struct ResponseHead {
    /// The head without its hop-by-hop fields.
    pub response: Response<Body>,
    /// What follows the head.
    pub framing: Framing,
    /// Whether the upstream takes another request afterwards.
    pub keep_alive: bool,
}

/// A reason phrase that is not the usual one of its status; in the extensions of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(pub Bytes);

/// Takes a request's head from the front of `buffer`; None: more bytes are needed.
pub fn request(
    buffer: &mut BytesMut,
    scan: &mut Scan,
    limits: &Limits,
) -> Result<Option<RequestHead>, Refusal> {
    scan.skip_empty_lines(buffer)?;
    let Some(&first) = buffer.first() else { return Ok(None) };
    if first == b'\r' {
        // Half of an empty line, or nonsense: the next byte tells.
        return if buffer.len() < 2 { Ok(None) } else { Err(Refusal::bad("bare CR")) };
    }
    if !fields::is_token_byte(first) {
        return Err(Refusal::bad("not HTTP")); // TLS, for example: no need to wait for a line end.
    }
    let Some(end) = scan.end(buffer, limits).map_err(Broken::refusal)? else { return Ok(None) };
    *scan = Scan::default();
    let block = buffer.split_to(end).freeze();
    parse_request(&block, limits).map(Some)
}

fn parse_request(block: &Bytes, limits: &Limits) -> Result<RequestHead, Refusal> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(block, &mut room) {
        Ok(httparse::Status::Complete(length)) if length == block.len() => {}
        Ok(_) => return Err(Refusal::bad("malformed head")),
        Err(error) => return Err(refusal_of(error, block)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::bad("malformed request line"));
    };
    if method.len() > MAX_METHOD {
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "method too long"));
    }
    if target.len() > limits.target_bytes {
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "request target too long"));
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::bad("malformed method"))?;
    let http_10 = version == 0;
    let (headers, extensions) = buffers::take_maps();
    let mut fields =
        Fields::read(parsed.headers, block, Side::Request { http_10 }, headers).map_err(Refusal::bad)?;
    let framing = fields.request_framing().map_err(Refusal::bad)?;
    let uri = target::resolve(&method, target, block, &mut fields, http_10)?;
    if method == Method::CONNECT {
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported"));
    }
    let mut request = Request::new(Body::Empty);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = if http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.headers_mut() = fields.headers;
    *request.extensions_mut() = extensions;
    Ok(RequestHead {
        request,
        framing,
        keep_alive: !fields.close && (!http_10 || fields.keep_alive),
        expects_continue: fields.expects_continue,
    })
}

fn refusal_of(error: httparse::Error, block: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many fields")
        }
        httparse::Error::Version if has_other_version(block) => {
            Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "HTTP version not supported")
        }
        httparse::Error::Version => Refusal::bad("malformed HTTP version"),
        httparse::Error::HeaderName => Refusal::bad("malformed field name"),
        httparse::Error::HeaderValue => Refusal::bad("malformed field value"),
        httparse::Error::NewLine => Refusal::bad("malformed line end"),
        httparse::Error::Token | httparse::Error::Status => Refusal::bad("malformed request line"),
    }
}

/// Whether the first line ends in a version, just not one of ours.
fn has_other_version(block: &[u8]) -> bool {
    let line = block.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ').skip(2);
    let Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) = parts.next() else { return false };
    major.is_ascii_digit() && minor.is_ascii_digit() && parts.next().is_none()
}

/// Takes a response's head from the front of `buffer`; `request` is the method that it answers. None: more
/// bytes are needed. The error is for the log: the upstream broke the protocol.
pub fn response(
    buffer: &mut BytesMut,
    scan: &mut Scan,
    limits: &Limits,
    request: &Method,
) -> Result<Option<ResponseHead>, &'static str> {
    match buffer.first() {
        None => return Ok(None),
        Some(b'H') => {}
        Some(_) => return Err("not an HTTP/1 answer"),
    }
    let Some(end) = scan.end(buffer, limits).map_err(Broken::reason)? else { return Ok(None) };
    *scan = Scan::default();
    let block = buffer.split_to(end).freeze();
    parse_response(&block, request).map(Some)
}

fn parse_response(block: &Bytes, request: &Method) -> Result<ResponseHead, &'static str> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, block, &mut room) {
        Ok(httparse::Status::Complete(length)) if length == block.len() => {}
        Ok(_) => return Err("malformed head"),
        Err(httparse::Error::TooManyHeaders) => return Err("too many fields"),
        Err(httparse::Error::HeaderName) => return Err("malformed field name"),
        Err(httparse::Error::HeaderValue) => return Err("malformed field value"),
        Err(_) => return Err("malformed status line"),
    }
    let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
        return Err("malformed status line");
    };
    let status = StatusCode::from_u16(code).map_err(|_| "malformed status")?;
    let http_10 = version == 0;
    let (headers, mut extensions) = buffers::take_maps();
    let fields = Fields::read(parsed.headers, block, Side::Response { http_10, status }, headers)?;
    let framing = fields.response_framing(request, status)?;
    if let Some(reason) = parsed.reason
        && !reason.is_empty()
        && status.canonical_reason() != Some(reason)
    {
        extensions.insert(Reason(block.slice_ref(reason.as_bytes())));
    }
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    *response.version_mut() = if http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    *response.headers_mut() = fields.headers;
    *response.extensions_mut() = extensions;
    Ok(ResponseHead {
        response,
        framing,
        keep_alive: framing != Framing::Close && !fields.close && (!http_10 || fields.keep_alive),
    })
}

/// How far the search for the end of a head has come.
#[derive(Debug, Default, Clone, Copy)]
pub struct Scan {
    /// Bytes that were looked at.
    seen: usize,
    /// Where the current line begins.
    line: usize,
    empty_lines: u8,
}

/// What [`Scan`] finds before the head is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A line that does not end in CRLF.
    BareLf,
    /// The start line is over the limit.
    LineTooLong,
    /// The head is over the limit.
    TooLong,
}

impl Broken {
    fn refusal(self) -> Refusal {
        let status = match self {
            Self::BareLf => StatusCode::BAD_REQUEST,
            Self::LineTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        };
        Refusal { status, reason: self.reason() }
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::BareLf => "line ends in a bare LF",
            Self::LineTooLong => "start line too long",
            Self::TooLong => "head too long",
        }
    }
}

impl Scan {
    /// The length of the head with its empty line, once that is there.
    pub fn end(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Broken> {
        let line_limit = limits.target_bytes.saturating_add(MAX_METHOD + b"  HTTP/1.1\r\n".len());
        self.find(bytes, limits.head_bytes, line_limit)
    }

    /// As `end`, for trailers: fields without a start line.
    pub fn end_of_trailers(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, Broken> {
        self.find(bytes, limit, limit)
    }

    fn find(&mut self, bytes: &[u8], limit: usize, line_limit: usize) -> Result<Option<usize>, Broken> {
        let within = bytes.get(..limit).unwrap_or(bytes);
        for at in memchr::memchr_iter(b'\n', within.get(self.seen..).unwrap_or_default()) {
            let at = self.seen + at;
            if self.line == 0 && at >= line_limit {
                return Err(Broken::LineTooLong);
            }
            match at.checked_sub(1).and_then(|before| within.get(before)) {
                Some(b'\r') if at > self.line => {}
                _ => return Err(Broken::BareLf),
            }
            if at - 1 == self.line {
                return Ok(Some(at + 1));
            }
            self.line = at + 1;
        }
        self.seen = within.len();
        if self.line == 0 && self.seen >= line_limit.min(limit) {
            Err(Broken::LineTooLong)
        } else if self.seen >= limit {
            Err(Broken::TooLong)
        } else {
            Ok(None)
        }
    }

    fn skip_empty_lines(&mut self, buffer: &mut BytesMut) -> Result<(), Refusal> {
        while self.seen == 0 && buffer.starts_with(b"\r\n") {
            buffer.advance(2);
            self.empty_lines += 1;
            if self.empty_lines > MAX_EMPTY_LINES {
                return Err(Refusal::bad("empty lines before the request"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
