//! One caller's connection.
//!
//! ```text
//!            +----------------------------------------------------------------+
//!            v                                                                |
//!   idle (no buffer) --first byte--> head --complete--> exchange --respond--> drain
//!                                     |                    |                  |
//!                                     +--refused-----------+--broken----------+--> linger, closed
//! ```
//!
//! The request's body is read by whoever holds it, in this same task; [`Connection::respond`] writes head and
//! first content in one system call and then whatever comes, as it comes. A connection that ends while the
//! caller may still be sending lingers: closing at once would make the kernel reset it and take our last words
//! back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use socket2::SockRef;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use crate::body::{Body, Error};
use crate::buffers;
use crate::failure::{Failure, Kind};
use crate::http1::Limits;
use crate::http1::caller::{Arrived, Shared};
use crate::http1::encode::{self, Encoder, Out, Persistence};
use crate::http1::head::{Framing, Reason};
use crate::http1::informational::Informational;
use crate::http1::upgrade::{Io, Upgraded, UpstreamIo};

pub use crate::http1::head::Refusal;

/// What a lingering connection throws away before it gives up, so that nobody keeps it busy for nothing.
const MAX_LINGER_BYTES: usize = 4 * 1024 * 1024;

/// A caller's connection. One exchange at a time: [`next_request`](Self::next_request), then
/// [`respond`](Self::respond).
pub struct Connection {
    shared: Arc<Shared>,
    /// None once the connection was given away or cut off.
    writer: Option<OwnedWriteHalf>,
    out: Out,
    limits: Arc<Limits>,
    exchange: Exchange,
    /// The next answer is the last.
    last: bool,
    /// In an answer that only the end of the connection delimits.
    open_ended: bool,
}

/// What the answer depends on.
struct Exchange {
    method: Method,
    version: Version,
    keep_alive: bool,
    expects_continue: bool,
}

/// What came next on a caller's connection.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are requests: a box would cost each an allocation")]
pub enum Next {
    /// A request; answer it with [`Connection::respond`].
    Request(Request<Body>),
    /// Something that is no request. It was answered, the connection is over.
    Refused(Refusal),
    /// The caller left, cleanly or not; the connection is over.
    Closed,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Ended {
    /// The caller has its answer; another request may follow.
    Open,
    /// The caller has its answer; the connection is over.
    Closed,
    /// The caller has its 101; what follows is bytes.
    Upgraded(Box<Upgraded>),
    /// The caller has no complete answer, and sees that; the connection is over.
    Failed(Failure),
}

impl Connection {
    /// A connection that was accepted; `first` is what has been read from it already.
    pub fn new(stream: TcpStream, first: &Bytes, limits: Arc<Limits>) -> Self {
        let (half, writer) = stream.into_split();
        Self {
            shared: Arc::new(Shared::new(half, first)),
            writer: Some(writer),
            out: Out::default(),
            limits,
            exchange: Exchange {
                method: Method::GET,
                version: Version::HTTP_11,
                keep_alive: true,
                expects_continue: false,
            },
            last: false,
            open_ended: false,
        }
    }

    /// Waits for a request. Holds no buffer until its first byte comes. Cancel safe: what was read is kept.
    pub async fn next_request(&mut self) -> Next {
        match poll_fn(|context| self.poll_head(context, false)).await {
            Ok(arrived) => Next::Request(self.begin(arrived)),
            Err(Stop::Closed) => Next::Closed,
            // Boxed, as all that few connections do: each idle one would hold the room for it.
            Err(stop) => Box::pin(self.no_head_yet(stop)).await,
        }
    }

    /// Waits for the rest of a head, and refuses what is none.
    async fn no_head_yet(&mut self, mut stop: Stop) -> Next {
        if let Stop::Partial = stop {
            let rest = poll_fn(|context| self.poll_head(context, true));
            match tokio::time::timeout(self.limits.head_timeout, rest).await {
                Ok(Ok(arrived)) => return Next::Request(self.begin(arrived)),
                Ok(Err(why)) => stop = why,
                Err(_) => stop = TOO_LATE,
            }
        }
        let Stop::Refused(refusal) = stop else { return Next::Closed };
        self.refuse(refusal).await;
        Next::Refused(refusal)
    }

    /// Reads until there is a head, or, unless `wait`, a part of one.
    fn poll_head(&self, context: &mut Context<'_>, wait: bool) -> Poll<Result<Arrived, Stop>> {
        let mut reader = self.shared.reader();
        loop {
            match reader.take_request(&self.shared, &self.limits) {
                Ok(Some(arrived)) => return Poll::Ready(Ok(arrived)),
                Ok(None) if reader.has_bytes() && !wait => return Poll::Ready(Err(Stop::Partial)),
                Ok(None) => {}
                Err(refusal) => return Poll::Ready(Err(Stop::Refused(refusal))),
            }
            match ready!(reader.poll_fill(context)) {
                Ok(true) => {}
                Ok(false) if reader.has_bytes() => {
                    return Poll::Ready(Err(Stop::Refused(Refusal::bad("the head is incomplete"))));
                }
                Ok(false) | Err(_) => return Poll::Ready(Err(Stop::Closed)),
            }
        }
    }

    fn begin(&mut self, arrived: Arrived) -> Request<Body> {
        let Arrived { head, body, exchange } = arrived;
        let mut request = head.request;
        self.exchange = Exchange {
            method: request.method().clone(),
            version: request.version(),
            keep_alive: head.keep_alive,
            expects_continue: head.expects_continue,
        };
        if request.version() == Version::HTTP_11 {
            request.extensions_mut().insert(Informational::new(Arc::clone(&self.shared), exchange));
        }
        *request.body_mut() = body;
        request
    }

    /// Whether no byte of a further request has been seen, so that the connection may be closed between two.
    pub fn is_idle(&self) -> bool {
        !self.shared.reader().has_bytes()
    }

    /// The next answer says `Connection: close` and is the last.
    pub fn last(&mut self) {
        self.last = true;
    }

    /// Runs `answer` while watching the caller: None when it went away, and then the answer is of no use to
    /// anybody. A caller that only closes its sending side counts as gone, as it does for Envoy: the two cannot
    /// be told apart, and whoever gives up closes like this.
    pub async fn until_gone<F: Future + Unpin>(&mut self, mut answer: F) -> Option<F::Output> {
        poll_fn(|context| {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(context) {
                return Poll::Ready(Some(answer));
            }
            self.poll_gone(context).map(|()| None)
        })
        .await
    }

    fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut reader = self.shared.reader();
        let _ = reader.poll_interim(context);
        reader.poll_gone(context)
    }

    /// Sends the answer, and meanwhile lets the body of the answer carry on the upload. Dropping the future
    /// leaves the connection in the middle of an answer: drop the connection too.
    pub async fn respond(&mut self, response: Response<Body>) -> Ended {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Box::pin(self.switch(response)).await;
        }
        let framing = encode::response_framing(&self.exchange.method, self.exchange.version, &response);
        let open = self.stays_open(framing);
        let body = self.put_head(response, framing, open);
        self.set_open_ended(framing == Framing::Close);
        match self.send_body(body, framing).await {
            Ok(()) if open && self.drain().await => {
                self.out.release();
                self.shared.reader().end_exchange();
                Ended::Open
            }
            Ok(()) => {
                self.set_open_ended(false);
                self.linger().await;
                Ended::Closed
            }
            Err(broken) => {
                self.out.release();
                Ended::Failed(broken.into_failure())
            }
        }
    }

    fn stays_open(&self, framing: Framing) -> bool {
        // Whoever waits for a 100 and gets the answer instead may or may not send its body: where the next
        // request begins cannot be known.
        let undecided = self.exchange.expects_continue && self.shared.reader().holds_body_back();
        let broken = self.shared.reader().is_body_broken();
        self.exchange.keep_alive && !self.last && !undecided && !broken && framing != Framing::Close
    }

    fn put_head(&mut self, response: Response<Body>, framing: Framing, open: bool) -> Body {
        let (parts, body) = response.into_parts();
        let persistence = match (open, self.exchange.version) {
            (false, _) => Persistence::Close,
            (true, Version::HTTP_10) => Persistence::KeepAlive,
            (true, _) => Persistence::Open,
        };
        let out = self.out.head();
        out.extend_from_slice(&self.shared.reader().begin_answer());
        encode::response_head(
            out,
            parts.status,
            parts.extensions.get::<Reason>(),
            &parts.headers,
            framing,
            persistence,
        );
        buffers::give_maps(parts.headers, parts.extensions);
        body
    }

    /// Writes what waits, and the body behind it.
    async fn send_body(&mut self, mut body: Body, framing: Framing) -> Result<(), Broken> {
        let mut encoder = Encoder::new(framing);
        let mut done = body.is_end_stream();
        let mut lost = None;
        if done {
            encoder.end(&mut self.out).map_err(Broken::Body)?;
        }
        poll_fn(|context| {
            loop {
                while !done && !self.out.is_full() {
                    let put = match Pin::new(&mut body).poll_frame(context) {
                        Poll::Ready(Some(Ok(frame))) => {
                            done = body.is_end_stream();
                            encoder.frame(&mut self.out, frame)
                        }
                        Poll::Ready(Some(Err(error))) => Err(error),
                        Poll::Ready(None) => {
                            done = true;
                            Ok(())
                        }
                        Poll::Pending => break,
                    };
                    let put = if done { put.and_then(|()| encoder.end(&mut self.out)) } else { put };
                    // What came before the loss is still the caller's.
                    lost = put.err();
                    done |= lost.is_some();
                }
                if self.out.is_empty() {
                    if let Some(error) = lost.take() {
                        return Poll::Ready(Err(Broken::Body(error)));
                    }
                    if done {
                        return Poll::Ready(Ok(()));
                    }
                    ready!(self.poll_gone(context));
                    return Poll::Ready(Err(Broken::Caller));
                }
                let Some(writer) = &mut self.writer else { return Poll::Ready(Err(Broken::Caller)) };
                match self.out.poll_write(Pin::new(writer), context) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Caller)),
                    Poll::Pending => {
                        body.poll_progress(context);
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    /// Reads away what is left of the request's body, if that is little. False: the connection has to end.
    async fn drain(&self) -> bool {
        if self.shared.reader().is_body_done() {
            return true;
        }
        let mut left = self.limits.drain_bytes;
        let rest = poll_fn(|context| {
            loop {
                match ready!(self.shared.reader().poll_body(context)) {
                    None => return Poll::Ready(true),
                    Some(Err(_)) => return Poll::Ready(false),
                    Some(Ok(frame)) => {
                        let Some(less) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len) as u64)
                        else {
                            return Poll::Ready(false);
                        };
                        left = less;
                    }
                }
            }
        });
        tokio::time::timeout(self.limits.linger, rest).await.unwrap_or(false)
    }

    async fn refuse(&mut self, refusal: Refusal) {
        let body = format!("{}\n", refusal.reason);
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let framing = Framing::Length(body.len() as u64);
        let out = self.out.head();
        encode::response_head(out, refusal.status, None, &headers, framing, Persistence::Close);
        if self.send_body(Body::from(body), framing).await.is_ok() {
            self.linger().await;
        }
    }

    /// Says that nothing more will come, and waits until the caller has heard it: it closes too.
    async fn linger(&mut self) {
        self.out.release();
        self.last = true;
        let Some(writer) = &mut self.writer else { return };
        if poll_fn(|context| Pin::new(&mut *writer).poll_shutdown(context)).await.is_err() {
            return;
        }
        let mut left = MAX_LINGER_BYTES;
        let heard = poll_fn(|context| {
            loop {
                match ready!(self.shared.reader().poll_discard(context)) {
                    Ok(read) if read > 0 && read < left => left -= read,
                    Ok(_) | Err(_) => return Poll::Ready(()),
                }
            }
        });
        let _ = tokio::time::timeout(self.limits.linger, heard).await;
    }

    /// While an answer is delimited by the end of the connection, every end but our own must be a reset, even
    /// the end of this process: a plain end would make what was cut off look complete.
    fn set_open_ended(&mut self, open_ended: bool) {
        if self.open_ended != open_ended {
            self.open_ended = open_ended;
            if let Some(writer) = &self.writer {
                let linger = open_ended.then_some(Duration::ZERO);
                let _ = SockRef::from(AsRef::<TcpStream>::as_ref(writer)).set_linger(linger);
            }
        }
    }

    /// Sends a 101 and gives both connections away.
    async fn switch(&mut self, mut response: Response<Body>) -> Ended {
        let upstream = response.extensions_mut().remove::<UpstreamIo>().and_then(|io| io.take());
        let Some(upstream) = upstream else {
            return Ended::Failed(Failure::upstream(Kind::Protocol, true, "101 without a connection"));
        };
        self.put_head(response, Framing::None, true);
        if let Err(broken) = self.send_body(Body::Empty, Framing::None).await {
            return Ended::Failed(broken.into_failure());
        }
        self.out.release();
        let (half, first) = self.shared.reader().give_away();
        let caller = half.zip(self.writer.take()).and_then(|(half, writer)| half.reunite(writer).ok());
        match caller {
            Some(stream) => {
                Ended::Upgraded(Box::new(Upgraded { caller: Io { stream, first, permit: None }, upstream }))
            }
            None => Ended::Closed,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A half that is dropped says goodbye properly first.
        if self.open_ended
            && let Some(writer) = self.writer.take()
        {
            writer.forget();
        }
    }
}

/// Why there is no head.
enum Stop {
    Partial,
    Refused(Refusal),
    Closed,
}

const TOO_LATE: Stop =
    Stop::Refused(Refusal { status: StatusCode::REQUEST_TIMEOUT, reason: "the head did not arrive in time" });

/// Why an answer was not sent to its end.
enum Broken {
    Caller,
    Body(Error),
}

impl Broken {
    fn into_failure(self) -> Failure {
        match self {
            Self::Caller => Failure::downstream(Kind::Gone, "the caller went away during the answer"),
            Self::Body(Error::Upload) => Failure::downstream(Kind::Gone, Error::Upload.to_string()),
            Self::Body(Error::Malformed(reason)) => Failure::upstream(Kind::Protocol, true, reason),
            Self::Body(error) => Failure::upstream(Kind::Reset, true, error.to_string()),
        }
    }
}
