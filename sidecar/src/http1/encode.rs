//! The way back: from heads and frames to bytes.
//!
//! What frames the message is decided here, from the body itself, and not by the fields that come along: a field
//! that a rule has set, or that came from HTTP/2, cannot lie about the length. [`Out`] is what waits to be
//! written; head and first content leave in one system call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{HeaderName, Method, Response, StatusCode, Uri, Version};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use crate::body::{Body, Error};
use crate::buffers::{self, Blocked};
use crate::http1::head::{Framing, Reason, fields};

/// Content up to this size is copied behind what stands before it; larger content is written from where it is.
const COPIED: usize = 8 * 1024;

/// How a request's body will be delimited.
pub fn request_framing(method: &Method, headers: &HeaderMap, body: &Body) -> Framing {
    match body.size_hint().exact() {
        // RFC 9110, 8.6: where content is expected, say that there is none.
        Some(0) if headers.contains_key(header::CONTENT_LENGTH) || expects_content(method) => {
            Framing::Length(0)
        }
        Some(0) if body.is_end_stream() => Framing::None,
        // Announced trailers need chunks.
        Some(length) if !headers.contains_key(header::TRAILER) => Framing::Length(length),
        _ => Framing::Chunked,
    }
}

fn expects_content(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PUT || *method == Method::PATCH
}

/// How a response's body will be delimited. `request` is the method that it answers, `version` the caller's.
pub fn response_framing(request: &Method, version: Version, response: &Response<Body>) -> Framing {
    if *request == Method::HEAD || !fields::has_content(response.status()) {
        return Framing::None;
    }
    let http_10 = version == Version::HTTP_10;
    match response.body().size_hint().exact() {
        Some(length) if length == 0 || http_10 || !response.headers().contains_key(header::TRAILER) => {
            Framing::Length(length)
        }
        _ if http_10 => Framing::Close,
        _ => Framing::Chunked,
    }
}

/// Appends a request's head. `close` announces that no other request follows.
pub fn request_head(
    out: &mut BytesMut,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    framing: Framing,
    close: bool,
) {
    put(out, &[method.as_str().as_bytes(), b" ", target(uri).as_bytes(), b" HTTP/1.1\r\n"]);
    // From HTTP/2 it comes as the authority.
    let authority = uri.authority().filter(|_| !headers.contains_key(header::HOST));
    if let Some(authority) = authority {
        put(out, &[b"host: ", authority.as_str().as_bytes(), b"\r\n"]);
    }
    let upgrade = !close && matches!(framing, Framing::None | Framing::Length(0));
    let written = fields(out, headers, framing, Keep { upgrade, te: true, length: false });
    if authority.is_none() && !written.host {
        put(out, &[b"host: \r\n"]); // An HTTP/1.0 caller may have none.
    }
    match (close, written.upgrade, written.te) {
        (false, false, false) => {}
        (true, _, false) => put(out, &[b"connection: close\r\n"]),
        (true, _, true) => put(out, &[b"connection: close, te\r\n"]),
        (false, true, false) => put(out, &[b"connection: upgrade\r\n"]),
        (false, true, true) => put(out, &[b"connection: upgrade, te\r\n"]),
        (false, false, true) => put(out, &[b"connection: te\r\n"]),
    }
    end(out, framing);
}

/// Origin form or `*`. A URI that came from HTTP/2 has scheme and authority besides.
fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| if target.as_str().is_empty() { "/" } else { target.as_str() })
}

/// What a response's `Connection` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: an HTTP/1.1 connection stays open.
    Open,
    /// `keep-alive`, for an HTTP/1.0 caller who asked.
    KeepAlive,
    /// `close`.
    Close,
}

/// Appends a response's head; interim ones too.
pub fn response_head(
    out: &mut BytesMut,
    status: StatusCode,
    reason: Option<&Reason>,
    headers: &HeaderMap,
    framing: Framing,
    persistence: Persistence,
) {
    let reason =
        reason.map_or_else(|| status.canonical_reason().unwrap_or("").as_bytes(), |reason| &reason.0);
    put(out, &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"]);
    let switches = status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::UPGRADE_REQUIRED;
    let upgrade = switches && headers.contains_key(header::UPGRADE);
    match persistence {
        Persistence::Close if upgrade => put(out, &[b"connection: close, upgrade\r\n"]),
        Persistence::Close => put(out, &[b"connection: close\r\n"]),
        Persistence::Open if upgrade => put(out, &[b"connection: upgrade\r\n"]),
        Persistence::KeepAlive => put(out, &[b"connection: keep-alive\r\n"]),
        Persistence::Open => {}
    }
    // The length of what a GET would have given stays in the answer to HEAD, and in a 304.
    let length = !status.is_informational() && status != StatusCode::NO_CONTENT;
    fields(out, headers, framing, Keep { upgrade, te: false, length });
    end(out, framing);
}

/// Which of the fields that are ours to write may come from the map.
#[derive(Clone, Copy)]
struct Keep {
    upgrade: bool,
    /// `te: trailers`.
    te: bool,
    /// `content-length`, where the message has no body.
    length: bool,
}

/// What was among the fields.
#[derive(Default)]
struct Written {
    host: bool,
    upgrade: bool,
    te: bool,
}

fn fields(out: &mut BytesMut, headers: &HeaderMap, framing: Framing, keep: Keep) -> Written {
    let mut written = Written::default();
    let mut framed = false;
    for (name, value) in headers {
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "http2-settings" => {
                continue;
            }
            "host" => written.host = true,
            "upgrade" if keep.upgrade => written.upgrade = true,
            "te" if keep.te && value == "trailers" => written.te = true,
            "upgrade" | "te" => continue,
            "content-length" => {
                let as_it_is =
                    framing == Framing::None && keep.length && fields::decimal(value.as_bytes()).is_some();
                if framed || !as_it_is {
                    continue;
                }
                framed = true;
            }
            _ => {}
        }
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    written
}

/// How the body is delimited, and the empty line.
fn end(out: &mut BytesMut, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            put(out, &[b"content-length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n\r\n"]);
        }
        Framing::Chunked => put(out, &[b"transfer-encoding: chunked\r\n\r\n"]),
        Framing::None | Framing::Close => put(out, &[b"\r\n"]),
    }
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Bytes that wait to be written: small things one after another, then at most one large piece of content.
#[derive(Debug, Default)]
pub struct Out {
    front: BytesMut,
    large: Bytes,
    /// What `large` was before any of it was written: the whole of it is held until all of it is.
    whole: usize,
    back: &'static [u8],
    /// While `large` waits for a slow reader.
    blocked: Option<Blocked>,
}

impl Out {
    /// Where a head is appended. Borrows a buffer when it has none.
    pub fn head(&mut self) -> &mut BytesMut {
        if self.front.capacity() == 0 {
            self.front = buffers::take();
        }
        &mut self.front
    }

    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty() && self.large.is_empty() && self.back.is_empty()
    }

    /// Whether it is time to write before anything is added.
    pub fn is_full(&self) -> bool {
        !self.large.is_empty() || !self.back.is_empty() || self.front.len() >= buffers::SIZE
    }

    /// Gives the buffer back.
    pub fn release(&mut self) {
        if self.front.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.front));
        }
        self.large = Bytes::new();
        self.back = &[];
        self.blocked = None;
    }

    /// What is to be written, in order.
    pub fn slices(&self) -> [IoSlice<'_>; 3] {
        [IoSlice::new(&self.front), IoSlice::new(&self.large), IoSlice::new(self.back)]
    }

    /// The only slice, when there is but one.
    pub fn single(&self) -> Option<&[u8]> {
        match (self.front.is_empty(), self.large.is_empty() && self.back.is_empty()) {
            (_, true) => Some(&self.front),
            (true, false) if self.back.is_empty() => Some(&self.large),
            _ => None,
        }
    }

    /// `written` bytes are gone.
    pub fn advance(&mut self, written: usize) {
        let front = written.min(self.front.len());
        self.front.advance(front);
        let large = (written - front).min(self.large.len());
        self.large.advance(large);
        if self.large.is_empty() {
            buffers::give_slice(std::mem::take(&mut self.large));
        }
        self.back = self.back.get(written - front - large..).unwrap_or_default();
    }
}

impl Out {
    /// Writes once.
    pub fn poll_write<W: AsyncWrite>(
        &mut self,
        writer: Pin<&mut W>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let polled = match self.single() {
            Some(bytes) => writer.poll_write(context, bytes),
            None => writer.poll_write_vectored(context, &self.slices()),
        };
        self.blocked = match self.blocked.take() {
            _ if polled.is_ready() || self.large.is_empty() => None,
            blocked => blocked.or_else(|| Some(Blocked::new(self.whole))),
        };
        let written = ready!(polled)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }
}

/// Writes one body behind its head.
#[derive(Debug)]
pub struct Encoder {
    framing: Framing,
    ended: bool,
}

impl Encoder {
    /// For a body whose head announced this.
    pub fn new(framing: Framing) -> Self {
        Self { framing, ended: framing == Framing::None || framing == Framing::Length(0) }
    }

    /// Whether the body's end has been written.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whatever a body gives. [`Out::is_full`] must be false.
    pub fn frame(&mut self, out: &mut Out, frame: Frame<Bytes>) -> Result<(), Error> {
        match frame.into_data() {
            Ok(data) => self.data(out, data),
            Err(frame) => frame.into_trailers().map_or(Ok(()), |trailers| self.trailers(out, &trailers)),
        }
    }

    /// Content. [`Out::is_full`] must be false.
    pub fn data(&mut self, out: &mut Out, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::None => return Ok(()), // To HEAD, for example: there is no content to send.
            Framing::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(Error::Malformed("body is longer than its Content-Length"))?;
                self.ended = *left == 0;
            }
            Framing::Close => {}
            Framing::Chunked => {
                put_hex(out.head(), data.len());
                out.head().extend_from_slice(b"\r\n");
            }
        }
        let chunked = self.framing == Framing::Chunked;
        if data.len() <= COPIED {
            out.head().extend_from_slice(&data);
            buffers::give_slice(data);
            if chunked {
                out.head().extend_from_slice(b"\r\n");
            }
        } else {
            out.whole = data.len();
            out.large = data;
            out.back = if chunked { b"\r\n" } else { b"" };
        }
        Ok(())
    }

    /// The end of the body, without trailers.
    pub fn end(&mut self, out: &mut Out) -> Result<(), Error> {
        if self.ended {
            return Ok(());
        }
        match self.framing {
            Framing::Length(left) if left > 0 => return Err(Error::Incomplete),
            Framing::Chunked if out.large.is_empty() => out.head().extend_from_slice(b"0\r\n\r\n"),
            Framing::Chunked => out.back = b"\r\n0\r\n\r\n",
            Framing::None | Framing::Length(_) | Framing::Close => {}
        }
        self.ended = true;
        Ok(())
    }

    /// The end of the body, with trailers; where the framing has no room for them they are dropped, as
    /// RFC 9110, 6.5 allows. [`Out::is_full`] must be false.
    pub fn trailers(&mut self, out: &mut Out, trailers: &HeaderMap) -> Result<(), Error> {
        if self.ended || self.framing != Framing::Chunked {
            return self.end(out);
        }
        let out = out.head();
        out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.iter().filter(|(name, _)| may_trail(name)) {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
        out.extend_from_slice(b"\r\n");
        self.ended = true;
        Ok(())
    }
}

fn may_trail(name: &HeaderName) -> bool {
    !fields::is_never_a_trailer(name)
}

fn put_hex(out: &mut BytesMut, number: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        if let Some(digit) = DIGITS.get(number >> (4 * place) & 0xf) {
            out.extend_from_slice(&[*digit]);
        }
    }
}

#[cfg(test)]
mod tests;
