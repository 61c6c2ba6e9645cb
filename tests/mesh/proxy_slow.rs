//! Peers that do not read, do not answer, do not even accept: what they make a sidecar hold is bounded, and
//! nobody else waits for them.

use std::net::SocketAddr;

use bytes::Bytes;
use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Call, Http1, Http2};
use fairlead_tests::endless::Endless;
use fairlead_tests::load::{Summary, burst};
use fairlead_tests::until::holds;
use fairlead_tests::world::{Sidecar, SidecarFlags, World};
use futures::future::poll_fn;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// `/endless` leads to an application that comes to no end, `/closed` to one that accepts nothing, the rest to one
/// that answers.
const ROUTE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - matches: [{path: {value: /endless}}]
    backendRefs: [{name: endless, port: 9080}]
  - matches: [{path: {value: /closed}}]
    backendRefs: [{name: closed, port: 9080}]
  - backendRefs: [{name: reviews, port: 9080}]
---
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: closed, namespace: shop}
spec:
  parentRefs: [{name: closed}]
  connectionPool: {connectTimeout: 60s}
";

struct Shop {
    sidecar: Sidecar,
    address: SocketAddr,
    endless: Endless,
    /// Its backlog is full, and stays so.
    _closed: (std::net::TcpListener, Vec<TcpStream>),
    _backends: Vec<Backend>,
    _world: World,
}

async fn shop(protocol: &str) -> Shop {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, protocol, 1).await;
    backends[0].set(Behaviour::Text("ok".into()));
    let mut addresses = Vec::new();
    for service in ["shop/endless", "shop/closed"] {
        world.service(service, 9080, protocol);
        let host = world.host();
        world.ready_endpoints(service, &[host]);
        addresses.push(SocketAddr::new(host, 9080));
    }
    let endless = Endless::start(addresses[0]).await;
    let closed = accepts_nothing(addresses[1]).await;
    world.apply("route", ROUTE);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    Shop { sidecar, address, endless, _closed: closed, _backends: backends, _world: world }
}

/// A listener whose backlog is full: who connects waits.
async fn accepts_nothing(address: SocketAddr) -> (std::net::TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    // A backlog of none holds one.
    let first = TcpStream::connect(address).await.unwrap();
    (socket.into(), vec![first])
}

impl Shop {
    /// Others are answered, on connections of their own.
    async fn others_go_on(&self) {
        let summary = Summary::of(burst(self.address, 100, 4, |_| Call::get("/")).await);
        assert_eq!(summary.status(200), 100, "{:?}", summary.failed);
    }

    /// Asks for what comes to no end; reads nothing of it.
    async fn ask(&self, method: &str) -> TcpStream {
        // The kernel shall hold little: the rest is what the sidecar holds.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.set_send_buffer_size(64 * 1024).unwrap();
        let mut caller = socket.connect(self.address).await.unwrap();
        let head =
            format!("{method} /endless HTTP/1.1\r\nhost: reviews\r\ncontent-length: 1000000000\r\n\r\n");
        let head = if method == "GET" { head.replace("content-length: 1000000000\r\n", "") } else { head };
        caller.write_all(head.as_bytes()).await.unwrap();
        caller
    }

    fn most_kib(&self, what: &str, before: u64) -> u64 {
        let most = self.sidecar.program.most_resident_kib();
        println!("{what}: {before} KiB before, {most} KiB at most");
        most - before
    }
}

/// Sends until the other side takes no more; so many bytes were taken.
fn fill(caller: &TcpStream) -> usize {
    let mut sent = 0;
    while let Ok(written) = caller.try_write(&[b'x'; 64 * 1024]) {
        sent += written;
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_do_not_read_hold_little() {
    let shop = shop("http").await;
    shop.others_go_on().await;
    let before = shop.sidecar.program.resident_kib();
    let mut callers = Vec::new();
    for number in 1..=400 {
        callers.push(shop.ask("GET").await);
        holds("it has begun", || async { shop.endless.begun() == number }).await;
    }
    for caller in &mut callers {
        caller.read_exact(&mut [0; 1024]).await.unwrap();
    }
    shop.others_go_on().await;
    let more = shop.most_kib("four hundred callers that do not read", before);
    // What waits in large pieces, all together, in buffers of up to twice their size, and 64 KiB for each.
    assert!(more <= 2 * 16 * 1024 + 400 * 64 + 8 * 1024, "{more} KiB more");
    drop(callers);
    shop.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_reads_hold_little() {
    let shop = shop("http").await;
    shop.others_go_on().await;
    let before = shop.sidecar.program.resident_kib();
    let mut callers = Vec::new();
    for number in 1..=300 {
        callers.push(shop.ask("PUT").await);
        holds("it has begun", || async { shop.endless.begun() == number }).await;
        fill(&callers[number - 1]);
    }
    // Callers that drip: a byte a chunk, to somebody who reads.
    let mut drips = Vec::new();
    for _ in 0..100 {
        let mut caller = Http1::connect(shop.address).await.unwrap();
        caller.send(b"POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        drips.push(caller);
    }
    for _ in 0..50 {
        for caller in &mut drips {
            caller.send(b"1\r\nx\r\n").await.unwrap();
        }
    }
    shop.others_go_on().await;
    for caller in &mut drips {
        caller.send(b"0\r\n\r\n").await.unwrap();
        assert_eq!(caller.answer("POST").await.unwrap().status, 200);
    }
    callers.iter().for_each(|caller| _ = fill(caller));
    shop.others_go_on().await;
    let more = shop.most_kib("three hundred uploads that nobody reads", before);
    // As above, and the 64 KiB of each that are kept for another attempt.
    assert!(more <= 2 * 16 * 1024 + 300 * (64 + 64) + 8 * 1024, "{more} KiB more");
}

/// An HTTP/2 connection that gives every stream of ours and all of them together as much room as it can.
async fn roomy(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut client = h2::client::Builder::new();
    client.initial_connection_window_size(1 << 30).initial_window_size(1 << 20);
    let (send, connection) = client.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_hold_no_other_stream_up() {
    let shop = shop("h2c").await;
    shop.others_go_on().await;
    let before = shop.sidecar.program.resident_kib();
    let send = roomy(shop.address).await;
    let request = |method: &str, path: &str| {
        Request::builder().method(method).uri(format!("http://reviews{path}")).body(()).unwrap()
    };
    let mut unread = Vec::new();
    for _ in 0..100 {
        let (answer, _) =
            send.clone().ready().await.unwrap().send_request(request("GET", "/endless"), true).unwrap();
        unread.push(answer.await.unwrap().into_body());
    }
    // Uploads, each as far as its stream may.
    let mut uploads = Vec::new();
    for number in 1..=40 {
        let mut ready = send.clone().ready().await.unwrap();
        let (answer, mut body) = ready.send_request(request("PUT", "/endless"), false).unwrap();
        let mut sent = 0;
        while sent < 256 * 1024 {
            body.reserve_capacity(16 * 1024);
            let room = poll_fn(|context| body.poll_capacity(context)).await.unwrap().unwrap();
            body.send_data(Bytes::from(vec![b'x'; room]), false).unwrap();
            sent += room;
        }
        holds("it has begun", || async { shop.endless.begun() == 100 + number }).await;
        uploads.push((answer, body));
    }
    // And streams for which there is no connection yet.
    let closed: Vec<_> = (0..100)
        .map(|_| {
            let mut send = send.clone();
            send.send_request(request("GET", "/closed"), true).unwrap().0
        })
        .collect();
    for _ in 0..100 {
        let (answer, _) =
            send.clone().ready().await.unwrap().send_request(request("GET", "/"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    shop.others_go_on().await;
    let more = shop.most_kib("140 streams that nobody reads", before);
    // A window and a send buffer for each answer; the uploads' windows, here and on the way out.
    assert!(more <= 100 * 2 * 256 + 40 * 3 * 256 + 16 * 1024, "{more} KiB more");
    drop((unread, uploads, closed));
    shop.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_accepts_nothing_holds_nobody_else_up() {
    let shop = shop("http").await;
    let mut hanging = Vec::new();
    for _ in 0..200 {
        let mut caller = Http1::connect(shop.address).await.unwrap();
        caller.send(&Call::get("/closed").bytes()).await.unwrap();
        hanging.push(caller);
    }
    holds("all wait for a connection", || async {
        shop.sidecar.page("/clusters").await["shop/closed:9080"]["pool"]["requests"] == 200
    })
    .await;
    shop.others_go_on().await;
    let both = Http2::connect(shop.address).await.unwrap();
    assert_eq!(both.call(&Call::get("/")).await.unwrap().status, 200);
}
