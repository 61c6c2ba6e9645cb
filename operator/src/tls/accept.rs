//! Accepts connections, with TLS where it is configured. What a stranger can hold is bounded: the handshakes
//! under way and their time, the connections of one address, all connections, and how long a connection may
//! stay without having said who it is.
//!
//! ```text
//! accept ──> seat? ──> handshake (bounded, timed) ──> connection ──> introduced in time, or closed
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// What is held at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections.
    pub connections: usize,
    /// Connections of one address. With TLS that is one pod, unless something between us hides it.
    pub connections_a_peer: usize,
    /// Handshakes under way; more than that are refused at once, so that new ones do not wait for old ones.
    pub handshakes: usize,
    /// A handshake takes two round trips.
    pub handshake: Duration,
    /// How long a client may take to say who it is.
    pub introduction: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_a_peer: 128,
            handshakes: 1_000,
            handshake: Duration::from_secs(5),
            introduction: Duration::from_secs(15),
        }
    }
}

impl Bounds {
    /// Those of a port where nobody is asked who he is: the caller of one address may be a thousand clients.
    #[must_use]
    pub fn anonymous() -> Self {
        let all = Self::default();
        Self { connections_a_peer: all.connections, ..all }
    }
}

/// The connections of a port as they become ready. Never ends.
pub fn connections(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    bounds: Bounds,
) -> impl Stream<Item = io::Result<Connection>> {
    let port = Port {
        listener,
        tls: tls.map(TlsAcceptor::from),
        bounds,
        seats: Arc::default(),
        handshakes: FuturesUnordered::new(),
    };
    futures::stream::unfold(port, async |mut port| Some((Ok(port.next().await), port)))
}

struct Port {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    bounds: Bounds,
    seats: Arc<Mutex<Seats>>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Connection>>>,
}

impl Port {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => if let Some(connection) = self.accepted(stream, peer) {
                        return connection;
                    },
                    Err(error) => {
                        // No file descriptors, most likely: they come back when others close.
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(done) = self.handshakes.next(), if !self.handshakes.is_empty() => {
                    if let Some(connection) = done {
                        return connection;
                    }
                }
            }
        }
    }

    /// Without TLS it is ready; with it a handshake begins.
    fn accepted(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection is gone already");
            return None;
        }
        // Who comes by IPv4 to [::] is called ::ffff:10.0.0.1.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let Some(seat) = Seat::take(&self.seats, peer.ip(), &self.bounds) else {
            tracing::debug!(%peer, "too many connections; refused");
            return None;
        };
        let guest = Guest { peer, introduced: Arc::default() };
        let Some(tls) = &self.tls else {
            return Some(Connection { io: Io::Plain(stream), guest, introduction: None, _seat: seat });
        };
        if self.handshakes.len() >= self.bounds.handshakes {
            tracing::debug!(%peer, "too many handshakes under way; refused");
            return None;
        }
        let (handshake, bounds) = (tls.accept(stream), self.bounds);
        self.handshakes.push(Box::pin(async move {
            let stream = match tokio::time::timeout(bounds.handshake, handshake).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "TLS handshake failed");
                    return None;
                }
                Err(_) => {
                    tracing::debug!(%peer, "TLS handshake took too long");
                    return None;
                }
            };
            let introduction = Some(Box::pin(tokio::time::sleep(bounds.introduction)));
            Some(Connection { io: Io::Tls(Box::new(stream)), guest, introduction, _seat: seat })
        }));
        None
    }
}

/// Who is connected, by address.
#[derive(Debug, Default)]
struct Seats {
    taken: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// A place among the connections; free again when dropped.
#[derive(Debug)]
struct Seat {
    seats: Arc<Mutex<Seats>>,
    peer: IpAddr,
}

impl Seat {
    fn take(seats: &Arc<Mutex<Seats>>, peer: IpAddr, bounds: &Bounds) -> Option<Self> {
        let mut all = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = all.by_peer.get(&peer).copied().unwrap_or_default();
        if all.taken >= bounds.connections || mine >= bounds.connections_a_peer {
            return None;
        }
        all.taken += 1;
        all.by_peer.insert(peer, mine + 1);
        Some(Self { seats: seats.clone(), peer })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        all.taken = all.taken.saturating_sub(1);
        if let Some(mine) = all.by_peer.get_mut(&self.peer) {
            *mine -= 1;
            if *mine == 0 {
                all.by_peer.remove(&self.peer);
            }
        }
    }
}

/// What a request knows of its connection.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Where it comes from.
    pub peer: SocketAddr,
    introduced: Arc<AtomicBool>,
}

impl Guest {
    /// The client has said who it is, so the connection may stay.
    pub fn introduce(&self) {
        self.introduced.store(true, Ordering::Relaxed);
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    guest: Guest,
    introduction: Option<Pin<Box<Sleep>>>,
    _seat: Seat,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = &mut *self;
        if let Some(introduction) = &mut connection.introduction {
            if connection.guest.introduced.load(Ordering::Relaxed) {
                connection.introduction = None;
            } else if introduction.as_mut().poll(context).is_ready() {
                tracing::debug!(peer = %connection.guest.peer, "client did not say who it is");
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        match &mut connection.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
