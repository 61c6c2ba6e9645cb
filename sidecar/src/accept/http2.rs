//! A caller that speaks HTTP/2: hyper carries the frames, each stream is a task of its own.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap};
use http::{Method, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::accept::Connection;
use crate::body::Body;
use crate::exchange::own_answer;
use crate::failure::{Failure, Kind};
use crate::http1::head::fields;
use crate::matcher::is_grpc;
use crate::pool::http2::{HEADER_BYTES, SEND_BUFFER, STREAM_WINDOW};
use crate::spawn;

/// What Envoy allows a caller, too: enough for anybody, and a bound on what one connection can hold here.
const STREAMS: u32 = 1024;

/// Bytes that a caller may send on all streams before they are taken on. A caller is often a sidecar and its
/// connection that of many, so a few uploads that stand still must not use it up; Envoy allows 24 MiB.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A caller that answers no PING for so long is gone; it is asked after as long a silence.
const PING: Duration = Duration::from_secs(60);

/// Serves until the caller leaves, or is asked to and has its last answer.
pub async fn serve(connection: Connection, stream: TcpStream, first: Bytes) {
    let connection = Arc::new(connection);
    connection.proxy.metrics.connection_is(connection.purpose.direction(), "http2");
    let shared = Arc::clone(&connection);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let connection = Arc::clone(&shared);
        // Boxed: hyper keeps the future of each stream inside of its own state and moves that.
        Box::pin(async move {
            let (method, uri) = (request.method().clone(), request.uri().clone());
            if let Err(reason) = make_plain(&method, &uri, request.headers_mut()) {
                tracing::debug!(peer = %connection.peer, reason, "refused a request");
                let failure = Failure::downstream(Kind::BadRequest, reason);
                return Ok(own_answer(&failure, is_grpc(request.headers())));
            }
            let answer = connection.answer(true, request.map(Body::from)).await;
            answer.map_err(|unprocessed| {
                tracing::debug!(reason = unprocessed.reason, "refused a stream");
                h2::Error::from(h2::Reason::REFUSED_STREAM)
            })
        })
    });
    let io = TokioIo::new(Rewound { first, stream });
    let served = Builder::new(spawn::Executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .auto_date_header(false)
        .serve_connection(io, service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = connection.proxy.drain.reached(connection.leaves_in()) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %connection.peer, "a caller's HTTP/2 connection ended");
    }
}

/// What hyper passes on and the next hop would read in another way than we did (RFC 9113, 8.3.1): one host, where
/// `:authority` counts before `Host`, and a path that is one. HTTP/1.1's codec refuses the same in its own words.
fn make_plain(method: &Method, uri: &Uri, headers: &mut HeaderMap) -> Result<(), &'static str> {
    let is_host = |value: &[u8]| value.iter().all(|byte| fields::is_host_byte(*byte));
    if let Some(authority) = uri.authority() {
        if !is_host(authority.as_str().as_bytes()) {
            return Err("malformed :authority");
        }
        headers.remove(header::HOST);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    if hosts.next().is_some_and(|host| !is_host(host.as_bytes())) {
        return Err("malformed Host");
    }
    if hosts.next().is_some() {
        return Err("two Hosts");
    }
    match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
        Some("*") if *method != Method::OPTIONS => Err("`*` is for OPTIONS"),
        Some(target) if !target.starts_with(['/', '*']) => Err("malformed :path"),
        _ => Ok(()),
    }
}

/// A stream whose first bytes were read already.
struct Rewound {
    first: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        if let Some(piece) = self.first.get(..length) {
            buffer.put_slice(piece);
        }
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
