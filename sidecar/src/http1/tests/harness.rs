//! A proxy of the two drivers and nothing else, and peers that do exactly what a test tells them.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::body::Body;
use crate::failure::Failure;
use crate::http1::client::{self, SendError};
use crate::http1::server::{self, Ended, Next, Refusal};
use crate::http1::{Limits, Upgraded};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a task beside the test.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::runtime::Handle::current().spawn(task);
}

/// What the proxy has seen.
#[derive(Debug)]
pub enum Event {
    Refused(Refusal),
    Closed,
    /// The caller went away before the answer.
    Gone,
    NotSent(SendError),
    Open,
    Ended,
    Upgraded,
    Failed(Failure),
}

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    pub events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    pub idle: Arc<Idle>,
}

/// The pool: the connections that came home.
#[derive(Default)]
pub struct Idle {
    connections: Mutex<Vec<client::Connection>>,
}

impl Idle {
    pub fn count(&self) -> usize {
        self.connections.lock().unwrap().len()
    }
}

impl client::Home for Idle {
    fn come_home(&self, connection: client::Connection) {
        self.connections.lock().unwrap().push(connection);
    }
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Self {
        Self::with_limits(upstream, Limits::default()).await
    }

    pub async fn with_limits(upstream: SocketAddr, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, events) = tokio::sync::mpsc::unbounded_channel();
        let idle = Arc::new(Idle::default());
        let (pool, limits) = (Arc::clone(&idle), Arc::new(limits));
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = server::Connection::new(stream, &Bytes::new(), Arc::clone(&limits));
                spawn(serve(connection, upstream, Arc::clone(&pool), Arc::clone(&limits), report.clone()));
            }
        });
        Self { address, events, idle }
    }

    pub async fn connect(&self) -> Peer {
        Peer(TcpStream::connect(self.address).await.unwrap())
    }

    pub async fn event(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("the proxy runs")
    }
}

async fn serve(
    mut caller: server::Connection,
    upstream: SocketAddr,
    pool: Arc<Idle>,
    limits: Arc<Limits>,
    report: tokio::sync::mpsc::UnboundedSender<Event>,
) {
    loop {
        let request = match caller.next_request().await {
            Next::Request(request) => request,
            Next::Refused(refusal) => {
                let _ = report.send(Event::Refused(refusal));
                return;
            }
            Next::Closed => {
                let _ = report.send(Event::Closed);
                return;
            }
        };
        let answer = pin!(async {
            let idle = pool.connections.lock().unwrap().pop();
            let connection = match idle {
                Some(connection) => connection,
                None => {
                    let stream = TcpStream::connect(upstream).await.unwrap();
                    let home: Arc<dyn client::Home> = Arc::clone(&pool) as _;
                    client::Connection::new(stream, Some(home), None, Arc::clone(&limits))
                }
            };
            connection.send(request).await
        });
        let response = match caller.until_gone(answer).await {
            None => {
                let _ = report.send(Event::Gone);
                return;
            }
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                let mut response = Response::new(Body::from(error.reason.clone()));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                let _ = report.send(Event::NotSent(error));
                response
            }
        };
        let ended = caller.respond(response).await;
        let (event, more) = match ended {
            Ended::Open => (Event::Open, true),
            Ended::Closed => (Event::Ended, false),
            Ended::Failed(failure) => (Event::Failed(failure), false),
            Ended::Upgraded(upgraded) => {
                let _ = report.send(Event::Upgraded);
                let Upgraded { mut caller, mut upstream } = *upgraded;
                caller.stream.write_all(&upstream.first).await.unwrap();
                upstream.stream.write_all(&caller.first).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut caller.stream, &mut upstream.stream).await;
                return;
            }
        };
        if !more {
            drop(caller);
            let _ = report.send(event);
            return;
        }
        let _ = report.send(event);
    }
}

/// One end of a connection, under the test's control.
pub struct Peer(pub TcpStream);

impl Peer {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads exactly this.
    pub async fn expect(&mut self, wanted: impl AsRef<[u8]>) {
        let wanted = wanted.as_ref();
        let mut got = vec![0; wanted.len()];
        let mut filled = 0;
        while filled < got.len() {
            let read = tokio::time::timeout(PATIENCE, self.0.read(&mut got[filled..])).await;
            match read {
                Ok(Ok(read)) if read > 0 => filled += read,
                other => panic!(
                    "{other:?} after {:?}, wanted {:?}",
                    String::from_utf8_lossy(&got[..filled]),
                    String::from_utf8_lossy(wanted)
                ),
            }
        }
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted));
    }

    /// Reads up to and with the end of a head.
    pub async fn head(&mut self) -> String {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("a head in time");
            got.push(
                byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&got))),
            );
        }
        String::from_utf8(got).unwrap()
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> std::io::Result<String> {
        let mut got = Vec::new();
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut got)).await.expect("the end in time")?;
        Ok(String::from_utf8_lossy(&got).into_owned())
    }

    /// The connection ends, in whatever way, without another byte.
    pub async fn ended(&mut self) {
        let read = tokio::time::timeout(PATIENCE, self.0.read(&mut [0])).await.expect("the end in time");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    /// Waits until the proxy's reactor has heard that this side is closed.
    pub async fn ended_after(&mut self, proxy: &Proxy) {
        let gone = async {
            while proxy.idle.connections.lock().unwrap().iter().all(client::Connection::is_reusable) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("the proxy hears it");
    }

    pub async fn half_close(&mut self) {
        self.0.shutdown().await.unwrap();
    }
}

/// Something to connect to.
pub struct Backend(TcpListener);

impl Backend {
    pub async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub async fn accept(&self) -> Peer {
        Peer(tokio::time::timeout(PATIENCE, self.0.accept()).await.expect("a connection in time").unwrap().0)
    }
}

/// A proxy, a caller that is connected to it, and a backend.
pub async fn all() -> (Proxy, Peer, Backend) {
    let backend = Backend::bind().await;
    let proxy = Proxy::start(backend.address()).await;
    let caller = proxy.connect().await;
    (proxy, caller, backend)
}
