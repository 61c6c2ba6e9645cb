//! What the fuzzer runs, and what the corpus of the tests is read with: the codec without sockets.
//!
//! Each target takes any bytes and asserts what must hold for all of them: how a message is cut on the way
//! changes nothing, and what was accepted means the same to the next reader when we have written it again.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Version};

use crate::body::{Body, Error};
use crate::http1::Limits;
use crate::http1::body::{Decoder, Step};
use crate::http1::encode::{self, Encoder, Out, Persistence};
use crate::http1::head::{self, Framing, Scan};

/// What a reader saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A head: its start line and fields.
    Head {
        /// `GET /path`, or the status.
        start: String,
        /// Names and values in order.
        fields: Vec<(String, Bytes)>,
        /// What the next message needs to know.
        keep_alive: bool,
    },
    /// Content, as much as there is in a row.
    Data(Bytes),
    /// The fields after it.
    Trailers(Vec<(String, Bytes)>),
    /// The message is over.
    End,
    /// The connection is over, and why.
    Refused(u16, &'static str),
    /// The bytes are over: whether in the middle of a message.
    Cut(bool),
}

/// Which messages to read.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// Requests.
    Requests,
    /// Responses to this method.
    Responses(&'a Method),
}

/// Reads messages from pieces of a stream.
pub fn read<'a>(kind: Kind<'_>, limits: &Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
    let mut reader = Reader {
        kind,
        limits,
        buffer: BytesMut::new(),
        scan: Scan::default(),
        body: None,
        events: Vec::new(),
    };
    for piece in pieces {
        reader.buffer.extend_from_slice(piece);
        if !reader.run() {
            return reader.events;
        }
    }
    let ended = reader.body.as_mut().map(Decoder::end_of_connection);
    match ended {
        Some(Ok(())) => reader.events.push(Event::End),
        Some(Err(_)) => reader.events.push(Event::Cut(true)),
        None => reader.events.push(Event::Cut(!reader.buffer.is_empty())),
    }
    reader.events
}

struct Reader<'a> {
    kind: Kind<'a>,
    limits: &'a Limits,
    buffer: BytesMut,
    scan: Scan,
    body: Option<Decoder>,
    events: Vec<Event>,
}

impl Reader<'_> {
    /// Reads on as far as the buffer goes; false when the connection is over.
    fn run(&mut self) -> bool {
        loop {
            let Some(decoder) = &mut self.body else {
                match self.head() {
                    Ok(true) => continue,
                    Ok(false) => return true,
                    Err(refused) => {
                        self.events.push(refused);
                        return false;
                    }
                }
            };
            match decoder.decode(&mut self.buffer) {
                Ok(Step::Data(data)) => self.data(&data),
                Ok(Step::Trailers(trailers)) => self.events.push(Event::Trailers(listed(&trailers))),
                Ok(Step::End) => {
                    self.events.push(Event::End);
                    self.body = None;
                }
                Ok(Step::More) => return true,
                Err(Error::Malformed(reason)) => {
                    self.events.push(Event::Refused(400, reason));
                    return false;
                }
                Err(_) => return false,
            }
        }
    }

    fn data(&mut self, data: &[u8]) {
        if let Some(Event::Data(before)) = self.events.last_mut() {
            *before = [before, data].concat().into();
        } else {
            self.events.push(Event::Data(Bytes::copy_from_slice(data)));
        }
    }

    fn head(&mut self) -> Result<bool, Event> {
        let (start, headers, framing, keep_alive) = match self.kind {
            Kind::Requests => {
                let head = head::request(&mut self.buffer, &mut self.scan, self.limits)
                    .map_err(|refusal| Event::Refused(refusal.status.as_u16(), refusal.reason))?;
                let Some(head) = head else { return Ok(false) };
                let start = format!("{} {}", head.request.method(), head.request.uri());
                (start, head.request.into_parts().0.headers, head.framing, head.keep_alive)
            }
            Kind::Responses(method) => {
                let head = head::response(&mut self.buffer, &mut self.scan, self.limits, method)
                    .map_err(|reason| Event::Refused(502, reason))?;
                let Some(head) = head else { return Ok(false) };
                let start = head.response.status().as_str().to_owned();
                (start, head.response.into_parts().0.headers, head.framing, head.keep_alive)
            }
        };
        self.events.push(Event::Head { start, fields: listed(&headers), keep_alive });
        self.body = Some(Decoder::new(framing));
        Ok(true)
    }
}

fn listed(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    headers.iter().map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

/// Limits that short inputs reach.
fn small_limits() -> Limits {
    Limits { head_bytes: 512, target_bytes: 64, ..Limits::default() }
}

/// Target `head`: one head, request and response.
pub fn head(input: &[u8]) {
    let limits = small_limits();
    cuts_change_nothing(Kind::Requests, &limits, input);
    cuts_change_nothing(Kind::Responses(&Method::GET), &limits, input);

    let mut buffer = BytesMut::from(input);
    if let Ok(Some(head)) = head::request(&mut buffer, &mut Scan::default(), &Limits::default()) {
        let request = head.request;
        let framing = if head.framing == Framing::Chunked { head.framing } else { Framing::None };
        let mut again = BytesMut::new();
        encode::request_head(&mut again, request.method(), request.uri(), request.headers(), framing, false);
        let read = head::request(
            &mut again,
            &mut Scan::default(),
            &Limits { head_bytes: 1 << 20, ..Limits::default() },
        );
        let Ok(Some(read)) = read else {
            assert!(
                matches!(read, Err(refusal) if refusal.status != 400),
                "what we write must be readable: {read:?}"
            );
            return;
        };
        assert!(again.is_empty(), "nothing may follow a head that we write");
        assert_eq!(read.request.method(), request.method());
        assert_eq!(read.request.uri(), request.uri());
        assert_eq!(read.framing, framing);
    }
    let mut buffer = BytesMut::from(input);
    if let Ok(Some(head)) =
        head::response(&mut buffer, &mut Scan::default(), &Limits::default(), &Method::GET)
    {
        let response = head.response;
        let framing = encode::response_framing(&Method::GET, Version::HTTP_11, &response);
        let mut again = BytesMut::new();
        let reason = response.extensions().get::<head::Reason>();
        let open = Persistence::Open;
        encode::response_head(&mut again, response.status(), reason, response.headers(), framing, open);
        let limits = Limits { head_bytes: 1 << 20, target_bytes: 1 << 19, ..Limits::default() };
        let read = head::response(&mut again, &mut Scan::default(), &limits, &Method::GET);
        let Ok(Some(read)) = read else {
            assert!(matches!(read, Err("too many fields")), "what we write must be readable: {read:?}");
            return;
        };
        assert!(again.is_empty(), "nothing may follow a head that we write");
        assert_eq!(read.response.status(), response.status());
        assert_eq!(read.framing, framing);
    }
}

/// Target `chunked`: one chunked body.
pub fn chunked(input: &[u8]) {
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let limits = Limits::default();
    let message = [HEAD, input].concat();
    cuts_change_nothing(Kind::Requests, &limits, &message);

    let events = read(Kind::Requests, &limits, [&message[..]]);
    let Some(end) = events.iter().position(|event| *event == Event::End) else { return };
    let again = chunks(events.get(1..end).unwrap_or_default());
    let read_again = read(Kind::Requests, &limits, [HEAD, &again]);
    assert_eq!(read_again.get(..=end), events.get(..=end), "what we write means the same");
    assert_eq!(read_again.get(end + 1..), Some(&[Event::Cut(false)][..]), "and nothing follows");
}

fn chunks(events: &[Event]) -> Vec<u8> {
    let (mut out, mut encoder, mut written) = (Out::default(), Encoder::new(Framing::Chunked), Vec::new());
    for event in events {
        match event {
            Event::Data(data) => assert!(encoder.data(&mut out, data.clone()).is_ok()),
            Event::Trailers(trailers) => {
                let named = trailers.iter().filter_map(|(name, value)| {
                    Some((name.parse::<http::HeaderName>().ok()?, http::HeaderValue::from_bytes(value).ok()?))
                });
                let mut map = HeaderMap::new();
                for (name, value) in named {
                    map.append(name, value);
                }
                assert!(encoder.trailers(&mut out, &map).is_ok());
            }
            Event::Head { .. } | Event::End | Event::Refused(..) | Event::Cut(_) => {}
        }
        flush(&mut out, &mut written);
    }
    assert!(encoder.end(&mut out).is_ok());
    flush(&mut out, &mut written);
    written
}

/// As a socket that takes a few bytes at a time.
fn flush(out: &mut Out, written: &mut Vec<u8>) {
    while !out.is_empty() {
        let taken = out.slices().iter().flat_map(|slice| slice.to_vec()).take(7).collect::<Vec<u8>>();
        written.extend_from_slice(&taken);
        out.advance(taken.len());
    }
}

/// Target `exchange`: a stream of requests, or (by the first byte) of responses, one after another, read, written
/// again and read again.
pub fn exchange(input: &[u8]) {
    let Some((first, stream)) = input.split_first() else { return };
    let limits = Limits::default();
    let method = if first & 2 == 0 { Method::GET } else { Method::HEAD };
    let kind = if first & 1 == 0 { Kind::Requests } else { Kind::Responses(&method) };
    cuts_change_nothing(kind, &limits, stream);

    let events = read(kind, &limits, [stream]);
    let complete = events.iter().rposition(|event| *event == Event::End).map_or(0, |last| last + 1);
    let events = events.get(..complete).unwrap_or_default();
    for message in events.split_inclusive(|event| *event == Event::End) {
        let Some(again) = written(kind, message) else { continue };
        let reread = read(kind, &limits, [&again[..]]);
        let content = |events: &[Event]| {
            let all = events.iter().filter(|event| matches!(event, Event::Data(_) | Event::Trailers(_)));
            all.cloned().collect::<Vec<_>>()
        };
        let ends = reread.iter().filter(|event| **event == Event::End).count();
        assert_eq!(ends, 1, "one message stays one message: {reread:?}");
        assert_eq!(content(&reread), content(message), "and has the same content");
    }
}

/// A message as we would send it on.
fn written(kind: Kind<'_>, message: &[Event]) -> Option<Vec<u8>> {
    let Some((Event::Head { start, fields, .. }, rest)) = message.split_first() else { return None };
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name.parse::<http::HeaderName>().ok()?, http::HeaderValue::from_bytes(value).ok()?);
    }
    let content =
        rest.iter().find_map(|event| if let Event::Data(data) = event { Some(data.clone()) } else { None });
    let trailers = rest.iter().any(|event| matches!(event, Event::Trailers(_)));
    let body = Body::from(content.unwrap_or_default());
    let mut head = BytesMut::new();
    let framing = match kind {
        Kind::Requests => {
            let (method, target) = start.split_once(' ')?;
            let method = method.parse().ok()?;
            let framing =
                if trailers { Framing::Chunked } else { encode::request_framing(&method, &headers, &body) };
            encode::request_head(&mut head, &method, &target.parse().ok()?, &headers, framing, false);
            framing
        }
        Kind::Responses(method) => {
            let mut response = http::Response::new(body);
            *response.status_mut() = start.parse().ok()?;
            *response.headers_mut() = headers;
            let framing = match encode::response_framing(method, Version::HTTP_11, &response) {
                Framing::Length(_) if trailers => Framing::Chunked,
                framing => framing,
            };
            let open = Persistence::Open;
            encode::response_head(&mut head, response.status(), None, response.headers(), framing, open);
            framing
        }
    };
    if head.len() > Limits::default().head_bytes || fields.len() + 3 > head::MAX_FIELDS {
        return None;
    }
    let (mut out, mut encoder, mut bytes) = (Out::default(), Encoder::new(framing), head.to_vec());
    if framing == Framing::Chunked {
        bytes.extend(chunks(rest));
        return Some(bytes);
    }
    for event in rest {
        if let Event::Data(data) = event {
            assert!(encoder.data(&mut out, data.clone()).is_ok());
            flush(&mut out, &mut bytes);
        }
    }
    assert!(encoder.end(&mut out).is_ok());
    flush(&mut out, &mut bytes);
    Some(bytes)
}

/// The stream whole, cut in two at some places, and byte by byte: the same events.
fn cuts_change_nothing(kind: Kind<'_>, limits: &Limits, stream: &[u8]) {
    let whole = read(kind, limits, [stream]);
    assert_eq!(read(kind, limits, stream.chunks(1)), whole, "byte by byte");
    for at in [stream.len() / 3, stream.len() / 2, stream.len().saturating_sub(1)] {
        let (left, right) = stream.split_at_checked(at).unwrap_or((stream, &[]));
        assert_eq!(read(kind, limits, [left, right]), whole, "cut at {at}");
    }
}
