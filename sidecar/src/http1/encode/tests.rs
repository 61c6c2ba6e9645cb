//! Who decides about the framing, and what leaves in one piece.

use super::*;
use http::HeaderValue;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn request(method: &Method, uri: &str, pairs: &[(&'static str, &'static str)], body: &Body) -> String {
    let (headers, mut out) = (headers(pairs), BytesMut::new());
    let framing = request_framing(method, &headers, body);
    request_head(&mut out, method, &uri.parse().unwrap(), &headers, framing, false);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn the_length_is_that_of_the_body_whatever_a_field_says() {
    let lies = [("host", "a"), ("content-length", "99"), ("transfer-encoding", "chunked")];
    let head = request(&Method::POST, "/", &lies, &Body::from("four"));
    assert_eq!(head, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n");
    let head = request(&Method::GET, "/", &lies, &Body::Empty);
    assert_eq!(head, "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    let head = request(&Method::GET, "/", &[("host", "a")], &Body::Empty);
    assert_eq!(head, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = request(&Method::PUT, "/", &[("host", "a")], &Body::Empty);
    assert_eq!(head, "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    let head = request(&Method::POST, "/", &[("host", "a"), ("trailer", "x")], &Body::from("four"));
    assert_eq!(head, "POST / HTTP/1.1\r\nhost: a\r\ntrailer: x\r\ntransfer-encoding: chunked\r\n\r\n");
}

#[test]
fn what_came_from_http_2_gets_a_host_and_an_origin_form() {
    let head = request(&Method::GET, "http://shop:80/a?b", &[("te", "trailers")], &Body::Empty);
    assert_eq!(head, "GET /a?b HTTP/1.1\r\nhost: shop:80\r\nte: trailers\r\nconnection: te\r\n\r\n");
    let head = request(&Method::OPTIONS, "*", &[("host", "a")], &Body::Empty);
    assert_eq!(head, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn hop_by_hop_fields_are_ours_to_write() {
    let theirs = [
        ("host", "a"),
        ("connection", "x-a"),
        ("keep-alive", "1"),
        ("proxy-connection", "y"),
        ("te", "gzip"),
    ];
    assert_eq!(request(&Method::GET, "/", &theirs, &Body::Empty), "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn an_answer_that_asks_for_an_upgrade_says_so_in_connection() {
    let answer = |status: StatusCode, persistence| {
        let mut out = BytesMut::new();
        let headers = headers(&[("upgrade", "websocket")]);
        response_head(&mut out, status, None, &headers, Framing::Length(0), persistence);
        String::from_utf8(out.to_vec()).unwrap()
    };
    let wanted = |connection| {
        let rest = "upgrade: websocket\r\ncontent-length: 0\r\n\r\n";
        format!("HTTP/1.1 426 Upgrade Required\r\nconnection: {connection}\r\n{rest}")
    };
    let required = StatusCode::UPGRADE_REQUIRED;
    assert_eq!(answer(required, Persistence::Open), wanted("upgrade"));
    assert_eq!(answer(required, Persistence::Close), wanted("close, upgrade"));
    assert_eq!(answer(StatusCode::OK, Persistence::Open), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn framing_of_answers() {
    let framing = |method: &Method, version: Version, status: u16, body: Body| {
        let response = Response::builder().status(status).body(body).unwrap();
        response_framing(method, version, &response)
    };
    let (get, head, new, old) = (&Method::GET, &Method::HEAD, Version::HTTP_11, Version::HTTP_10);
    let unknown = || Body::source(Unknown);
    assert_eq!(framing(get, new, 200, Body::from("four")), Framing::Length(4));
    assert_eq!(framing(get, new, 200, Body::Empty), Framing::Length(0));
    assert_eq!(framing(get, new, 200, unknown()), Framing::Chunked);
    assert_eq!(framing(get, old, 200, unknown()), Framing::Close);
    assert_eq!(framing(head, new, 200, unknown()), Framing::None);
    assert_eq!(framing(get, new, 204, Body::from("four")), Framing::None);
    assert_eq!(framing(get, new, 304, Body::Empty), Framing::None);
}

struct Unknown;

impl crate::body::Source for Unknown {
    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(None)
    }
}

#[test]
fn head_and_small_content_are_one_piece_and_large_content_is_not_copied() {
    let (mut out, mut encoder) = (Out::default(), Encoder::new(Framing::Chunked));
    out.head().extend_from_slice(b"head ");
    encoder.data(&mut out, Bytes::from_static(b"small")).unwrap();
    assert_eq!(out.single(), Some(&b"head 5\r\nsmall\r\n"[..]));
    let large = Bytes::from(vec![b'x'; 100_000]);
    encoder.data(&mut out, large.clone()).unwrap();
    encoder.end(&mut out).unwrap();
    assert!(out.single().is_none() && out.is_full());
    let [front, middle, back] = out.slices();
    assert!(front.ends_with(b"186a0\r\n"));
    assert_eq!(middle.as_ptr(), large.as_ptr());
    assert_eq!(&*back, b"\r\n0\r\n\r\n");
    let total = front.len() + middle.len() + back.len();
    for step in [1, 20, 90_000] {
        out.advance(step);
    }
    assert!(!out.is_empty());
    out.advance(total - 90_021);
    assert!(out.is_empty());
}

#[test]
fn a_body_that_does_not_keep_to_its_length_is_an_error() {
    let (mut out, mut encoder) = (Out::default(), Encoder::new(Framing::Length(4)));
    assert!(encoder.data(&mut out, Bytes::from_static(b"fivee")).is_err());
    let mut encoder = Encoder::new(Framing::Length(4));
    encoder.data(&mut out, Bytes::from_static(b"thr")).unwrap();
    assert!(matches!(encoder.end(&mut out), Err(Error::Incomplete)));
}

#[test]
fn chunk_sizes_in_hexadecimal() {
    for (number, wanted) in
        [(1, "1"), (15, "f"), (16, "10"), (255, "ff"), (0x10000, "10000"), (65_535, "ffff")]
    {
        let mut out = BytesMut::new();
        put_hex(&mut out, number);
        assert_eq!(out, wanted);
    }
}
