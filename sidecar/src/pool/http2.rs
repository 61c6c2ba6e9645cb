//! A shared HTTP/2 connection to an endpoint.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::body::Body;
use crate::failure::{Failure, Kind};
use crate::pool::Slot;
use crate::pool::admission::Shareable;
use crate::spawn;

/// Bytes that an endpoint may send on one stream before we read them: what a stalled caller can make us hold.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection to an endpoint, which all callers share: as much as they can hold
/// together. With less, a few callers that do not read would use it up, and nobody else would be answered.
const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW;
/// Bytes of a stream that we hold because the peer does not take them.
pub const SEND_BUFFER: usize = 256 * 1024;
/// The longest header block, as with HTTP/1.1.
pub const HEADER_BYTES: u32 = 64 * 1024;
/// More streams than this share no connection, whatever the peer allows: one connection is one core of the peer.
const MOST_STREAMS: u32 = 1000;

/// An endpoint that vanished without a word would be given one request after the other: while streams are open it
/// is asked so often...
const PING: Duration = Duration::from_secs(15);
/// ...and must answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A shared connection; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    /// To send with. Every clone is independent.
    pub sender: SendRequest<Body>,
    capacity: Arc<AtomicU32>,
}

impl Shareable for Handle {
    fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// Starts HTTP/2 with prior knowledge. `slot` is held as long as the socket is open.
pub async fn handshake(stream: TcpStream, slot: Slot) -> Result<Handle, Failure> {
    let io = TokioIo::new(Slotted { stream, _slot: slot });
    let (sender, connection) = Builder::new(spawn::Executor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(io)
        .await
        .map_err(|error| Failure::upstream(Kind::Connect, false, format!("HTTP/2 handshake: {error}")))?;
    let capacity = Arc::new(AtomicU32::new(allowed(connection.current_max_send_streams())));
    let seen = Arc::clone(&capacity);
    spawn::task(async move {
        let mut connection = Box::pin(connection);
        let ended = std::future::poll_fn(|context| {
            let polled = connection.as_mut().poll(context);
            seen.store(allowed(connection.current_max_send_streams()), Ordering::Relaxed);
            polled
        })
        .await;
        if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP/2 connection to an endpoint ended");
        }
    });
    Ok(Handle { sender, capacity })
}

/// What an error of a request on a shared connection means.
pub fn failure(error: &hyper::Error) -> Failure {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            return stream_failure(cause);
        }
        source = cause.source();
    }
    Failure::upstream(Kind::Reset, true, format!("HTTP/2: {error}"))
}

fn stream_failure(error: &h2::Error) -> Failure {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 gives a stream the peer's GOAWAY as its error only when the peer's last id is below the stream's
    // (RFC 9113, 6.8: not processed); streams up to it go on, and later end by themselves or with the socket.
    if error.is_remote() && (refused || error.is_go_away()) {
        return Failure::upstream(Kind::Refused, false, format!("refused: {error}"));
    }
    let kind = match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR | h2::Reason::FRAME_SIZE_ERROR | h2::Reason::COMPRESSION_ERROR) => {
            Kind::Protocol
        }
        _ => Kind::Reset,
    };
    Failure::upstream(kind, true, error.to_string())
}

fn allowed(streams: usize) -> u32 {
    u32::try_from(streams).unwrap_or(u32::MAX).min(MOST_STREAMS)
}

/// A socket that holds a slot for as long as it is open: fields are dropped in order.
struct Slotted {
    stream: TcpStream,
    _slot: Slot,
}

impl tokio::io::AsyncRead for Slotted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Slotted {
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
