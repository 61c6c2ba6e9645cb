//! Callers' connections: accepted, told apart by their first bytes, and handed to whoever carries them.
//!
//! ```text
//! listener --> detect --preface--> http2 --\
//!                |-----HTTP/1----> http1 ---+--request--> outbound::serve | inbound::serve
//!                '-----bytes-----> opaque
//! ```
//!
//! Each worker has its own listeners (`SO_REUSEPORT`), so a connection never changes the worker that accepted
//! it. What a listener's connections are for is given on the command line; [`captured`] finds it out for those
//! that were redirected.

pub mod captured;
pub mod detect;
pub mod http1;
pub mod http2;
pub mod original_dst;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use socket2::{Domain, Protocol as Transport, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::accept::detect::{Detected, Detector};
use crate::body::Body;
use crate::cluster::Cluster;
use crate::config::{Destination, Protocol};
use crate::drain::{Drain, Guest, Phase};
use crate::inbound::{self, Endpoint, Unprocessed};
use crate::metrics::{Direction, OpenConnection};
use crate::opaque::{self, Dialled, Side};
use crate::outbound::{self, Upstream};
use crate::pool::Slot;
use crate::pool::admission::Want;
use crate::proxy::{Caller, Proxy, now};
use crate::spawn;

/// Callers that the kernel holds until we accept them.
const BACKLOG: i32 = 4096;

/// After so long without a byte from the caller, an upstream that speaks first is given the chance to. Only
/// the connection is opened: bytes decide, never the time.
const SERVER_FIRST: Duration = Duration::from_millis(100);

/// A caller that is silent for so long is asked by the kernel whether it still exists.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long accepting pauses when the process is out of files.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// How often a listener complains of the same.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// A caller that has just connected has something on the way: it is waited for even when we close.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Returns when a connection that carries nothing is to be closed.
async fn closing(drain: &Drain) {
    drain.reached(Phase::Closing).await;
    tokio::time::sleep(FIRST_REQUEST).await;
}

/// What a connection is for.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// A call of this pod.
    Outbound(Arc<Upstream>),
    /// A call to this pod.
    Inbound(Arc<Endpoint>),
}

/// Binds one listener a worker, all at one address; with port 0 the first chooses.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    bind_for(address, workers, false)
}

/// The same, and `[::]` is for IPv6 alone: its twin listens at `0.0.0.0`.
pub fn bind_apart(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    bind_for(address, workers, address.is_ipv6())
}

fn bind_for(address: SocketAddr, workers: usize, only_v6: bool) -> io::Result<Vec<std::net::TcpListener>> {
    // With SO_REUSEPORT another process could listen here unnoticed: this bind, without it, finds out.
    if address.port() != 0 {
        drop(bind_one(address, false, only_v6)?);
    }
    let first = bind_one(address, true, only_v6)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..workers {
        all.push(bind_one(address, true, only_v6)?);
    }
    Ok(all)
}

fn bind_one(address: SocketAddr, shared: bool, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit it (Linux).
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the listeners are to be closed; all connections are for the same.
pub async fn listen(proxy: Arc<Proxy>, listener: TcpListener, purpose: Purpose) {
    let direction = purpose.direction();
    accept_until_closing(&proxy, &listener, direction, |stream, peer| {
        let connection = Connection::new(Arc::clone(&proxy), purpose.clone(), peer);
        spawn::task(connection.serve(stream));
    })
    .await;
}

/// Hands on each connection until the listeners are to be closed; then those who have connected already, and
/// ends.
async fn accept_until_closing(
    proxy: &Proxy,
    listener: &TcpListener,
    direction: Direction,
    mut take_in: impl FnMut(TcpStream, SocketAddr),
) {
    let _guest = proxy.drain.guest(); // The end waits for those whom we still take in.
    let closing = proxy.drain.reached(Phase::Closing);
    tokio::pin!(closing);
    let mut seldom = Seldom::default();
    let mut take_in = |stream, peer, seldom: &mut Seldom| {
        if proxy.drain.guests() <= proxy.most_callers {
            return take_in(stream, peer);
        }
        opaque::reset(&stream);
        proxy.metrics.connection_is(direction, "surplus");
        if seldom.is_due() {
            tracing::warn!(most = proxy.most_callers, "callers are closed on: too many connections are open");
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut closing => break,
        };
        if let Some((stream, peer)) = or_pause(accepted, &mut seldom).await {
            take_in(stream, peer, &mut seldom);
        }
    }
    while let Some(accepted) = futures::FutureExt::now_or_never(listener.accept()) {
        if let Some((stream, peer)) = or_pause(accepted, &mut seldom).await {
            take_in(stream, peer, &mut seldom);
        }
    }
}

/// None: the caller has left already, or the process is out of files, and the next accept would fail as well.
async fn or_pause(
    accepted: io::Result<(TcpStream, SocketAddr)>,
    seldom: &mut Seldom,
) -> Option<(TcpStream, SocketAddr)> {
    match accepted {
        Ok(connection) => return Some(connection),
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            if seldom.is_due() {
                tracing::warn!(%error, "accepting a connection");
            }
            tokio::time::sleep(OUT_OF_FILES).await;
        }
    }
    None
}

/// When to say again what goes on and on: a log is no place for a line a connection.
#[derive(Debug, Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| now().saturating_duration_since(last) >= SAID_AGAIN);
        if due {
            self.0 = Some(now());
        }
        due
    }
}

/// A caller's connection.
pub struct Connection {
    proxy: Arc<Proxy>,
    purpose: Purpose,
    peer: SocketAddr,
    _admitted: Admitted,
}

/// A request that is carried.
type Answering<'a> = Pin<Box<dyn Future<Output = Result<Response<Body>, Unprocessed>> + Send + 'a>>;

/// A connection that is counted, and that the end waits for.
struct Admitted {
    _counted: OpenConnection,
    _guest: Guest,
}

impl Admitted {
    fn new(proxy: &Proxy, direction: Direction) -> Self {
        Self { _counted: proxy.metrics.connection(direction), _guest: proxy.drain.guest() }
    }
}

impl Connection {
    fn new(proxy: Arc<Proxy>, purpose: Purpose, peer: SocketAddr) -> Self {
        let admitted = Admitted::new(&proxy, purpose.direction());
        Self::admitted(proxy, purpose, peer, admitted)
    }

    fn admitted(proxy: Arc<Proxy>, purpose: Purpose, peer: SocketAddr, admitted: Admitted) -> Self {
        Self { proxy, purpose, peer, _admitted: admitted }
    }

    async fn serve(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true); // Fails only on a socket that is gone already.
        match self.purpose.protocol(&self.proxy) {
            Protocol::Opaque => Box::pin(self.bytes(stream, Bytes::new(), None)).await,
            Protocol::Http => self.http(stream).await,
            // Rare, and larger: boxed.
            Protocol::Detect => Box::pin(self.detect(stream)).await,
        }
    }

    /// HTTP for sure: only the version is to be told.
    async fn http(self, stream: TcpStream) {
        let mut detector = Detector::http();
        let detected = tokio::select! {
            biased;
            detected = detector.read_in_time(&stream, self.proxy.http1.head_timeout) => detected,
            () = closing(&self.proxy.drain) => return,
        };
        match detected {
            Ok(Detected::Http2) => Box::pin(http2::serve(self, stream, detector.into_bytes())).await,
            // What is neither is refused by the HTTP/1.1 codec, in words.
            Ok(_) => http1::serve(self, stream, detector.into_bytes()).await,
            Err(_) => {}
        }
    }

    /// The first bytes decide. When the caller waits, the upstream may speak first, and then it is bytes.
    async fn detect(self, stream: TcpStream) {
        let mut detector = Detector::any();
        let mut dialled = None;
        let detecting = self.who_speaks(&stream, &mut detector, &mut dialled);
        let detected = tokio::select! {
            biased;
            detected = detecting => detected,
            () = closing(&self.proxy.drain) => return,
        };
        let first = detector.into_bytes();
        match detected {
            Ok(Detected::Opaque) => self.bytes(stream, first, dialled).await,
            Ok(http) => {
                // The connection that was opened serves the first request.
                if let Some(dialled) = dialled {
                    dialled.hand_over(&self, http);
                }
                match http {
                    Detected::Http2 => http2::serve(self, stream, first).await,
                    _ => http1::serve(self, stream, first).await,
                }
            }
            Err(_) => {}
        }
    }

    async fn who_speaks(
        &self,
        stream: &TcpStream,
        detector: &mut Detector,
        dialled: &mut Option<Opened>,
    ) -> io::Result<Detected> {
        if let Ok(detected) = tokio::time::timeout(SERVER_FIRST, detector.read(stream)).await {
            return detected;
        }
        *dialled = self.dial().await;
        // Who has begun must go on: it holds a connection, and what would be HTTP must not get around its rules.
        let detected = detector.read_in_time(stream, self.proxy.http1.head_timeout);
        let Some(upstream) = dialled else {
            if let Purpose::Inbound(_) = self.purpose {
                // The application does not listen any more: so it looks without us, too.
                opaque::reset(stream);
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            return detected.await;
        };
        let mut byte = [0];
        tokio::select! {
            detected = detected => detected,
            _ = upstream.stream().peek(&mut byte) => Ok(Detected::Opaque),
        }
    }

    /// Opens a connection for bytes; none when that is not possible now.
    async fn dial(&self) -> Option<Opened> {
        match &self.purpose {
            Purpose::Outbound(upstream) => {
                let cluster = upstream.opaque(&self.proxy)?;
                opaque::dial(&self.proxy, &cluster)
                    .await
                    .ok()
                    .map(|dialled| Opened::Endpoint { cluster, dialled })
            }
            Purpose::Inbound(endpoint) => endpoint
                .dial(self.proxy.worker)
                .await
                .ok()
                .map(|(stream, slot)| Opened::Application(stream, slot)),
        }
    }

    /// Carries bytes; `opened` when there is a connection already.
    async fn bytes(self, stream: TcpStream, first: Bytes, opened: Option<Opened>) {
        let direction = self.purpose.direction();
        self.proxy.metrics.connection_is(direction, "opaque");
        let opened = match opened {
            Some(opened) => Some(opened),
            None => self.dial().await,
        };
        let Some(opened) = opened else {
            tracing::debug!(peer = %self.peer, to = %self.purpose.name(), "no connection for a caller's bytes");
            return opaque::reset(&stream);
        };
        let counters = self.proxy.metrics.opaque_bytes(direction, &self.purpose.name());
        let caller = Side { stream, first };
        match opened {
            Opened::Endpoint { dialled: Dialled { stream, slot, picked }, .. } => {
                opaque::carry(caller, Side { stream, first: Bytes::new() }, &counters).await;
                drop((slot, picked));
            }
            Opened::Application(stream, slot) => {
                opaque::carry(caller, Side { stream, first: Bytes::new() }, &counters).await;
                drop(slot);
            }
        }
    }

    /// From when on callers are asked to leave: a draining pod is left by its callers, not by itself.
    fn leaves_in(&self) -> Phase {
        match self.purpose {
            Purpose::Inbound(_) => Phase::Draining,
            Purpose::Outbound(_) => Phase::Closing,
        }
    }

    /// Carries a request of this connection. Boxed: an idle connection does not hold the room that a call needs, and
    /// what is boxed here is moved no more.
    fn answer(&self, http2: bool, request: Request<Body>) -> Answering<'_> {
        let caller = Caller { peer: self.peer, http2 };
        match &self.purpose {
            Purpose::Outbound(upstream) => Box::pin(outbound::serve(&self.proxy, upstream, caller, request)),
            Purpose::Inbound(endpoint) => Box::pin(inbound::serve(&self.proxy, endpoint, caller, request)),
        }
    }
}

impl Purpose {
    fn direction(&self) -> Direction {
        match self {
            Self::Outbound(_) => Direction::Outbound,
            Self::Inbound(_) => Direction::Inbound,
        }
    }

    /// What is spoken here. While nothing is known, the first bytes decide, and HTTP hears why it is refused.
    fn protocol(&self, proxy: &Proxy) -> Protocol {
        match self {
            Self::Outbound(upstream) => match proxy.destination(&upstream.name).as_deref() {
                Some(Destination::Known(service)) => service.protocol,
                Some(Destination::Unknown) | None => Protocol::Detect,
            },
            Self::Inbound(endpoint) => {
                proxy.inbound(endpoint.listen).map_or(Protocol::Detect, |inbound| inbound.protocol)
            }
        }
    }

    fn name(&self) -> Arc<str> {
        match self {
            Self::Outbound(upstream) => Arc::clone(&upstream.label),
            Self::Inbound(endpoint) => Arc::clone(&endpoint.name),
        }
    }
}

/// A connection that was opened before it was known what for.
enum Opened {
    Endpoint { cluster: Arc<Cluster>, dialled: Dialled },
    Application(TcpStream, Slot),
}

impl Opened {
    fn stream(&self) -> &TcpStream {
        match self {
            Self::Endpoint { dialled, .. } => &dialled.stream,
            Self::Application(stream, _) => stream,
        }
    }

    /// It is HTTP: the connection becomes an idle one of the pool, where the request finds it.
    fn hand_over(self, connection: &Connection, detected: Detected) {
        if detected != Detected::Http1 {
            return;
        }
        let ask = |address| connection.proxy.asker().ask(address, Want::Exclusive);
        match (self, &connection.purpose) {
            (Self::Endpoint { cluster, dialled: Dialled { stream, slot, picked } }, _) => {
                cluster.live.pool.adopt(stream, slot, ask(picked.endpoint().address()));
            }
            (Self::Application(stream, slot), Purpose::Inbound(endpoint)) => {
                endpoint.pool.adopt(stream, slot, ask(endpoint.application));
            }
            (Self::Application(..), Purpose::Outbound(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests;
