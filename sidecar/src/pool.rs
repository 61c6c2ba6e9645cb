//! Connections to the endpoints of one Service port: opened, kept, shared, limited.
//!
//! One pool a Service port and sidecar, used by all workers, so that its limits are exact: who gets what is
//! decided in [`admission`]; here are the sockets, the lock and the wake-ups. A request holds what it was
//! given as values that give themselves back when they are dropped, so a caller that goes away, at whatever
//! moment, leaks nothing and forgets nobody:
//!
//! ```text
//! admit -> Lease::Http1  a kept connection; comes home when its answer was read
//!          Lease::Stream a stream on a shared connection; ends when dropped
//!          Lease::Slot   the right to open one: open_http1, open_http2, open_bytes
//! ```

pub mod admission;
pub mod http2;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::failure::{Failure, Kind};
use crate::http1::{self, client};
use crate::pool::admission::{Admission, Answer, Grant, Limits, Returned, SharedId, Ticket, Want};
use crate::pool::http2::Handle;
use crate::ports::TO_OURSELVES;

/// ServiceRoute's `connectionPool`; none is no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// Open connections of this sidecar to the whole Service port.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection; 0 never queues.
    pub max_pending_requests: Option<u32>,
    /// How long a request waits.
    pub pending_timeout: Duration,
    /// Requests in flight.
    pub max_requests: Option<u32>,
    /// 1 switches keep-alive off.
    pub max_requests_per_connection: Option<u32>,
    /// For the TCP handshake.
    pub connect_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Option<Duration>,
}

impl PoolSettings {
    fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections.unwrap_or(u32::MAX),
            pending: self.max_pending_requests.unwrap_or(u32::MAX),
            requests_per_connection: self.max_requests_per_connection.unwrap_or(u32::MAX),
            idle: self.idle_timeout.unwrap_or(Duration::MAX),
        }
    }
}

/// The pool of one Service port; the connections that it keeps are closed when it is dropped.
#[derive(Debug, Default)]
pub struct Pool(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    admission: Mutex<Admission<Kept, Handle, Waker>>,
    requests: AtomicU32,
    /// The pool was dropped: nothing is kept any more.
    over: AtomicBool,
    http1: Arc<http1::Limits>,
}

type Waker = oneshot::Sender<Result<Lease, Later>>;

/// Why somebody who waited has nothing yet.
#[derive(Debug)]
enum Later {
    AskAgain,
    Failed(String),
}

/// A connection that is kept between two requests.
struct Kept(client::Connection);

impl std::fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Kept")
    }
}

/// What a request was given.
#[derive(Debug)]
pub enum Lease {
    /// A connection that carried requests before, to this address: not always the one that was asked for.
    Http1(SocketAddr, Http1),
    /// A stream on a connection to its address, likewise.
    Stream(Stream),
    /// The right to open a connection.
    Slot(Slot),
}

/// An HTTP/1.1 connection that is ready for a request.
pub struct Http1(pub client::Connection);

impl std::fmt::Debug for Http1 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Http1")
    }
}

/// What a request looks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The endpoint.
    pub address: SocketAddr,
    /// Who asks; its own connections are preferred.
    pub worker: usize,
    /// What kind of connection.
    pub want: Want,
    /// The endpoint is this very pod: the connection is to go through the inbound side, as everybody else's.
    pub to_ourselves: bool,
}

/// Who looks for a connection.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Which worker.
    pub worker: usize,
    /// The addresses of this pod; none where nothing is redirected, and on the way to the application.
    pub pod: &'static [IpAddr],
}

impl Asker {
    /// What it looks for.
    pub fn ask(self, address: SocketAddr, want: Want) -> Ask {
        Ask { address, worker: self.worker, want, to_ourselves: self.pod.contains(&address.ip()) }
    }
}

/// Numbers for metrics and the admin page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Connections open or being opened.
    pub connections: u32,
    /// Of these, those that carry nothing.
    pub idle: usize,
    /// Requests that wait for a connection.
    pub pending: usize,
    /// Requests in flight.
    pub requests: u32,
}

impl Pool {
    /// Counts a request in, unless `maxRequests` are in flight.
    pub fn begin(&self, settings: &PoolSettings) -> Result<InFlight, Failure> {
        let limit = settings.max_requests.unwrap_or(u32::MAX);
        let requests = &self.0.requests;
        let counted = requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (now < limit).then(|| now.saturating_add(1))
        });
        if counted.is_err() {
            return Err(Failure::local(Kind::Overflow, format!("maxRequests: {limit} are in flight")));
        }
        Ok(InFlight(Arc::clone(&self.0)))
    }

    /// Waits until the request may have a connection, at most `pendingTimeout`. Cancel safe.
    pub async fn admit(&self, settings: &PoolSettings, ask: Ask) -> Result<Lease, Failure> {
        loop {
            let (ticket, receiver, queued) = match self.ask(settings, ask) {
                Asked::Now(lease) => {
                    if let Lease::Http1(_, Http1(kept)) = &lease
                        && !kept.is_reusable()
                    {
                        continue; // It is closed, and its slot is free again.
                    }
                    return Ok(self.prepared(settings, lease));
                }
                Asked::Full => {
                    let (open, pending) = {
                        let admission = self.0.admission();
                        (admission.open(), admission.pending())
                    };
                    let reason = format!("maxConnections: {open} are open, {pending} requests wait");
                    return Err(Failure::local(Kind::Overflow, reason));
                }
                Asked::Later { ticket, receiver, queued } => (ticket, receiver, queued),
            };
            let waiting = Waiting { inner: &self.0, ticket, receiver };
            // Who joined is bound by the opener's connect timeout.
            let limit = if queued { settings.pending_timeout } else { Duration::MAX };
            // Boxed: most requests never wait.
            match Box::pin(waiting.granted(limit)).await {
                Some(Ok(Lease::Http1(_, Http1(kept)))) if !kept.is_reusable() => {}
                Some(Ok(lease)) => return Ok(self.prepared(settings, lease)),
                Some(Err(Later::AskAgain)) => {}
                Some(Err(Later::Failed(why))) => return Err(Failure::upstream(Kind::Connect, false, why)),
                None => {
                    let reason = format!("no connection came free within {:?}", settings.pending_timeout);
                    return Err(Failure::local(Kind::Overflow, reason));
                }
            }
        }
    }

    /// Opens an HTTP/1.1 connection, which comes home to this pool.
    pub async fn open_http1(&self, settings: &PoolSettings, slot: Slot, ask: Ask) -> Result<Http1, Failure> {
        let (stream, slot) = self.open_bytes(settings, slot, ask).await?;
        let home = Homeward { pool: Arc::downgrade(&self.0), address: ask.address, worker: ask.worker };
        let limits = Arc::clone(&self.0.http1);
        let mut connection =
            client::Connection::new(stream, Some(Arc::new(home)), Some(Box::new(slot)), limits);
        if settings.max_requests_per_connection == Some(1) {
            connection.last();
        }
        Ok(Http1(connection))
    }

    /// Takes in a connection that was opened for something else and never used, as an idle one.
    pub fn adopt(&self, stream: TcpStream, slot: Slot, ask: Ask) {
        let home =
            Arc::new(Homeward { pool: Arc::downgrade(&self.0), address: ask.address, worker: ask.worker });
        let limits = Arc::clone(&self.0.http1);
        let given = Arc::clone(&home) as Arc<dyn client::Home>;
        let connection = client::Connection::new(stream, Some(given), Some(Box::new(slot)), limits);
        client::Home::come_home(&*home, connection);
    }

    /// Opens a connection for bytes; the slot must live as long as the connection.
    pub async fn open_bytes(
        &self,
        settings: &PoolSettings,
        mut slot: Slot,
        ask: Ask,
    ) -> Result<(TcpStream, Slot), Failure> {
        match connect(ask, settings.connect_timeout).await {
            Ok(stream) => Ok((stream, slot)),
            Err(failure) => {
                if let Some(opening) = &mut slot.opening {
                    opening.failed(&failure.reason);
                }
                Err(failure)
            }
        }
    }

    /// Opens an HTTP/2 connection that others may share, and takes its first stream.
    pub async fn open_http2(&self, settings: &PoolSettings, slot: Slot, ask: Ask) -> Result<Stream, Failure> {
        let (stream, mut slot) = self.open_bytes(settings, slot, ask).await?;
        // From here on the connection holds the slot; who joined is told by `opened`.
        let mut opening = slot.opening.take();
        let handle = match http2::handshake(stream, slot).await {
            Ok(handle) => handle,
            Err(failure) => {
                if let Some(opening) = &mut opening {
                    opening.failed(&failure.reason);
                }
                return Err(failure);
            }
        };
        if let Some(opening) = &mut opening {
            opening.over = true;
        }
        let (id, grants) = self.0.admission().opened(ask.address, ask.worker, handle.clone(), now());
        self.0.carry_out(grants);
        Ok(Stream { inner: Arc::clone(&self.0), address: ask.address, id, handle })
    }

    /// Closes the idle connections that are too old, or that the other side has closed.
    pub fn expire(&self, idle_timeout: Option<Duration>) {
        let gone = self.0.admission().expire(now(), idle_timeout, |kept| kept.0.is_reusable());
        drop(gone); // Closes them, after the lock is free.
    }

    /// These are endpoints no more: their idle connections are closed now, the others when they are free.
    pub fn retire(&self, addresses: &[SocketAddr]) {
        let gone = self.0.admission().retire(addresses);
        drop(gone);
    }

    /// For metrics and the admin page.
    pub fn usage(&self) -> Usage {
        let admission = self.0.admission();
        Usage {
            connections: admission.open(),
            idle: admission.idle(),
            pending: admission.pending(),
            requests: self.0.requests.load(Ordering::Relaxed),
        }
    }

    fn ask(&self, settings: &PoolSettings, ask: Ask) -> Asked {
        let inner = &self.0;
        let mut receiver = None;
        let mut waker = || {
            let (sender, granted) = oneshot::channel();
            receiver = Some(granted);
            sender
        };
        let (grants, answer) = {
            let mut admission = inner.admission();
            let grants = admission.set_limits(settings.limits());
            (grants, admission.ask(ask.address, ask.worker, ask.want, now(), &mut waker))
        };
        inner.carry_out(grants);
        let slot = || {
            let opening = (ask.want == Want::Shared).then(|| Opening {
                inner: Arc::clone(inner),
                address: ask.address,
                worker: ask.worker,
                over: false,
            });
            Slot { opening, inner: Arc::clone(inner) }
        };
        match (answer, receiver) {
            (Answer::Reuse(kept), _) => Asked::Now(Lease::Http1(ask.address, Http1(kept.0))),
            (Answer::Share(id, handle), _) => Asked::Now(Lease::Stream(Stream {
                inner: Arc::clone(inner),
                address: ask.address,
                id,
                handle,
            })),
            (Answer::Open { evicted }, _) => {
                let slot = slot();
                drop(evicted);
                Asked::Now(Lease::Slot(slot))
            }
            (Answer::Join(ticket), Some(receiver)) => Asked::Later { ticket, receiver, queued: false },
            (Answer::Wait { ticket, evicted }, Some(receiver)) => {
                drop(evicted);
                Asked::Later { ticket, receiver, queued: true }
            }
            (Answer::Full | Answer::Join(_) | Answer::Wait { .. }, _) => Asked::Full,
        }
    }

    /// `maxRequestsPerConnection`: the last one says so.
    fn prepared(&self, settings: &PoolSettings, mut lease: Lease) -> Lease {
        if let (Lease::Http1(_, Http1(connection)), Some(limit)) =
            (&mut lease, settings.max_requests_per_connection)
            && connection.requests() + 1 >= u64::from(limit)
        {
            connection.last();
        }
        lease
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let kept = {
            let mut admission = self.0.admission();
            self.0.over.store(true, Ordering::Relaxed);
            admission.drain()
        };
        drop(kept);
    }
}

enum Asked {
    Now(Lease),
    Later { ticket: Ticket, receiver: oneshot::Receiver<Result<Lease, Later>>, queued: bool },
    Full,
}

impl Inner {
    fn admission(&self) -> MutexGuard<'_, Admission<Kept, Handle, Waker>> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what was granted. What nobody takes gives itself back on the way out.
    fn carry_out(self: &Arc<Self>, grants: impl IntoIterator<Item = (Waker, Grant<Kept, Handle>)>) {
        for (waker, grant) in grants {
            let granted = match grant {
                Grant::Reuse(address, kept) => Ok(Lease::Http1(address, Http1(kept.0))),
                Grant::Share(address, id, handle) => {
                    Ok(Lease::Stream(Stream { inner: Arc::clone(self), address, id, handle }))
                }
                Grant::Slot => Ok(Lease::Slot(Slot { opening: None, inner: Arc::clone(self) })),
                Grant::AskAgain => Err(Later::AskAgain),
                Grant::Failed(why) => Err(Later::Failed(why)),
            };
            drop(waker.send(granted));
        }
    }
}

/// Somebody in the queue, who leaves it when dropped.
struct Waiting<'a> {
    inner: &'a Arc<Inner>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Result<Lease, Later>>,
}

impl Waiting<'_> {
    /// None: the time is over.
    async fn granted(mut self, limit: Duration) -> Option<Result<Lease, Later>> {
        match tokio::time::timeout(limit, &mut self.receiver).await {
            // The pool is gone: then everything is granted, for nothing is counted.
            Ok(granted) => Some(granted.unwrap_or(Err(Later::AskAgain))),
            // A grant may have crossed with the end of the time.
            Err(_) => self.receiver.try_recv().ok(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // If it is there no longer, the grant is in the channel, and gives itself back with it.
        let _ = self.inner.admission().leave(self.ticket);
    }
}

/// The right to hold one open connection.
pub struct Slot {
    /// Others wait for the shared connection that is opened with it.
    opening: Option<Opening>,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Slot(shared: {})", self.opening.is_some())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.opening.take());
        let next = self.inner.admission().closed();
        self.inner.carry_out(next);
    }
}

/// A promise to those who wait for a shared connection: they hear how it went, or that nobody tries.
struct Opening {
    inner: Arc<Inner>,
    address: SocketAddr,
    worker: usize,
    over: bool,
}

impl Opening {
    fn failed(&mut self, why: &str) {
        self.over = true;
        let grants = self.inner.admission().not_opened(self.address, self.worker, Some(why));
        self.inner.carry_out(grants);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.over {
            let grants = self.inner.admission().not_opened(self.address, self.worker, None);
            self.inner.carry_out(grants);
        }
    }
}

/// A request that counts against `maxRequests` until this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Inner>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream on a shared connection; it must live until the answer was read.
#[derive(Debug)]
pub struct Stream {
    inner: Arc<Inner>,
    /// Where the connection leads to.
    pub address: SocketAddr,
    id: SharedId,
    /// The connection.
    pub handle: Handle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let next = self.inner.admission().stream_done(self.address, self.id, now());
        self.inner.carry_out(next);
    }
}

/// Takes an HTTP/1.1 connection back when its answer was read.
struct Homeward {
    pool: Weak<Inner>,
    address: SocketAddr,
    worker: usize,
}

impl client::Home for Homeward {
    fn come_home(&self, connection: client::Connection) {
        let Some(pool) = self.pool.upgrade() else { return };
        let returned = {
            let mut admission = pool.admission();
            if pool.over.load(Ordering::Relaxed) {
                Returned::Close(Kept(connection))
            } else {
                admission.put_back(self.address, self.worker, Kept(connection), now())
            }
        };
        match returned {
            Returned::Kept => {}
            Returned::Close(kept) => drop(kept),
            Returned::Grant(waker, grant) => pool.carry_out([(waker, grant)]),
        }
    }
}

/// Out of files, out of ports: our own trouble, which no endpoint is to be blamed for.
const OUR_OWN_ERRORS: [i32; 3] = [23 /* ENFILE */, 24 /* EMFILE */, 99 /* EADDRNOTAVAIL */];

async fn connect(ask: Ask, limit: Duration) -> Result<TcpStream, Failure> {
    let address = ask.address;
    match tokio::time::timeout(limit, dial(ask)).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true); // Fails only on a socket that is gone already.
            Ok(stream)
        }
        Ok(Err(error)) if error.raw_os_error().is_some_and(|code| OUR_OWN_ERRORS.contains(&code)) => {
            Err(Failure::local(Kind::Overflow, format!("connecting to {address}: {error}")))
        }
        Ok(Err(error)) => {
            Err(Failure::upstream(Kind::Connect, false, format!("connecting to {address}: {error}")))
        }
        Err(_) => {
            Err(Failure::upstream(Kind::Connect, false, format!("{address} did not accept within {limit:?}")))
        }
    }
}

async fn dial(ask: Ask) -> io::Result<TcpStream> {
    if !ask.to_ourselves {
        return TcpStream::connect(ask.address).await;
    }
    let socket = if ask.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    SockRef::from(&socket).set_priority(TO_OURSELVES)?;
    socket.connect(ask.address).await
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
