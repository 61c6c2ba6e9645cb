use super::world::*;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::retry::Condition;

#[tokio::test]
async fn a_failed_connect_is_tried_elsewhere_whatever_the_method() {
    let (good, _) = http1(|request| ok(request.rsplit("\r\n").next().unwrap())).await;
    let mut world = World::new(&[closed().await, good]);
    world.outlier = Some(outlier());
    let world = world.start().await;
    for _ in 0..10 {
        let answer = call(world.address, &post("order")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("order"), "{answer}");
    }
    assert_eq!(world.cluster.ejected(), 1, "it counts for ejection");
    assert!(world.metrics().contains("fairlead_retries_total{"), "{}", world.metrics());
}

#[tokio::test]
async fn a_grpc_status_of_what_is_not_grpc_sends_nothing_twice() {
    for (kind, sent) in [("application/json", 1), ("application/grpc", 3)] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let (backend, _) = http1(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n")
        })
        .await;
        let mut world = World::new(&[backend]);
        world.route.retry.grpc_codes = vec![14];
        let world = world.start().await;
        call(world.address, &post("order")).await;
        assert_eq!(count.load(Ordering::SeqCst), sent, "{kind}");
    }
}

#[tokio::test]
async fn a_remote_sidecar_without_application_is_a_failed_connect() {
    let unprocessed = "HTTP/1.1 503 Service Unavailable\r\nx-fairlead-unprocessed: connection refused\r\ncontent-length: 0\r\n\r\n";
    let (empty, _) = http1(|_| unprocessed.to_owned()).await;
    let (good, _) = http1(|_| ok("ok")).await;
    let mut world = World::new(&[empty, good]);
    world.outlier = Some(outlier());
    let world = world.start().await;
    for _ in 0..4 {
        assert!(call(world.address, &post("order")).await.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(world.cluster.ejected(), 1);

    let (empty, _) = http1(|_| unprocessed.to_owned()).await;
    let answer = call(World::new(&[empty]).start().await.address, &post("order")).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("UF: the endpoint's sidecar: connection refused"),
        "{answer}"
    );
    assert!(!answer.contains("x-fairlead-unprocessed"), "not for applications: {answer}");
}

/// A backend that reads a request and resets, and counts what it has read.
async fn resets(count: &Arc<AtomicUsize>) -> std::net::SocketAddr {
    let count = Arc::clone(count);
    backend(move |mut stream: TcpStream| {
        let count = Arc::clone(&count);
        async move {
            if read_request(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                crate::opaque::reset(&stream);
            }
        }
    })
    .await
    .0
}

#[tokio::test]
async fn what_may_have_been_processed_is_not_sent_twice() {
    let processed = Arc::new(AtomicUsize::new(0));
    let endpoints = [resets(&processed).await, resets(&processed).await];
    let mut world = World::new(&endpoints);
    world.route.retry.conditions.push(Condition::Reset);
    let world = world.start().await;
    for _ in 0..5 {
        let answer = call(world.address, &post("order")).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("UC: "), "{answer}");
    }
    assert_eq!(processed.load(Ordering::SeqCst), 5);
    assert!(world.metrics().contains(r#"reason="not_idempotent"} 5"#), "{}", world.metrics());
    call(world.address, &get("/")).await;
    assert_eq!(processed.load(Ordering::SeqCst), 5 + 3, "an idempotent one is, where the rule asks for it");
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    let (backend, accepted) = backend(|mut stream: TcpStream| async move {
        read_request(&mut stream).await;
        stream.write_all(ok("once").as_bytes()).await.unwrap();
    })
    .await;
    let world = World::new(&[backend]).start().await;
    for _ in 0..5 {
        assert!(call(world.address, &post("x")).await.ends_with("once"));
        while accepted.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_body_is_replayed_up_to_a_size() {
    let (seen, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let (backend, _) = http1(move |request| {
        let body = request.split_once("\r\n\r\n").unwrap().1;
        seen.send(body.len()).unwrap();
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned()
    })
    .await;
    let mut world = World::new(&[backend]);
    world.route.retry.codes = vec![http::StatusCode::SERVICE_UNAVAILABLE];
    let world = world.start().await;
    let put = |size: usize| {
        format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n{}", "x".repeat(size))
    };
    call(world.address, &put(60_000)).await;
    for _ in 0..3 {
        assert_eq!(soon(bodies.recv()).await, Some(60_000));
    }
    call(world.address, &put(200_000)).await;
    assert_eq!(soon(bodies.recv()).await, Some(200_000));
    assert!(bodies.try_recv().is_err(), "too large to be sent again");
    assert!(world.metrics().contains(r#"reason="body_not_replayable"} 1"#), "{}", world.metrics());
}

#[tokio::test]
async fn a_slow_attempt_is_given_up_for_another() {
    let (silent, _) = backend(|mut stream: TcpStream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (good, _) = http1(|_| ok("quick")).await;
    let mut world = World::new(&[silent, good]);
    world.route.per_try_timeout = Some(Duration::from_millis(300));
    world.route.retry.conditions.push(Condition::Timeout);
    let world = world.start().await;
    for _ in 0..4 {
        assert!(call(world.address, &get("/")).await.ends_with("quick"));
    }
    let mut timed_out = 0;
    for _ in 0..4 {
        let answer = call(world.address, &post("x")).await;
        timed_out += usize::from(answer.starts_with("HTTP/1.1 504 "));
    }
    assert_eq!(timed_out, 2, "a POST may have been processed: every other one meets the silent endpoint");
}

#[tokio::test]
async fn a_broken_answer_is_never_tried_again_and_never_looks_complete() {
    let (broken, accepted) = backend(|mut stream: TcpStream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .unwrap();
    })
    .await;
    let mut world = World::new(&[broken]);
    world.route.retry.conditions.push(Condition::Reset);
    let world = world.start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    caller.write_all(get("/").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(caller.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("hello") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_status_that_is_hidden_by_a_retry_still_counts_for_ejection() {
    let (bad, _) =
        http1(|_| "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
    let (good, _) = http1(|_| ok("good")).await;
    let mut world = World::new(&[bad, good]);
    world.route.retry.codes = vec![http::StatusCode::SERVICE_UNAVAILABLE];
    world.outlier = Some(outlier());
    let world = world.start().await;
    for _ in 0..4 {
        assert!(call(world.address, &get("/")).await.ends_with("good"));
    }
    assert_eq!(world.cluster.ejected(), 1);
}
