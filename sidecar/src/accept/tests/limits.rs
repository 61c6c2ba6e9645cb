use super::world::*;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::accept::Purpose;
use crate::outbound::Upstream;

/// Four workers, as threads have them, on one runtime.
#[tokio::test]
async fn the_limits_are_exact_across_workers() {
    let (sender, gate) = tokio::sync::watch::channel(false);
    let (endpoint, accepted) = backend(move |mut stream: TcpStream| {
        let mut gate = gate.clone();
        async move {
            while read_request(&mut stream).await.is_some() {
                gate.wait_for(|open| *open).await.unwrap();
                stream.write_all(ok("served").as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let mut world = World::new(&[endpoint]);
    world.pool.max_connections = Some(4);
    world.pool.max_pending_requests = Some(2);
    let (proxies, cluster) = world.proxies(4);
    let mut addresses = Vec::new();
    for proxy in &proxies {
        let upstream = Arc::new(Upstream::new(NAME.into(), &proxy.metrics));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        crate::spawn::task(crate::accept::listen(Arc::clone(proxy), listener, Purpose::Outbound(upstream)));
    }
    let calls = (0..100).map(|number| {
        let address = addresses[number % 4];
        async move { call(address, &post("x")).await }
    });
    let refused_first = async {
        while cluster.live.pool.usage().requests != 6 || accepted.load(Ordering::SeqCst) != 4 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        sender.send(true).unwrap();
    };
    let (answers, ()) = soon(async { tokio::join!(futures::future::join_all(calls), refused_first) }).await;
    let served = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200 ")).count();
    let refused = answers.iter().filter(|answer| answer.contains("UO: maxConnections: 4 are open")).count();
    // Whoever comes while four are busy and two wait is refused; nobody comes later in this test.
    assert_eq!((served, refused), (6, 94));
    assert_eq!(accepted.load(Ordering::SeqCst), 4);
    let usage = cluster.live.pool.usage();
    assert_eq!((usage.connections, usage.idle, usage.pending, usage.requests), (4, 4, 0, 0));
}

#[tokio::test]
async fn one_request_a_connection_switches_keep_alive_off() {
    let (endpoint, accepted) = http1(ok).await;
    let mut world = World::new(&[endpoint]);
    world.pool.max_requests_per_connection = Some(1);
    let world = world.start().await;
    for _ in 0..3 {
        let answer = call(world.address, &get("/")).await;
        assert!(answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
    assert_eq!(world.cluster.live.pool.usage().connections, 0);
}

#[tokio::test]
async fn at_the_limit_an_idle_connection_elsewhere_gives_way() {
    let ((one, at_one), (two, at_two)) = (http1(|_| ok("1")).await, http1(|_| ok("2")).await);
    let mut world = World::new(&[one, two]);
    world.pool.max_connections = Some(1);
    world.pool.max_pending_requests = Some(0);
    let world = world.start().await;
    let mut seen = String::new();
    for _ in 0..4 {
        seen.extend(call(world.address, &get("/")).await.chars().last());
    }
    assert_eq!(seen.matches('1').count(), 2, "{seen}");
    assert_eq!((at_one.load(Ordering::SeqCst), at_two.load(Ordering::SeqCst)), (2, 2));
    assert_eq!(world.cluster.live.pool.usage().connections, 1);
}
