//! Both drivers between real sockets: one exchange in every shape that it can take.

use super::harness::*;

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
