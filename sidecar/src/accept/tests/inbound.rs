use super::world::*;

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::config::Protocol;
use crate::drain::Phase;
use crate::rate_limit::{InboundSettings, LimitSettings, PolicySettings, ResponseSettings};
use crate::spawn;

pub fn limited(requests: u32) -> InboundSettings {
    let policy = PolicySettings {
        name: "shop/reviews".into(),
        shadow: false,
        from: Vec::new(),
        limits: vec![LimitSettings {
            name: "few".into(),
            matches: Vec::new(),
            key: Vec::new(),
            requests,
            per_ms: 3_600_000,
            burst: requests,
            algorithm: "TokenBucket".into(),
        }],
        response: ResponseSettings { status: 429, body: "slow down".into(), headers: Vec::new() },
    };
    let targets = HashMap::from([(NAME.into(), vec![policy.name.clone()])]);
    InboundSettings { services: vec![NAME.into()], policies: vec![policy], targets }
}

#[tokio::test]
async fn limits_hold_and_answers_say_how_much_is_left() {
    let (application, _) = http1(ok).await;
    let (address, _) = inbound(application, Protocol::Http, limited(2)).await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\nx-fairlead-target: shop/reviews:9080#canary\r\n\r\n";
    for left in ["1", "0"] {
        let answer = call(address, request).await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        assert!(answer.contains(&format!("ratelimit-remaining: {left}\r\n")), "{answer}");
        assert!(!answer.contains("x-fairlead-target"), "not for applications: {answer}");
    }
    let answer = call(address, request).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 429 ") && answer.ends_with("slow down"), "{answer}");
    assert!(answer.contains("retry-after: 1800\r\n"), "{answer}");
}

#[tokio::test]
async fn what_is_not_handed_over_is_said_to_be_so() {
    let (address, _) = inbound(closed().await, Protocol::Http, InboundSettings::default()).await;
    let answer = call(address, &post("order")).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-fairlead-unprocessed: connecting to "),
        "{answer}"
    );

    let stream = TcpStream::connect(address).await.unwrap();
    let (mut caller, connection) =
        hyper::client::conn::http2::handshake(spawn::Executor, TokioIo::new(stream)).await.unwrap();
    spawn::task(async move {
        let _ = connection.await;
    });
    let request = http::Request::post("http://a/").body(Full::new(Bytes::from_static(b"x"))).unwrap();
    let error = soon(caller.send_request(request)).await.unwrap_err();
    let cause =
        std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>()).unwrap();
    assert_eq!(cause.reason(), Some(h2::Reason::REFUSED_STREAM));
}

#[tokio::test]
async fn what_was_handed_over_is_not_said_to_be_unprocessed() {
    let (application, processed) = backend(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    let (address, _) = inbound(application, Protocol::Http, InboundSettings::default()).await;
    let answer = call(address, &post("order")).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && !answer.contains("x-fairlead-unprocessed"), "{answer}");
    assert_eq!(processed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_application_cannot_say_unprocessed() {
    let lie = "HTTP/1.1 503 Service Unavailable\r\nx-fairlead-unprocessed: so\r\ncontent-length: 0\r\n\r\n";
    let (application, _) = http1(|_| lie.to_owned()).await;
    let (address, _) = inbound(application, Protocol::Http, InboundSettings::default()).await;
    assert!(!call(address, &get("/")).await.contains("x-fairlead-unprocessed"));
}

#[tokio::test]
async fn draining_answers_close_and_uses_fresh_connections() {
    let (application, accepted) = http1(|_| ok("still here")).await;
    let (address, proxy) = inbound(application, Protocol::Http, InboundSettings::default()).await;
    let mut kept = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        kept.write_all(get("/").as_bytes()).await.unwrap();
        soon(read_message(&mut kept)).await.unwrap();
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    proxy.drain.advance(Phase::Draining);
    kept.write_all(get("/").as_bytes()).await.unwrap();
    let answer = soon(read_message(&mut kept)).await.unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("still here"), "{answer}");
    let answer = call(address, &get("/")).await;
    assert!(answer.contains("connection: close\r\n"), "whoever comes late is served: {answer}");
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn draining_serves_late_http2_callers_too() {
    let (application, _) = backend(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            let response = http::Response::builder().status(204).body(()).unwrap();
            respond.send_response(response, true).unwrap();
        }
    })
    .await;
    let (address, proxy) = inbound(application, Protocol::Http, InboundSettings::default()).await;
    proxy.drain.advance(Phase::Draining);
    for _ in 0..5 {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut caller, connection) =
            hyper::client::conn::http2::handshake(spawn::Executor, TokioIo::new(stream)).await.unwrap();
        spawn::task(async move {
            let _ = connection.await;
        });
        let request = http::Request::post("http://a/").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        let response = soon(caller.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 204);
    }
}
