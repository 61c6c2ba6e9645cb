//! The fuzz targets on inputs from a fixed seed, and properties of what we write.

use std::fmt::Write as _;

use bytes::Bytes;
use proptest::prelude::*;

use crate::http1::Limits;
use crate::http1::fuzzing::{self, Event, Kind};

/// Pieces that broken and unbroken messages are made of: plain random bytes never get past the first line.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a HTTP/1.1\r\n",
    "HEAD * HTTP/1.0\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "GET http://b/c?d HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.0 200 Fine\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 304 \r\n",
    "Host: a\r\n",
    "host: a:80\r\n",
    "Content-Length: 5\r\n",
    "content-length: 0\r\n",
    "Content-Length: +5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Connection: close, x-a\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: h2c, websocket\r\n",
    "TE: trailers\r\n",
    "Trailer: x-t\r\n",
    "X-A: 1\r\n",
    "X-B:\t2 \r\n",
    "x-c: \u{e9}\r\n",
    "Expect: 100-continue\r\n",
    " folded\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ";",
    "=",
    "\"",
    "\\",
    ",",
    "hello",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nx-t: 1\r\n\r\n",
    "5;a=b\r\nhello\r\n",
    "5 ; a=\"q\\\"\" \r\n",
    "A\r\n0123456789\r\n",
    "fffffffffffffffff\r\n",
    "0x5\r\n",
    "-1\r\n",
    "GET /",
    " HTTP/1.1",
    "HTTP/2.0\r\n",
    "%",
    "#",
];

fn message(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..random.usize(1..14) {
        message.extend_from_slice(PIECES[random.usize(..PIECES.len())].as_bytes());
    }
    for _ in 0..random.usize(..3) {
        let at = random.usize(..message.len());
        match random.u8(..3) {
            0 => message[at] = random.u8(..),
            1 => drop(message.remove(at)),
            _ => message.insert(at, random.u8(..)),
        }
        if message.is_empty() {
            break;
        }
    }
    message
}

#[test]
fn fuzz_targets_on_a_fixed_seed() {
    let mut random = fastrand::Rng::with_seed(0xfa1e_1ead);
    for _ in 0..20_000 {
        let message = message(&mut random);
        fuzzing::head(&message);
        fuzzing::chunked(&message);
        fuzzing::exchange(&message);
    }
}

/// Content that a chunked body of any shape gives back as it was.
fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(("x-[a-z]{1,8}", "[!-~]([ -~]{0,20}[!-~])?"), 0..6)
}

proptest! {
    #[test]
    fn any_request_arrives_as_it_was_sent(
        method in "[A-Z]{1,10}",
        path in "/[a-z0-9/._~-]{0,30}(\\?[a-z0-9=&]{0,10})?",
        fields in fields(),
        content in proptest::collection::vec(any::<u8>(), 0..200),
        chunk in 1usize..50,
        cut in any::<prop::sample::Index>(),
        is_chunked in any::<bool>(),
    ) {
        prop_assume!(method != "CONNECT");
        let mut message = format!("{method} {path} HTTP/1.1\r\nhost: shop\r\n");
        for (name, value) in &fields {
            write!(message, "{name}: {value}\r\n").unwrap();
        }
        let mut message = if is_chunked {
            let mut message = format!("{message}transfer-encoding: chunked\r\n\r\n").into_bytes();
            for piece in content.chunks(chunk) {
                message.extend(format!("{:X}\r\n", piece.len()).bytes());
                message.extend_from_slice(piece);
                message.extend_from_slice(b"\r\n");
            }
            message.extend_from_slice(b"0\r\n\r\n");
            message
        } else {
            let mut message = format!("{message}content-length: {}\r\n\r\n", content.len()).into_bytes();
            message.extend_from_slice(&content);
            message
        };
        // The next one begins where this one ends.
        message.extend_from_slice(b"GET /next HTTP/1.1\r\nhost: shop\r\n\r\n");
        let (left, right) = message.split_at(cut.index(message.len()));
        let events = fuzzing::read(Kind::Requests, &Limits::default(), [left, right]);
        let Some(Event::Head { start, fields: read, .. }) = events.first() else { panic!("{events:?}") };
        prop_assert_eq!(start, &format!("{method} {path}"));
        let sent: usize = fields.len() + 1 + usize::from(!is_chunked);
        prop_assert_eq!(read.len(), sent);
        let data = events.iter().find_map(|event| if let Event::Data(data) = event { Some(data.clone()) } else { None });
        prop_assert_eq!(data.unwrap_or_default(), Bytes::from(content));
        let heads = events.iter().filter(|event| matches!(event, Event::Head { .. })).count();
        prop_assert_eq!(heads, 2);
    }
}
