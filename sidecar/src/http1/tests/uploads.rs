//! Request bodies: while the answer is awaited, while it comes, and after it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::*;
use crate::failure::Kind;
use crate::http1::Limits;
use crate::http1::client::Cause;

const BIG: usize = 3_000_000;

fn post(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test]
async fn big_bodies_go_both_ways_unchanged() {
    let (_proxy, caller, backend) = all().await;
    let content: Vec<u8> = (0..BIG).map(|byte| (byte % 251) as u8).collect();
    let (mut from, mut to) = caller.0.into_split();
    let sent = content.clone();
    spawn(async move {
        to.write_all(post(BIG).as_bytes()).await.unwrap();
        to.write_all(&sent).await.unwrap();
        std::future::pending::<()>().await;
    });
    let mut upstream = backend.accept().await;
    upstream.head().await;
    let mut got = vec![0; BIG];
    upstream.0.read_exact(&mut got).await.unwrap();
    assert!(got == content);
    // Back in chunks of all sizes.
    spawn(async move {
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let (mut rest, mut size) = (&got[..], 1);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            upstream.send(format!("{:x}\r\n", chunk.len())).await;
            upstream.send(chunk).await;
            upstream.send("\r\n").await;
            (rest, size) = (after, size * 3);
        }
        upstream.send("0\r\n\r\n").await;
        std::future::pending::<()>().await;
    });
    let mut answer = Vec::new();
    while !answer.ends_with(b"0\r\n\r\n") {
        let read = tokio::time::timeout(PATIENCE, from.read_buf(&mut answer)).await.unwrap().unwrap();
        assert!(read > 0);
    }
    let whole = crate::http1::fuzzing::read(
        crate::http1::fuzzing::Kind::Responses(&http::Method::GET),
        &Limits::default(),
        [&answer[..]],
    );
    assert!(whole.iter().any(|event| *event == crate::http1::fuzzing::Event::Data(content.clone().into())));
}

#[tokio::test]
async fn an_echo_streams_both_ways_at_once() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    caller.head().await;
    for _ in 0..10 {
        caller.send("4\r\nping\r\n").await;
        upstream.expect("4\r\nping\r\n").await;
        upstream.send("4\r\npong\r\n").await;
        caller.expect("4\r\npong\r\n").await;
    }
    caller.send("0\r\n\r\n").await;
    upstream.expect("0\r\n\r\n").await;
    upstream.send("0\r\n\r\n").await;
    caller.expect("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_caller_that_reads_only_after_it_has_sent_everything_is_served() {
    let (_proxy, caller, backend) = all().await;
    let (mut from, mut to) = caller.0.into_split();
    let upstream = backend.accept();
    to.write_all(post(BIG).as_bytes()).await.unwrap();
    let upstream = upstream.await;
    let (mut up_from, mut up_to) = upstream.0.into_split();
    // The upstream answers with far more than the sockets hold, and reads at the same time.
    spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 4 * BIG);
        up_to.write_all(head.as_bytes()).await.unwrap();
        up_to.write_all(&vec![b'a'; 4 * BIG]).await.unwrap();
        std::future::pending::<()>().await;
    });
    spawn(async move {
        let _ = tokio::io::copy(&mut up_from, &mut tokio::io::sink()).await;
    });
    tokio::time::timeout(PATIENCE, to.write_all(&vec![b'b'; BIG]))
        .await
        .expect("the upload goes on")
        .unwrap();
    let mut answer = vec![0; 4 * BIG];
    tokio::time::timeout(PATIENCE, from.read_exact(&mut answer)).await.expect("the answer comes").unwrap();
}

#[tokio::test]
async fn a_good_answer_does_not_end_the_upload() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(post(8)).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok").await;
    caller.expect("HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok").await;
    caller.send("all of").await;
    upstream.expect("all of").await;
    caller.send("it").await;
    upstream.expect("it").await;
    assert!(matches!(proxy.event().await, Event::Open));
    assert_eq!(proxy.idle.count(), 1);
}

#[tokio::test]
async fn an_error_before_the_upload_is_complete_ends_it() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(post(1000)).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    caller.expect("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await;
    upstream.ended().await;
    // The rest is read away, and the connection goes on.
    caller.send(vec![b'x'; 1000]).await;
    assert!(matches!(proxy.event().await, Event::Open));
    caller.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await;
    backend.accept().await.head().await;
}

#[tokio::test]
async fn an_upstream_that_answers_and_closes_in_the_middle_of_the_upload_is_heard() {
    // More than all the sockets on the way hold.
    const HUGE: usize = 50_000_000;
    let (mut proxy, caller, backend) = all().await;
    let (mut from, mut to) = caller.0.into_split();
    spawn(async move {
        let _ = to.write_all(post(HUGE).as_bytes()).await;
        let _ = to.write_all(&vec![b'x'; HUGE]).await;
        std::future::pending::<()>().await;
    });
    let mut upstream = backend.accept().await;
    upstream.head().await;
    let answer = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno";
    upstream.send(answer).await;
    upstream.half_close().await;
    let mut got = vec![0; "HTTP/1.1 403 Forbidden".len()];
    tokio::time::timeout(PATIENCE, from.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, b"HTTP/1.1 403 Forbidden");
    // Too much to read away: the connection ends, but not before the caller could read the answer.
    let event = proxy.event().await;
    assert!(matches!(event, Event::Ended), "{event:?}");
}

#[tokio::test]
async fn a_caller_that_breaks_off_its_body_breaks_off_the_request() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send(post(10)).await;
    caller.send("half").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.expect("half").await;
    drop(caller);
    let Event::NotSent(error) = proxy.event().await else { panic!("sent") };
    assert_eq!(error.cause, Cause::Upload);
    assert_eq!(error.into_failure().kind, Kind::Gone);
    upstream.ended().await;
}

#[tokio::test]
async fn a_malformed_body_is_the_callers_fault() {
    let (mut proxy, mut caller, backend) = all().await;
    caller.send("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokNO").await;
    let Event::NotSent(error) = proxy.event().await else { panic!("sent") };
    assert_eq!(error.cause, Cause::BadUpload);
    assert_eq!(error.into_failure().kind, Kind::BadRequest);
    let head = caller.head().await;
    assert!(head.contains("connection: close"), "{head}");
    drop(backend);
}

#[tokio::test]
async fn a_chunked_body_cut_off_never_looks_complete_to_the_upstream() {
    let (_proxy, mut caller, backend) = all().await;
    caller.send("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.expect("2\r\nok\r\n").await;
    drop(caller);
    upstream.ended().await;
}

#[tokio::test]
async fn an_unread_body_is_read_away_only_so_far() {
    let backend = Backend::bind().await;
    let limits = Limits { drain_bytes: 100, linger: Duration::from_millis(200), ..Limits::default() };
    let mut proxy = Proxy::with_limits(backend.address(), limits).await;
    let mut caller = proxy.connect().await;
    caller.send(post(1000)).await;
    let mut upstream = backend.accept().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    caller.expect("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    caller.send(vec![b'x'; 500]).await;
    caller.ended().await;
    assert!(matches!(proxy.event().await, Event::Ended));
}
