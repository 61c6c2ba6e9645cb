use super::*;

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn settings() -> PoolSettings {
    PoolSettings {
        max_connections: None,
        max_pending_requests: None,
        pending_timeout: Duration::from_secs(3),
        max_requests: None,
        max_requests_per_connection: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Some(Duration::from_secs(90)),
    }
}

fn fresh(address: SocketAddr) -> Ask {
    Ask { address, worker: 0, want: Want::Fresh, to_ourselves: false }
}

/// A listener that counts whom it accepted.
async fn backend() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    spawn_task(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            spawn_task(async move {
                let mut buffer = [0; 1024];
                while let Ok(read) = stream.read(&mut buffer).await
                    && read > 0
                {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, accepted)
}

fn spawn_task(future: impl Future<Output = ()> + Send + 'static) {
    crate::spawn::task(future);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_gives_up_after_its_time() {
    let pool = Pool::default();
    let settings = PoolSettings { max_connections: Some(1), ..settings() };
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let held = pool.admit(&settings, fresh(address)).await.unwrap();
    let start = now();
    let failure = pool.admit(&settings, fresh(address)).await.unwrap_err();
    assert_eq!(failure.kind, Kind::Overflow);
    assert_eq!(now() - start, Duration::from_secs(3));
    assert_eq!(pool.usage().pending, 0);
    drop(held);
    assert_eq!(pool.usage().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_leaks_and_nobody_is_forgotten_when_waiters_leave() {
    let pool = Pool::default();
    let settings = PoolSettings { max_connections: Some(1), ..settings() };
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let held = pool.admit(&settings, fresh(address)).await.unwrap();
    let mut first = Box::pin(pool.admit(&settings, fresh(address)));
    let mut second = Box::pin(pool.admit(&settings, fresh(address)));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    drop(held); // Granted to the first, who leaves without looking.
    drop(first);
    let Ok(Lease::Slot(_)) = second.await else { panic!("the second was forgotten") };
    assert_eq!(pool.usage(), Usage { connections: 0, idle: 0, pending: 0, requests: 0 });
}

#[tokio::test]
async fn max_requests_counts_what_is_in_flight() {
    let pool = Pool::default();
    let settings = PoolSettings { max_requests: Some(2), ..settings() };
    let one = pool.begin(&settings).unwrap();
    let _two = pool.begin(&settings).unwrap();
    assert_eq!(pool.begin(&settings).unwrap_err().kind, Kind::Overflow);
    drop(one);
    assert!(pool.begin(&settings).is_ok());
}

#[tokio::test]
async fn a_refused_connect_frees_the_slot() {
    let pool = Pool::default();
    let settings = PoolSettings { max_connections: Some(1), ..settings() };
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for _ in 0..3 {
        let Ok(Lease::Slot(slot)) = pool.admit(&settings, fresh(closed)).await else { panic!("no slot") };
        let failure = pool.open_bytes(&settings, slot, fresh(closed)).await.unwrap_err();
        assert_eq!((failure.kind, failure.request_sent), (Kind::Connect, false));
    }
    assert_eq!(pool.usage().connections, 0);
}

#[tokio::test]
async fn those_who_joined_learn_why_the_connect_failed() {
    let pool = Arc::new(Pool::default());
    let settings = settings();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let ask = Ask { address: closed, worker: 0, want: Want::Shared, to_ourselves: false };
    let Ok(Lease::Slot(slot)) = pool.admit(&settings, ask).await else { panic!("no slot") };
    let mut joined = Box::pin(pool.admit(&settings, ask));
    assert!(futures::poll!(&mut joined).is_pending());
    assert!(pool.open_http2(&settings, slot, ask).await.is_err());
    assert_eq!(joined.await.unwrap_err().kind, Kind::Connect);
}

#[tokio::test]
async fn a_kept_connection_is_reused_and_closed_with_the_pool() {
    let (address, accepted) = backend().await;
    let pool = Pool::default();
    let settings = settings();
    let ask = Ask { address, worker: 0, want: Want::Exclusive, to_ourselves: false };
    for round in 0..3 {
        let connection = match pool.admit(&settings, ask).await.unwrap() {
            Lease::Slot(slot) if round == 0 => pool.open_http1(&settings, slot, ask).await.unwrap(),
            Lease::Http1(_, connection) => connection,
            other => panic!("round {round}: {other:?}"),
        };
        let request = http::Request::get("/").header("host", "x").body(crate::body::Body::Empty).unwrap();
        let response = connection.0.send(request).await.unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    assert_eq!(pool.usage().idle, 1);
    let inner = Arc::downgrade(&pool.0);
    drop(pool);
    assert!(inner.upgrade().is_none(), "a pool must not keep itself alive");
}
