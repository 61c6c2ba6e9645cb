use super::world::*;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::UpstreamProtocol;
use crate::spawn;

/// An HTTP/2 backend that answers with its own number, the request's path and body, and trailers.
async fn echo(number: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    backend(move |stream| async move {
        let service = service_fn(move |request: Request<Incoming>| async move {
            let path = request.uri().path().to_owned();
            let authority = request.uri().authority().map(ToString::to_string);
            let te = request.headers().contains_key("te");
            let target = request.headers().contains_key("x-fairlead-target");
            let collected = request.into_body().collect().await?;
            let trailer = collected.trailers().and_then(|trailers| trailers.get("x-sum").cloned());
            let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            if let Some(trailer) = trailer {
                trailers.insert("x-sum", trailer);
            }
            let text = format!("{number} {path} {authority:?} te:{te} target:{target} {body}");
            let frames = [
                Ok::<_, hyper::Error>(http_body::Frame::data(Bytes::from(text))),
                Ok(http_body::Frame::trailers(trailers)),
            ];
            let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)));
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            Ok::<_, hyper::Error>(response)
        });
        let server = hyper::server::conn::http2::Builder::new(spawn::Executor);
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

async fn connect<B>(address: SocketAddr) -> SendRequest<B>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(spawn::Executor, TokioIo::new(stream)).await.unwrap();
    spawn::task(async move {
        let _ = connection.await;
    });
    sender
}

fn grpc(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://reviews/s/m")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

#[tokio::test]
async fn each_request_is_balanced_and_trailers_arrive() {
    let ((one, accepted), (two, _)) = (echo(1).await, echo(2).await);
    let mut world = World::new(&[one, two]);
    world.upstream = UpstreamProtocol::Http2;
    let world = world.start().await;
    let mut caller = connect(world.address).await;
    let mut by = [0; 3];
    for _ in 0..10 {
        let response = soon(caller.send_request(grpc("body"))).await.unwrap();
        let collected = soon(response.into_body().collect()).await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        let text = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
        assert!(text.ends_with(r#" /s/m Some("reviews") te:true target:true body"#), "{text}");
        by[text[..1].parse::<usize>().unwrap()] += 1;
    }
    assert_eq!(by, [0, 5, 5]);
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "streams share a connection");
}

#[tokio::test]
async fn versions_combine_freely() {
    let (backend, _) = echo(1).await;
    let mut world = World::new(&[backend]);
    world.upstream = UpstreamProtocol::Http2;
    let world = world.start().await;
    let chunked = "POST /a HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 9\r\n\r\n";
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut caller, chunked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") || !answer.contains("grpc-status: 0") {
        let mut piece = [0; 512];
        let read = soon(tokio::io::AsyncReadExt::read(&mut caller, &mut piece)).await.unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(answer.contains(r#"1 /a Some("reviews") te:false target:true body"#), "{answer}");
    assert!(answer.contains("x-sum: 9\r\n"), "trailers both ways: {answer}");

    let (backend, _) = http1(ok).await;
    let world = World::new(&[backend]).start().await;
    let mut caller = connect(world.address).await;
    let response = soon(caller.send_request(grpc("body"))).await.unwrap();
    let text = soon(response.into_body().collect()).await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
    assert!(text.starts_with("post /s/m http/1.1\r\nhost: reviews\r\n"), "{text}");
    assert!(text.contains("te: trailers\r\n") && text.ends_with("body"), "{text}");
}

/// An HTTP/2 backend on h2 itself: what becomes of each stream is the test's choice.
async fn scripted<F>(script: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(&mut h2::server::SendResponse<Bytes>, usize) -> bool + Clone + Send + 'static,
{
    backend(move |stream| {
        let script = script.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut count = 0;
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                count += 1;
                if !script(&mut respond, count) {
                    connection.graceful_shutdown();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_refused_stream_is_tried_elsewhere() {
    let (refuses, _) = scripted(|respond, _| {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        true
    })
    .await;
    let (good, _) = echo(2).await;
    let mut world = World::new(&[refuses, good]);
    world.upstream = UpstreamProtocol::Http2;
    world.outlier = Some(outlier());
    let world = world.start().await;
    for _ in 0..4 {
        let mut caller = connect(world.address).await;
        let response = soon(caller.send_request(grpc("order"))).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers().get("grpc-status").is_none());
    }
    assert_eq!(world.cluster.ejected(), 1, "no connection to the application: it counts");
}

/// A frame of HTTP/2 on stream 1, or on none for SETTINGS.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let stream = u8::from(kind != 4);
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn an_answer_that_is_reset_without_an_error_is_not_complete() {
    // By hand, for h2 takes back what waits when it resets. 200, and once the length, which says that this is all.
    for (head, complete) in [(&b"\x88"[..], false), (b"\x88\x0f\x0d\x014", true)] {
        let answer = [frame(1, 4, head), frame(0, 0, b"half"), frame(3, 0, &[0; 4])].concat();
        let (cuts, _) = backend(move |mut stream| {
            let answer = answer.clone();
            async move {
                stream.write_all(&frame(4, 0, &[])).await.unwrap();
                let mut all = Vec::new();
                // The request's HEADERS, with END_STREAM and END_HEADERS, on stream 1.
                while !all.windows(6).any(|bytes| bytes == [1, 5, 0, 0, 0, 1]) {
                    assert!(stream.read_buf(&mut all).await.unwrap() > 0);
                }
                stream.write_all(&answer).await.unwrap();
                let _ = stream.read_to_end(&mut all).await;
            }
        })
        .await;
        let mut world = World::new(&[cuts]);
        world.upstream = UpstreamProtocol::Http2;
        let world = world.start().await;
        let mut caller = TcpStream::connect(world.address).await.unwrap();
        let request = "GET / HTTP/1.1\r\nhost: reviews:9080\r\nconnection: close\r\n\r\n";
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = soon(caller.read_to_string(&mut answer)).await;
        let wanted = if complete { "\r\n\r\nhalf" } else { "\r\n4\r\nhalf\r\n" };
        assert!(answer.ends_with(wanted), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_is_reset_without_an_error_is_not_complete() {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (backend, _) = backend(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut all = Vec::new();
            while stream.read_buf(&mut all).await.is_ok_and(|read| read > 0) {
                if all.ends_with(b"half\r\n") {
                    sender.send(all.clone()).unwrap();
                }
            }
            let _ = sender.send(all);
        }
    })
    .await;
    let world = World::new(&[backend]).start().await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut caller, connection) = h2::client::handshake(stream).await.unwrap();
    spawn::task(async { _ = connection.await });
    let request = Request::post("http://reviews:9080/").body(()).unwrap();
    let (_answer, mut body) = caller.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    soon(seen.recv()).await.unwrap();
    body.send_reset(h2::Reason::NO_ERROR);
    let all = soon(seen.recv()).await.unwrap();
    assert!(all.ends_with(b"half\r\n"), "{}", String::from_utf8_lossy(&all));
}

#[tokio::test]
async fn any_other_reset_is_not() {
    let (resets, accepted) = scripted(|respond, _| {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        true
    })
    .await;
    let mut world = World::new(&[resets]);
    world.upstream = UpstreamProtocol::Http2;
    let world = world.start().await;
    let mut caller = connect(world.address).await;
    let response = soon(caller.send_request(grpc("order"))).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert!(world.metrics().contains(r#"flag="UC"} 1"#), "{}", world.metrics());
}

#[tokio::test]
async fn a_connection_that_says_goaway_loses_no_request() {
    let (leaves, accepted) = scripted(|respond, count| {
        let response = Response::builder().status(200).body(()).unwrap();
        respond.send_response(response, true).unwrap();
        count < 2
    })
    .await;
    let mut world = World::new(&[leaves]);
    world.upstream = UpstreamProtocol::Http2;
    let world = world.start().await;
    let mut caller = connect(world.address).await;
    for _ in 0..20 {
        let request = Request::post("http://reviews/").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        let response = soon(caller.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert!(accepted.load(Ordering::SeqCst) >= 5);
}

#[tokio::test]
async fn a_caller_that_resets_cancels_upstream() {
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let (backend, _) = backend(move |stream| {
        let sender = sender.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                let sender = sender.clone();
                spawn::task(async move {
                    sender.send(None).unwrap();
                    let reason = std::future::poll_fn(|context| respond.poll_reset(context)).await;
                    let _ = sender.send(reason.ok());
                });
            }
        }
    })
    .await;
    let mut world = World::new(&[backend]);
    world.upstream = UpstreamProtocol::Http2;
    let world = world.start().await;
    let mut caller = connect(world.address).await;
    let call = tokio::task::LocalSet::new();
    let request = caller.send_request(grpc("x"));
    call.run_until(async {
        tokio::select! {
            _ = request => panic!("nobody answers"),
            event = events.recv() => assert_eq!(event, Some(None)),
        }
    })
    .await;
    assert_eq!(soon(events.recv()).await, Some(Some(h2::Reason::CANCEL)));
}

/// Sends a request without `:authority`, as one that was HTTP/1.1 before.
async fn sent_on(address: SocketAddr, request: http::request::Builder) -> (u16, String) {
    let request = request.version(http::Version::HTTP_11).body(Full::new(Bytes::new())).unwrap();
    let response = soon(connect(address).await.send_request(request)).await.unwrap();
    let status = response.status().as_u16();
    let text = soon(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn what_the_next_hop_would_read_in_another_way_is_refused() {
    let (backend, accepted) = http1(ok).await;
    let world = World::new(&[backend]).start().await;
    for (refused, why) in [
        (Request::get("/").header("host", "a").header("host", "b"), "DPE: two Hosts\n"),
        (Request::get("/").header("host", "a b/c"), "DPE: malformed Host\n"),
        (Request::get("http://user@a/"), "DPE: malformed :authority\n"),
        (Request::get("http://a?query"), "DPE: malformed :path\n"),
    ] {
        assert_eq!(sent_on(world.address, refused).await, (400, why.to_owned()));
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 0);
    let (status, text) = sent_on(world.address, Request::get("/").header("host", "one")).await;
    assert!(status == 200 && text.contains("\r\nhost: one\r\n"), "{status} {text}");
    let (status, text) = sent_on(world.address, Request::get("http://one/").header("host", "two")).await;
    assert!(status == 200 && text.contains("\r\nhost: one\r\n") && !text.contains("two"), "{status} {text}");
}
