//! Both drivers between real sockets: one exchange in every shape that it can take.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::harness::*;
use crate::failure::{At, Kind};
use crate::http1::client::Cause;
use crate::http1::server::{self, Ended, Next};
use crate::http1::{Informational, Limits};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
const FORWARDED: &str = "GET / HTTP/1.1\r\nhost: shop\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_plain_exchange_and_another_on_the_same_connections() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send("GET /a?b=c HTTP/1.1\r\nHost: shop\r\nX-Thing: 1\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.expect("GET /a?b=c HTTP/1.1\r\nhost: shop\r\nx-thing: 1\r\n\r\n").await;
    upstream
        .send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhello")
        .await;
    caller
        .expect("HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    assert!(matches!(proxy.event().await, Event::Open));
    assert_eq!(proxy.idle.count(), 1);

    caller.send("POST /b HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody").await;
    upstream.expect("POST /b HTTP/1.1\r\nhost: shop\r\ncontent-length: 4\r\n\r\nbody").await;
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    caller.expect("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(matches!(proxy.event().await, Event::Open));
    drop(caller);
    assert!(matches!(proxy.event().await, Event::Closed));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_proxy, mut caller, backend) = all().await;
    let post = "POST /2 HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    caller.send(format!("{GET}{post}{GET}")).await;
    let mut upstream = backend.accept().await;
    upstream.expect(FORWARDED).await;
    upstream.send(OK).await;
    upstream
        .expect("POST /2 HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    upstream.send(OK).await;
    upstream.expect(FORWARDED).await;
    upstream.send(OK).await;
    caller.expect(format!("{OK}{OK}{OK}")).await;
}

#[tokio::test]
async fn interim_answers_reach_the_caller_before_the_answer() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send("PUT /f HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream
        .expect("PUT /f HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    caller.expect("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    caller.send("body").await;
    upstream.expect("body").await;
    upstream.send("HTTP/1.1 102 Processing\r\n\r\n").await;
    caller.expect("HTTP/1.1 102 Processing\r\n\r\n").await;
    upstream.send(OK).await;
    caller.expect(OK).await;
}

#[tokio::test]
async fn an_answer_instead_of_100_ends_the_connection() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send("PUT /f HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
    let answer = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(caller.rest().await.unwrap(), answer);
    upstream.ended().await;
}

#[tokio::test]
async fn trailers_go_both_ways_announced_or_not() {
    let (_proxy, mut caller, backend) = all().await;
    let body = "3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n";
    caller
        .send(format!(
            "POST / HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ))
        .await;
    let mut upstream = backend.accept().await;
    let head = "POST / HTTP/1.1\r\nhost: shop\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\r\n";
    upstream.expect(format!("{head}{body}")).await;
    let answer =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n";
    upstream.send(answer).await;
    caller.expect(answer).await;
}

#[tokio::test]
async fn trailers_cannot_frame_or_route() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
    upstream.send(format!("{head}content-length: 7\r\nx-a: 1\r\nhost: b\r\n\r\n")).await;
    caller.expect(format!("{head}x-a: 1\r\n\r\n")).await;
}

#[tokio::test]
async fn head_keeps_the_length_and_has_no_body() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send("HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    caller.expect("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
    assert!(matches!(proxy.event().await, Event::Open));
    assert_eq!(proxy.idle.count(), 1);
    caller.send(GET).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n").await;
    caller.expect("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\netag: \"x\"\r\n\r\n").await;
}

#[tokio::test]
async fn an_answer_that_the_end_of_the_connection_delimits() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.0 200 OK\r\n\r\nhello").await;
    caller.expect("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    drop(upstream);
    caller.expect("0\r\n\r\n").await;
    caller.send(GET).await; // The caller's connection stays, the upstream's does not.
    backend.accept().await.expect(FORWARDED).await;
}

#[tokio::test]
async fn an_http_10_caller_gets_no_chunks_and_no_interim_answers() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send("GET / HTTP/1.0\r\nHost: shop\r\nExpect: 100-continue\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.expect(FORWARDED).await;
    upstream.send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    assert_eq!(caller.rest().await.unwrap(), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok");
}

#[tokio::test]
async fn an_http_10_caller_may_keep_the_connection() {
    let (_proxy, mut caller, backend) = all().await;
    let get = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    caller.send(get).await;
    let mut upstream = backend.accept().await;
    upstream.expect("GET / HTTP/1.1\r\nhost: \r\n\r\n").await;
    upstream.send(OK).await;
    caller.expect("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok").await;
    caller.send(get).await;
    upstream.head().await;
}

#[tokio::test]
async fn a_body_cut_off_by_the_upstream_never_looks_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-a: 1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx",
    ] {
        let (mut proxy, mut caller, backend) = all().await;
        caller.send(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream.send(answer).await;
        drop(upstream);
        let got = caller.rest().await.unwrap();
        assert!(got.contains("hello") && !got.contains("0\r\n\r\n"), "{got}");
        let Event::Failed(failure) = proxy.event().await else { panic!("not failed") };
        assert_eq!(failure.at, At::Upstream);
    }
}

#[tokio::test]
async fn a_body_cut_off_ends_in_a_reset_where_nothing_else_would_tell() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send("GET / HTTP/1.0\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    caller.expect("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello").await;
    drop(upstream);
    let error = caller.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(proxy.event().await, Event::Failed(_)));
}

#[tokio::test]
async fn the_upstream_closed_an_idle_connection() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send(OK).await;
    caller.expect(OK).await;
    assert!(matches!(proxy.event().await, Event::Open));
    // It takes the next request and closes without a word: the classic race.
    caller.send(GET).await;
    upstream.head().await;
    drop(upstream);
    let Event::NotSent(error) = proxy.event().await else { panic!("sent") };
    assert_eq!((error.cause, error.request_sent, error.reused), (Cause::Reset, true, true));
    caller.head().await;

    // On a fresh connection that is no such race.
    let mut caller = proxy.connect().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    drop(upstream);
    let error = loop {
        if let Event::NotSent(error) = proxy.event().await {
            break error;
        }
    };
    assert_eq!((error.cause, error.request_sent, error.reused), (Cause::Reset, true, false));
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_written_to() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send(OK).await;
    caller.expect(OK).await;
    assert!(matches!(proxy.event().await, Event::Open));
    upstream.half_close().await;
    upstream.ended_after(&proxy).await;
    caller.send(GET).await;
    let Event::NotSent(error) = proxy.event().await else { panic!("sent") };
    assert_eq!((error.cause, error.request_sent, error.reused), (Cause::Reset, false, true));
    assert!(error.into_failure().provably_unprocessed());
}

#[tokio::test]
async fn an_answer_cut_off_in_its_head_is_no_reuse_race() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(format!("{GET}{GET}")).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send(OK).await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200").await;
    drop(upstream);
    assert!(matches!(proxy.event().await, Event::Open));
    let Event::NotSent(error) = proxy.event().await else { panic!("sent") };
    assert_eq!((error.cause, error.request_sent, error.reused), (Cause::Reset, true, false));
}

#[tokio::test]
async fn a_broken_answer_is_a_protocol_failure() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let (mut proxy, mut caller, backend) = all().await;
        caller.send(GET).await;
        let mut upstream = backend.accept().await;
        upstream.head().await;
        upstream.send(answer).await;
        let Event::NotSent(error) = proxy.event().await else { panic!("accepted {answer:?}") };
        assert_eq!(error.cause, Cause::Protocol, "{answer:?}");
        assert_eq!(error.into_failure().kind, Kind::Protocol);
        upstream.ended().await;
    }
}

#[tokio::test]
async fn bytes_after_an_answer_belong_to_nobody() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send(format!("{OK}{OK}")).await;
    caller.expect(OK).await;
    assert!(matches!(proxy.event().await, Event::Open));
    assert_eq!(proxy.idle.count(), 0);
    caller.send(GET).await;
    backend.accept().await.expect(FORWARDED).await;
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_request() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    drop(caller);
    assert!(matches!(proxy.event().await, Event::Gone));
    upstream.ended().await;

    // The same while the answer is on its way.
    caller = proxy.connect().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    caller.expect("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    drop(caller);
    let Event::Failed(failure) = proxy.event().await else { panic!("not failed") };
    assert_eq!((failure.at, failure.kind), (At::Downstream, Kind::Gone));
    upstream.ended().await;
}

#[tokio::test]
async fn what_a_caller_sends_ahead_does_not_hide_that_it_leaves() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    caller.send(GET).await;
    caller.half_close().await;
    assert!(matches!(proxy.event().await, Event::Gone));
    upstream.ended().await;
}

#[tokio::test]
async fn an_upgrade_hands_over_both_connections_with_what_came_early() {
    let (mut proxy, mut caller, backend) = all().await;
    caller
        .send("GET /chat HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        .await;
    let mut upstream = backend.accept().await;
    upstream
        .expect("GET /chat HTTP/1.1\r\nhost: shop\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        .await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nX-A: 1\r\n\r\nfirst";
    upstream.send(answer).await;
    caller.expect("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\nx-a: 1\r\n\r\nfirst").await;
    assert!(matches!(proxy.event().await, Event::Upgraded));
    upstream.expect("early").await;
    caller.send("ping").await;
    upstream.expect("ping").await;
    upstream.send("pong").await;
    caller.expect("pong").await;
}

#[tokio::test]
async fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let (_proxy, mut caller, backend) = all().await;
    caller
        .send("GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n")
        .await;
    let mut upstream = backend.accept().await;
    upstream
        .expect("GET / HTTP/1.1\r\nhost: shop\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        .await;
    upstream.send(OK).await;
    caller.expect(OK).await;
    caller.send(GET).await;
    upstream.expect(FORWARDED).await;
}

#[tokio::test]
async fn an_upgrade_to_http_2_is_not_passed_on() {
    let (_proxy, mut caller, backend) = all().await;
    let upgrade =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    caller.send(format!("GET / HTTP/1.1\r\nHost: shop\r\n{upgrade}\r\n")).await;
    backend.accept().await.expect(FORWARDED).await;
}

#[tokio::test]
async fn a_refusal_is_answered_and_the_connection_ends() {
    let (mut proxy, mut caller, _backend) = all().await;
    // The caller still sends when it is refused: it must be able to read why.
    caller
        .send("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    caller.send(vec![b'x'; 200_000]).await;
    caller.half_close().await;
    let answer = caller.rest().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nContent-Length beside Transfer-Encoding\n"), "{answer}");
    let Event::Refused(refusal) = proxy.event().await else { panic!("not refused") };
    assert_eq!(refusal.status, 400);
}

#[tokio::test]
async fn a_megabyte_of_fields_is_refused() {
    let (_proxy, mut caller, _backend) = all().await;
    caller.send("GET / HTTP/1.1\r\nHost: shop\r\n").await;
    let line = format!("x-fill: {}\r\n", "y".repeat(1000));
    caller.send(line.repeat(1000)).await;
    caller.half_close().await;
    assert!(caller.rest().await.unwrap().starts_with("HTTP/1.1 431 "));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_arrive_in_time_is_refused() {
    let backend = Backend::bind().await;
    let limits = Limits { head_timeout: Duration::from_secs(5), ..Limits::default() };
    let mut proxy = Proxy::with_limits(backend.address(), limits).await;
    let mut caller = proxy.connect().await;
    caller.send("GET / HT").await;
    // Without PATIENCE: paused time would spend it.
    let mut answer = String::new();
    caller.0.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let Some(Event::Refused(refusal)) = proxy.events.recv().await else { panic!("not refused") };
    assert_eq!(refusal.status, 408);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_is_refused_as_one_that_stops() {
    let backend = Backend::bind().await;
    let limits = Limits { head_timeout: Duration::from_secs(5), ..Limits::default() };
    let proxy = Proxy::with_limits(backend.address(), limits).await;
    let mut caller = proxy.connect().await;
    let start = tokio::time::Instant::now();
    for byte in ["G", "E", "T", " ", "/"] {
        caller.send(byte).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut answer = String::new();
    caller.0.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(6), "the clock of the head, not of each byte");
}

#[tokio::test]
async fn a_reason_of_its_own_is_kept() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 Quite alright\r\nContent-Length: 0\r\n\r\n").await;
    caller.expect("HTTP/1.1 200 Quite alright\r\ncontent-length: 0\r\n\r\n").await;
}

#[tokio::test]
async fn an_upstream_that_closes_is_believed() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(GET).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    caller.expect(OK).await;
    assert!(matches!(proxy.event().await, Event::Open));
    assert_eq!(proxy.idle.count(), 0);
}

#[tokio::test]
async fn a_caller_that_closes_is_told_so() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send("GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.expect(FORWARDED).await;
    upstream.send(OK).await;
    assert_eq!(
        caller.rest().await.unwrap(),
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
    );
}

#[tokio::test]
async fn an_interim_answer_after_the_answer_is_not_sent() {
    let backend = Backend::bind().await;
    let mut caller = Peer(tokio::net::TcpStream::connect(backend.address()).await.unwrap());
    let stream = backend.accept().await.0;
    let mut server = server::Connection::new(stream, &bytes::Bytes::new(), Arc::new(Limits::default()));
    caller.send(format!("{GET}{GET}")).await;
    let Next::Request(request) = server.next_request().await else { panic!("no request") };
    let late = request.extensions().get::<Informational>().cloned().expect("an HTTP/1.1 caller takes them");
    let early_hints = http::StatusCode::EARLY_HINTS;
    late.send(early_hints, &http::HeaderMap::new());
    assert!(matches!(server.respond(http::Response::new("ok".into())).await, Ended::Open));
    late.send(early_hints, &http::HeaderMap::new());
    let Next::Request(_) = server.next_request().await else { panic!("no request") };
    late.send(early_hints, &http::HeaderMap::new());
    assert!(matches!(server.respond(http::Response::new("ok".into())).await, Ended::Open));
    caller.expect(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}{OK}")).await;
}

#[tokio::test]
async fn a_body_kept_past_its_exchange_gives_nothing_of_the_next() {
    let backend = Backend::bind().await;
    let mut caller = Peer(tokio::net::TcpStream::connect(backend.address()).await.unwrap());
    let stream = backend.accept().await.0;
    let mut server = server::Connection::new(stream, &bytes::Bytes::new(), Arc::new(Limits::default()));
    caller.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    let Next::Request(request) = server.next_request().await else { panic!("no request") };
    caller.send("0\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n0\r\n\r\n").await;
    let mut kept = request.into_body();
    assert!(matches!(server.respond(http::Response::new("ok".into())).await, Ended::Open));
    let Next::Request(_second) = server.next_request().await else { panic!("no request") };
    let frame = http_body_util::BodyExt::frame(&mut kept).await;
    assert!(matches!(frame, Some(Err(crate::body::Error::Stale))), "{frame:?}");
}
