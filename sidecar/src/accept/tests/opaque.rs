use super::world::*;

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Protocol;

#[tokio::test]
async fn bytes_are_carried_and_balanced() {
    let echo = |mut stream: TcpStream| async move {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
    };
    let ((one, at_one), (two, at_two)) = (backend(echo).await, backend(echo).await);
    let mut world = World::new(&[closed().await, one, two]);
    world.protocol = Protocol::Opaque;
    let world = world.start().await;
    for _ in 0..6 {
        let mut caller = TcpStream::connect(world.address).await.unwrap();
        caller.write_all(b"select 1").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut answer = String::new();
        soon(caller.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "SELECT 1");
    }
    assert_eq!(at_one.load(Ordering::SeqCst) + at_two.load(Ordering::SeqCst), 6);
    assert!(at_one.load(Ordering::SeqCst) > 0 && at_two.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn an_upstream_that_speaks_first_is_heard() {
    let (server_first, _) = backend(|mut stream: TcpStream| async move {
        stream.write_all(b"220 mail ready\r\n").await.unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(b"250 ok\r\n").await.unwrap();
    })
    .await;
    let mut world = World::new(&[server_first]);
    world.protocol = Protocol::Detect;
    let world = world.start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    let mut greeting = [0; 16];
    soon(caller.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 mail ready\r\n");
    caller.write_all(b"HELO\r\n").await.unwrap();
    let mut answer = String::new();
    soon(caller.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "250 ok\r\n");
}

#[tokio::test]
async fn a_slow_http_caller_is_still_http() {
    let (endpoint, accepted) = http1(ok).await;
    let mut world = World::new(&[endpoint]);
    world.protocol = Protocol::Detect;
    let world = world.start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    caller.write_all(b"GET /slow").await.unwrap();
    // The connection to the upstream is opened meanwhile, in case that it speaks first.
    while accepted.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    caller.write_all(b" HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let answer = soon(read_message(&mut caller)).await.unwrap();
    assert!(answer.contains("x-fairlead-target: shop/reviews:9080#default"), "routed, not carried: {answer}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "and on the connection that was opened");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_begins_and_does_not_go_on_is_closed_with_what_it_held() {
    let (endpoint, accepted) = backend(|stream: TcpStream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let mut world = World::new(&[endpoint]);
    world.protocol = Protocol::Detect;
    let world = world.start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    caller.write_all(b"GET /slow").await.unwrap();
    let mut answer = Vec::new();
    let limit = std::time::Duration::from_secs(60);
    let ended = tokio::time::timeout(limit, caller.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(ended.is_err() || answer.is_empty(), "{answer:?}");
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    while world.cluster.live.pool.usage().connections > 0 {
        tokio::task::yield_now().await;
    }
}
