//! An application that comes to no end: its answers go on for as long as they are read, and it reads no upload.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge, told apart by the first bytes. A GET is answered without end;
//! anything else is neither read nor answered.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::poll_fn;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What is sent at once.
const PIECE: &[u8] = &[b'x'; 16 * 1024];

/// What the kernel shall hold of a connection, a direction.
const KERNEL: usize = 64 * 1024;

/// It; dropped, it stops listening and closes its connections.
#[derive(Debug)]
pub struct Endless {
    begun: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Endless {
    /// Listens there.
    pub async fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let begun = Arc::new(AtomicUsize::new(0));
        Self { serving: tokio::spawn(serve(listener, Arc::clone(&begun))), begun }
    }

    /// Requests whose head has come.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, begun: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Little is to lie in the kernel, which has not enough for thousands of connections that stand still.
        let _ = SockRef::from(&stream).set_send_buffer_size(KERNEL);
        let _ = SockRef::from(&stream).set_recv_buffer_size(KERNEL);
        let begun = Arc::clone(&begun);
        connections.spawn(async move {
            let mut first = [0; 4];
            while matches!(stream.peek(&mut first).await, Ok(1..4)) {
                tokio::task::yield_now().await;
            }
            if &first == b"PRI " { http2(stream, &begun).await } else { http1(stream, &begun).await }
        });
    }
}

/// One request a connection: it never ends.
async fn http1(stream: TcpStream, begun: &AtomicUsize) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(stream.read_line(&mut head).await, Ok(1..)) {
            return;
        }
    }
    begun.fetch_add(1, Ordering::SeqCst);
    if !head.starts_with("GET ") {
        return pending().await;
    }
    let mut sent =
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n").await.is_ok();
    while sent {
        sent = stream.write_all(PIECE).await.is_ok();
    }
}

async fn http2(stream: TcpStream, begun: &AtomicUsize) {
    let mut server = h2::server::Builder::new();
    let Ok(mut connection) = server.max_concurrent_streams(10_000).handshake(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        begun.fetch_add(1, Ordering::SeqCst);
        streams.spawn(exchange(request, respond));
    }
}

async fn exchange(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    if request.method() != Method::GET {
        return pending().await;
    }
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    loop {
        stream.reserve_capacity(PIECE.len());
        let Some(Ok(room)) = poll_fn(|context| stream.poll_capacity(context)).await else { return };
        let piece = Bytes::from_static(PIECE.get(..room.min(PIECE.len())).unwrap_or_default());
        if stream.send_data(piece, false).is_err() {
            return;
        }
    }
}
