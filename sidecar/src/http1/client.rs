//! One upstream connection.
//!
//! ```text
//!   pool --checkout--> send: head and body go out, the head comes in --> Response<Body>
//!    ^                                                                        |
//!    +--Home::come_home-- clean end <--- polling the body: content comes in, <+
//!                         any other end: dropped     the upload goes on
//! ```
//!
//! The connection is inside the future of [`Connection::send`], then inside the body of the answer; dropping
//! either closes it, which is how a request is cancelled. An answer may come before the upload is complete. A
//! good one does not end the upload, for the upstream may still want it; an error, or an upstream that says it
//! will close, does.

mod answer;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use tokio::net::TcpStream;

use crate::body::{Body, Error};
use crate::buffers::{self, Piece};
use crate::failure::{Failure, Kind};
use crate::http1::Limits;
use crate::http1::body::{Decoder, Step};
use crate::http1::encode::{self, Encoder, Out};
use crate::http1::head::{self, Framing, ResponseHead, Scan, fields};
use crate::http1::informational::Informational;
use crate::http1::upgrade::{Io, UpstreamIo};
use crate::said::Said;

use answer::Answer;

/// An upstream connection, idle or at its one exchange. Small: the state is boxed.
pub struct Connection(Box<Inner>);

struct Inner {
    stream: TcpStream,
    home: Option<Arc<dyn Home>>,
    permit: Option<Box<dyn Send + Sync>>,
    limits: Arc<Limits>,
    /// Requests sent on it, with the current one.
    requests: u64,
    /// The next request is the last.
    last: bool,
    buffer: BytesMut,
    piece: Piece,
    scan: Scan,
    /// Of the answer's body.
    decoder: Decoder,
    /// The connection may be used after this answer.
    keep_alive: bool,
    out: Out,
    upload: Upload,
    /// Whether a byte of the current request was written.
    written: bool,
}

/// How far the request is on its way.
enum Upload {
    /// All of it is written.
    Done,
    /// Head, body or both are still to be written.
    Going { body: Body, encoder: Encoder, ended: bool, started: bool },
    /// The upstream takes no more; it may still answer.
    Refused(io::Error),
    /// The request's body broke off.
    Broken(Error),
}

/// Where a connection goes when its answer was read to a clean end: its pool.
pub trait Home: Send + Sync {
    /// The connection may be used again.
    fn come_home(&self, connection: Connection);
}

impl Connection {
    /// A connection that was opened. `permit` is dropped with it.
    pub fn new(
        stream: TcpStream,
        home: Option<Arc<dyn Home>>,
        permit: Option<Box<dyn Send + Sync>>,
        limits: Arc<Limits>,
    ) -> Self {
        Self(Box::new(Inner {
            stream,
            home,
            permit,
            limits,
            requests: 0,
            last: false,
            buffer: BytesMut::new(),
            piece: Piece::default(),
            scan: Scan::default(),
            decoder: Decoder::new(Framing::None),
            keep_alive: true,
            out: Out::default(),
            upload: Upload::Done,
            written: false,
        }))
    }

    /// Sends a request and waits for the head of the answer. Polling the answer's body carries on the upload.
    /// Dropping the future, or the body before its end, drops the connection.
    pub async fn send(self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let (parts, body) = request.into_parts();
        let answer = self.send_parts(&parts, body).await;
        buffers::give_maps(parts.headers, parts.extensions);
        answer
    }

    /// As [`send`](Self::send), for a request whose head may be needed for another attempt.
    pub async fn send_parts(mut self, parts: &Parts, body: Body) -> Result<Response<Body>, SendError> {
        let reused = self.0.requests > 0;
        if !self.is_reusable() {
            let reason = "the connection was closed while it was idle".into();
            return Err(SendError { cause: Cause::Reset, request_sent: false, reused, reason });
        }
        let asked = self.0.begin(parts, body);
        let came = poll_fn(|context| self.0.poll_head(context, &asked)).await;
        match came {
            Ok(head) => self.answer(head, &asked),
            Err(stop) => Err(self.0.error(stop, reused)),
        }
    }

    fn answer(mut self, head: ResponseHead, asked: &Asked) -> Result<Response<Body>, SendError> {
        let ResponseHead { mut response, framing, keep_alive } = head;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(response, asked);
        }
        let inner = &mut *self.0;
        inner.keep_alive = keep_alive && !inner.last;
        inner.decoder = Decoder::new(framing);
        // A caller that was not told to go on may never send the content (RFC 9110, 10.1.1).
        let waits = asked.expects && matches!(inner.upload, Upload::Going { started: false, .. });
        let failed = response.status().is_client_error() || response.status().is_server_error();
        let goes_on = inner.keep_alive && !failed && !waits;
        if !goes_on {
            inner.keep_alive &= inner.upload.is_done();
        }
        // What is there already needs no reader.
        let body = match framing {
            Framing::Length(length) if length <= inner.buffer.len() as u64 => {
                inner.piece.shrink();
                match inner.decoder.decode(&mut inner.buffer) {
                    Ok(Step::Data(data)) => Body::Bytes(data),
                    _ => Body::Empty,
                }
            }
            _ => Body::Empty,
        };
        *response.body_mut() = if !inner.decoder.is_done() || (goes_on && !inner.upload.is_done()) {
            Body::source(Answer::new(self, body, goes_on))
        } else {
            self.go_home();
            body
        };
        Ok(response)
    }

    /// The exchange is over: back to the pool, if the connection is fit for another one.
    fn go_home(mut self) {
        let inner = &mut *self.0;
        // Bytes after the answer belong to no request: whoever sent them is confused, or an attacker.
        if !inner.keep_alive || !inner.upload.is_done() || !inner.buffer.is_empty() {
            return;
        }
        inner.release();
        if let Some(home) = inner.home.clone() {
            home.come_home(self);
        }
    }

    fn switch(mut self, mut response: Response<Body>, asked: &Asked) -> Result<Response<Body>, SendError> {
        let agreed = response.headers().get(header::UPGRADE).map(http::HeaderValue::as_bytes);
        let was_asked_for = |protocol: &[u8]| {
            asked
                .upgrade
                .iter()
                .flat_map(|value| fields::tokens(value))
                .any(|asked| asked.eq_ignore_ascii_case(protocol))
        };
        if !agreed.is_some_and(|agreed| fields::tokens(agreed).all(was_asked_for)) {
            return Err(self.0.error(Stop::Protocol("101 for a protocol that was not asked for"), false));
        }
        self.0.out.release();
        let Inner { stream, permit, mut buffer, .. } = *self.0;
        let io = Io { stream, first: std::mem::take(&mut buffer).freeze(), permit };
        response.extensions_mut().insert(UpstreamIo::new(io));
        Ok(response)
    }

    /// Whether the upstream has neither closed nor said anything unasked, as far as the reactor has heard: no
    /// system call is made unless it has.
    pub fn is_reusable(&self) -> bool {
        let unread = self.0.stream.try_read(&mut [0]);
        unread.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// As [`is_reusable`](Self::is_reusable), but asks the kernel: one system call, and no doubt but what is
    /// on the wire.
    pub fn is_reusable_now(&self) -> bool {
        let unread = socket2::SockRef::from(&self.0.stream).peek(&mut [std::mem::MaybeUninit::uninit()]);
        unread.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// How many requests were sent on it.
    pub fn requests(&self) -> u64 {
        self.0.requests
    }

    /// The next request says `Connection: close`, and the connection does not come home.
    pub fn last(&mut self) {
        self.0.last = true;
    }
}

/// What must be remembered of the request until the answer has come.
struct Asked {
    method: Method,
    informational: Option<Informational>,
    /// The protocols of `Upgrade`.
    upgrade: Option<Bytes>,
    /// `Expect: 100-continue`.
    expects: bool,
}

/// Why there is no head.
enum Stop {
    /// The connection ended.
    Ended,
    Failed(io::Error),
    Protocol(&'static str),
    Upload(Error),
}

impl Inner {
    /// Puts the head into `out` and remembers the rest.
    fn begin(&mut self, parts: &Parts, body: Body) -> Asked {
        let framing = encode::request_framing(&parts.method, &parts.headers, &body);
        let asked = Asked {
            informational: parts.extensions.get::<Informational>().cloned(),
            upgrade: parts.headers.get(header::UPGRADE).map(|value| Bytes::copy_from_slice(value.as_bytes())),
            method: parts.method.clone(),
            expects: !body.is_end_stream() && parts.headers.contains_key(header::EXPECT),
        };
        encode::request_head(self.out.head(), &asked.method, &parts.uri, &parts.headers, framing, self.last);
        let ended = body.is_end_stream();
        self.upload = Upload::Going { body, encoder: Encoder::new(framing), ended, started: false };
        self.requests += 1;
        self.written = false;
        asked
    }

    /// Carries on the upload as far as it goes now.
    fn poll_upload(&mut self, context: &mut Context<'_>) {
        let Upload::Going { body, encoder, ended, started } = &mut self.upload else { return };
        loop {
            while !*ended && !self.out.is_full() {
                let put = match Pin::new(&mut *body).poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        *started = true;
                        let put = encoder.frame(&mut self.out, frame);
                        *ended = body.is_end_stream();
                        put
                    }
                    Poll::Ready(Some(Err(error))) => Err(error),
                    Poll::Ready(None) => {
                        *ended = true;
                        Ok(())
                    }
                    Poll::Pending => break,
                };
                if let Err(error) = put {
                    self.upload = Upload::Broken(error);
                    return;
                }
            }
            if *ended
                && !encoder.is_ended()
                && !self.out.is_full()
                && let Err(error) = encoder.end(&mut self.out)
            {
                self.upload = Upload::Broken(error);
                return;
            }
            if self.out.is_empty() {
                if *ended {
                    self.upload = Upload::Done;
                    self.out.release();
                }
                return;
            }
            match self.out.poll_write(Pin::new(&mut self.stream), context) {
                Poll::Ready(Ok(_)) => self.written = true,
                Poll::Ready(Err(error)) => {
                    self.upload = Upload::Refused(error);
                    return;
                }
                Poll::Pending => {
                    body.poll_progress(context);
                    return;
                }
            }
        }
    }

    /// Carries on the upload, and waits for the head of the answer.
    fn poll_head(&mut self, context: &mut Context<'_>, asked: &Asked) -> Poll<Result<ResponseHead, Stop>> {
        self.poll_upload(context);
        if let Upload::Broken(error) = &mut self.upload {
            return Poll::Ready(Err(Stop::Upload(std::mem::replace(error, Error::Stale))));
        }
        loop {
            match head::response(&mut self.buffer, &mut self.scan, &self.limits, &asked.method) {
                Ok(Some(head)) if is_interim(head.response.status()) => {
                    let (mut parts, _) = head.response.into_parts();
                    Said::take(&mut parts.headers);
                    if let Some(caller) = &asked.informational {
                        caller.send(parts.status, &parts.headers);
                    }
                    buffers::give_maps(parts.headers, parts.extensions);
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => match ready!(self.poll_fill(context)) {
                    Ok(true) => {}
                    Ok(false) => return Poll::Ready(Err(Stop::Ended)),
                    Err(error) => return Poll::Ready(Err(Stop::Failed(error))),
                },
                Err(reason) => return Poll::Ready(Err(Stop::Protocol(reason))),
            }
        }
    }

    /// Reads once: false at the end of the connection. Holds no buffer while there is nothing to read.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.buffer.capacity() == 0 {
            ready!(self.stream.poll_read_ready(context))?;
            self.buffer = buffers::take();
        }
        let expected = self.decoder.expected();
        buffers::poll_read(&mut self.stream, &mut self.buffer, expected, &mut self.piece, context)
            .map_ok(|read| read > 0)
    }

    fn release(&mut self) {
        self.out.release();
        if self.buffer.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.buffer));
        }
    }

    fn error(&mut self, stop: Stop, reused: bool) -> SendError {
        let silent = self.buffer.is_empty();
        let (cause, reason) = match stop {
            Stop::Ended => match &self.upload {
                Upload::Refused(error) => (Cause::Reset, format!("the connection ended: {error}")),
                _ if silent => (Cause::Reset, "the connection ended before the answer".into()),
                _ => (Cause::Reset, "the connection ended in the head of the answer".into()),
            },
            Stop::Failed(error) => (Cause::Reset, format!("the connection failed: {error}")),
            Stop::Protocol(reason) => (Cause::Protocol, reason.into()),
            Stop::Upload(Error::Malformed(reason)) => (Cause::BadUpload, reason.into()),
            Stop::Upload(error) => (Cause::Upload, error.to_string()),
        };
        let reused = reused && silent && cause == Cause::Reset;
        SendError { cause, request_sent: self.written, reused, reason }
    }
}

impl Upload {
    fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    /// What happened.
    pub cause: Cause,
    /// Whether any byte of the request was written.
    pub request_sent: bool,
    /// The connection had served a request before and ended before the first byte of this answer: most likely
    /// the upstream closed it while it was idle.
    pub reused: bool,
    /// For the log.
    pub reason: String,
}

/// What kept the answer away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The connection ended or failed before the head of the answer was complete.
    Reset,
    /// What came is no answer.
    Protocol,
    /// The request's body broke off: the caller went away.
    Upload,
    /// The request's body is malformed.
    BadUpload,
}

impl SendError {
    /// As the data path speaks of it.
    pub fn into_failure(self) -> Failure {
        match self.cause {
            Cause::Reset => {
                let failure = Failure::upstream(Kind::Reset, self.request_sent, self.reason);
                Failure { reused: self.reused, ..failure }
            }
            Cause::Protocol => Failure::upstream(Kind::Protocol, self.request_sent, self.reason),
            Cause::Upload => Failure::downstream(Kind::Gone, self.reason),
            Cause::BadUpload => Failure::downstream(Kind::BadRequest, self.reason),
        }
    }
}
