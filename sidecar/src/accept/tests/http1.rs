use super::world::*;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::accept::{self, Purpose};
use crate::config::Protocol;
use crate::drain::Phase;
use crate::http1::client;
use crate::outbound::Upstream;

#[tokio::test]
async fn a_call_is_carried_and_connections_are_kept() {
    let (backend, accepted) = http1(ok).await;
    let world = World::new(&[backend]).start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    for _ in 0..3 {
        let request = "POST /a?b HTTP/1.1\r\nHost: reviews\r\nx-fairlead-target: forged\r\nConnection: x-mine\r\nx-mine: 1\r\ncontent-length: 4\r\n\r\nbody";
        caller.write_all(request.as_bytes()).await.unwrap();
        let answer = soon(read_message(&mut caller)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("POST /a?b HTTP/1.1\r\n") && answer.ends_with("body"), "{answer}");
        assert!(answer.contains("x-fairlead-target: shop/reviews:9080#default\r\n"), "{answer}");
        assert!(!answer.contains("forged") && !answer.contains("x-mine"), "{answer}");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    let page = world.metrics();
    let line = r#"fairlead_requests_total{direction="outbound",service="shop/reviews:9080",rule="shop/reviews#default",code="2xx",flag="-"} 3"#;
    assert!(page.contains(line), "{page}");
}

#[tokio::test]
async fn what_nobody_knows_is_answered_in_words() {
    let world = World::new(&[]).start().await;
    let answer = call(world.address, &get("/")).await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("UH: shop/reviews:9080 has no endpoint"),
        "{answer}"
    );
    let answer = call(world.address, "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let grpc = "POST /s/m HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n";
    let answer = call(world.address, grpc).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("grpc-status: 14\r\n"), "{answer}");
}

#[tokio::test]
async fn the_whole_answer_has_a_time() {
    let (silent, _) = backend(|mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let mut world = World::new(&[silent]);
    world.route.timeout = Some(Duration::from_millis(300));
    let answer = call(world.start().await.address, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("UT: "), "{answer}");

    let (stalls, _) = backend(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let mut world = World::new(&[stalls]);
    world.route.timeout = Some(Duration::from_millis(300));
    let world = world.start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    caller.write_all(get("/").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(caller.read_to_end(&mut answer)).await;
    assert!(answer.ends_with(b"\r\n\r\nhalf"), "cut off, and the connection says so");
    assert!(world.metrics().contains(r#"flag="UT"} 1"#), "{}", world.metrics());
}

#[tokio::test]
async fn idle_is_when_neither_side_sends() {
    let (slow, _) = backend(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n").await.unwrap();
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            stream.write_all(b"x").await.unwrap();
        }
        read_request(&mut stream).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let mut world = World::new(&[slow]);
    world.route.idle_timeout = Some(Duration::from_millis(600));
    let world = world.start().await;
    assert!(call(world.address, &get("/")).await.ends_with("xxxxxx"));
    let answer = call(world.address, &get("/")).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_call() {
    let (sender, mut left) = tokio::sync::mpsc::unbounded_channel();
    let (backend, _) = backend(move |mut stream| {
        let sender = sender.clone();
        async move {
            read_request(&mut stream).await;
            sender.send("came").unwrap();
            assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
            sender.send("left").unwrap();
        }
    })
    .await;
    let world = World::new(&[backend]).start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    caller.write_all(get("/").as_bytes()).await.unwrap();
    assert_eq!(soon(left.recv()).await, Some("came"));
    drop(caller);
    assert_eq!(soon(left.recv()).await, Some("left"));
    while world.cluster.live.pool.usage().requests > 0 {
        tokio::task::yield_now().await;
    }
    assert!(world.metrics().contains(r#"code="none",flag="DC"} 1"#), "{}", world.metrics());
}

#[tokio::test]
async fn an_upgrade_becomes_bytes() {
    let (backend, _) = backend(|mut stream| async move {
        let request = read_request(&mut stream).await.unwrap();
        assert!(request.to_ascii_lowercase().contains("upgrade: websocket"), "{request}");
        let head =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello ";
        stream.write_all(head).await.unwrap();
        let mut echo = [0; 4];
        while stream.read_exact(&mut echo).await.is_ok() {
            stream.write_all(&echo).await.unwrap();
        }
    })
    .await;
    let world = World::new(&[backend]).start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    let request = "GET /chat HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    caller.write_all(request.as_bytes()).await.unwrap();
    let head = soon(read_message(&mut caller)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    caller.write_all(b"ping").await.unwrap();
    let mut rest = head.split_once("\r\n\r\n").unwrap().1.to_owned();
    while rest != "hello ping" {
        let mut piece = [0; 16];
        let read = soon(caller.read(&mut piece)).await.unwrap();
        assert!(read > 0, "ended after {rest:?}");
        rest.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert_eq!(world.cluster.live.pool.usage().connections, 1, "it counts as a connection");
    drop(caller);
    while world.cluster.live.pool.usage().connections > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    let (backend, _) = backend(|mut stream| async move {
        let mut some = [0; 1000];
        stream.read_exact(&mut some).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let world = World::new(&[backend]).start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    caller.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await.unwrap();
    caller.write_all(&[b'x'; 2000]).await.unwrap();
    let answer = soon(read_message(&mut caller)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("no!"), "{answer}");
}

#[tokio::test]
async fn who_was_not_told_to_go_on_has_the_whole_answer() {
    let (backend, _) = backend(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let world = World::new(&[backend]).start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    caller.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(caller.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("2\r\nok\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn closing_ends_idle_connections_and_waits_for_busy_ones() {
    let (sender, gate) = tokio::sync::watch::channel(false);
    let (backend, _) = backend(move |mut stream| {
        let mut gate = gate.clone();
        async move {
            while read_request(&mut stream).await.is_some() {
                gate.wait_for(|open| *open).await.unwrap();
                stream.write_all(ok("done").as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let world = World::new(&[backend]).start().await;
    let mut busy = TcpStream::connect(world.address).await.unwrap();
    busy.write_all(get("/").as_bytes()).await.unwrap();
    while world.cluster.live.pool.usage().requests == 0 {
        tokio::task::yield_now().await;
    }
    world.proxy.drain.advance(Phase::Closing);
    sender.send(true).unwrap();
    let answer = soon(read_message(&mut busy)).await.unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("done"), "{answer}");
    drop(busy);
    soon(world.proxy.drain.empty()).await;
}

#[tokio::test]
async fn closing_waits_for_a_head_that_has_begun() {
    let (backend, _) = http1(|_| ok("done")).await;
    let world = World::new(&[backend]).start().await;
    let mut caller = TcpStream::connect(world.address).await.unwrap();
    let idle_again = get("/");
    caller.write_all(idle_again.as_bytes()).await.unwrap();
    soon(read_message(&mut caller)).await.unwrap();
    let (begin, rest) = idle_again.split_at(9);
    caller.write_all(begin.as_bytes()).await.unwrap();
    // What was written before is read when a later connection has its answer: one thread serves both.
    let later = call(world.address, &get("/")).await;
    assert!(later.ends_with("done"), "{later}");
    world.proxy.drain.advance(Phase::Closing);
    let still_there = soon(call_closes(&mut caller, rest)).await;
    assert!(still_there.contains("connection: close\r\n") && still_there.ends_with("done"), "{still_there}");
    soon(world.proxy.drain.empty()).await;
}

/// Lets whoever is to be closed be closed, then sends the rest and reads what comes.
async fn call_closes(caller: &mut TcpStream, rest: &str) -> String {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    caller.write_all(rest.as_bytes()).await.unwrap();
    read_message(caller).await.unwrap()
}

#[tokio::test]
async fn closing_does_not_wait_for_those_who_say_nothing() {
    for protocol in [Protocol::Http, Protocol::Detect] {
        let mut world = World::new(&[]);
        world.protocol = protocol;
        let world = world.start().await;
        let _silent = TcpStream::connect(world.address).await.unwrap();
        while world.proxy.drain.guests() < 2 {
            tokio::task::yield_now().await;
        }
        world.proxy.drain.advance(Phase::Closing);
        soon(world.proxy.drain.empty()).await;
    }
}

#[tokio::test]
async fn an_idle_connection_costs_little() {
    // The future of a connection is what an idle caller costs beside its socket: ten thousand of them are
    // usual, and the rest of a call is in it only as large as its largest step.
    let (proxies, _) = World::new(&[]).proxies(1);
    let upstream = Arc::new(Upstream::new(NAME.into(), &proxies[0].metrics));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_caller, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (stream, peer) = accepted.unwrap();
    let connection = accept::Connection::new(Arc::clone(&proxies[0]), Purpose::Outbound(upstream), peer);
    let request = http::Request::new(crate::body::Body::Empty);
    let call = size_of_val(&connection.answer(false, request));
    let idle = size_of_val(&connection.serve(stream));
    assert!(idle <= 3072 && call <= 4096, "{idle}, {call} during a call");
    assert!(size_of::<client::Connection>() <= 8);
    assert!(size_of::<crate::exchange::Exchange>() <= 128, "{}", size_of::<crate::exchange::Exchange>());
}
