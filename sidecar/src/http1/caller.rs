//! What is read from a caller: heads by the driver, bodies by whoever holds the request.
//!
//! Both are polled by the same task, so the lock is never waited for; it is there because a request's body is a
//! value of its own that may outlive the exchange, and then must find nothing.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::net::tcp::OwnedReadHalf;

use crate::body::{Body, Error, Source};
use crate::buffers::{self, Piece};
use crate::http1::Limits;
use crate::http1::body::{Decoder, Step};
use crate::http1::encode::{self, Persistence};
use crate::http1::head::{self, Framing, Refusal, RequestHead, Scan};

/// Interim answers that a caller has not taken; more are dropped.
const MAX_INTERIM: usize = 64 * 1024;

/// The half of the connection that is shared with the request's body and with interim answers.
pub(in crate::http1) struct Shared(Mutex<Reader>);

impl Shared {
    pub(in crate::http1) fn new(half: OwnedReadHalf, first: &Bytes) -> Self {
        let mut buffer = BytesMut::new();
        if !first.is_empty() {
            buffer = buffers::take();
            buffer.extend_from_slice(first);
        }
        let reader = Reader {
            half: Some(half),
            buffer,
            piece: Piece::default(),
            scan: Scan::default(),
            decoder: Decoder::new(Framing::None),
            exchange: 0,
            ended: false,
            continued: false,
            answered: false,
            interim: BytesMut::new(),
        };
        Self(Mutex::new(reader))
    }

    pub(in crate::http1) fn reader(&self) -> MutexGuard<'_, Reader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything about what the caller has sent.
pub(in crate::http1) struct Reader {
    /// None once the connection was given away.
    half: Option<OwnedReadHalf>,
    buffer: BytesMut,
    piece: Piece,
    scan: Scan,
    /// Of the current request's body.
    decoder: Decoder,
    /// Counts exchanges, so that what belongs to an earlier one can be told.
    exchange: u32,
    /// The caller has said that nothing more will come.
    ended: bool,
    /// The caller was told to send the body that it held back.
    continued: bool,
    /// The answer has begun: there is no room for interim ones any more.
    answered: bool,
    /// Interim answers that could not be written at once.
    interim: BytesMut,
}

/// A head, and the body behind it.
pub(in crate::http1) struct Arrived {
    pub(in crate::http1) head: RequestHead,
    pub(in crate::http1) body: Body,
    /// The number of the exchange that begins.
    pub(in crate::http1) exchange: u32,
}

impl Reader {
    pub(in crate::http1) fn has_bytes(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether all of the current request has arrived.
    pub(in crate::http1) fn is_body_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Whether the rest of the current request cannot be read.
    pub(in crate::http1) fn is_body_broken(&self) -> bool {
        self.decoder.is_broken() || (self.ended && !self.decoder.is_done())
    }

    /// Whether a caller that waits for a 100 before it sends the body has neither got one nor begun.
    pub(in crate::http1) fn holds_body_back(&self) -> bool {
        !self.continued && !self.decoder.is_done() && self.buffer.is_empty()
    }

    /// The answer begins: what is left of interim ones, to be written before it.
    pub(in crate::http1) fn begin_answer(&mut self) -> BytesMut {
        self.answered = true;
        std::mem::take(&mut self.interim)
    }

    /// Writes an interim answer of this exchange, as far as it goes now.
    pub(in crate::http1) fn send_interim(&mut self, exchange: u32, status: StatusCode, headers: &HeaderMap) {
        if self.exchange != exchange || self.answered || self.interim.len() > MAX_INTERIM {
            return;
        }
        if status == StatusCode::CONTINUE {
            self.continued = true;
        }
        encode::response_head(&mut self.interim, status, None, headers, Framing::None, Persistence::Open);
        self.write_interim();
    }

    /// Writes what is left of interim answers; pending while there is more.
    pub(in crate::http1) fn poll_interim(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.interim.is_empty() {
            let Some(half) = &self.half else { break };
            if ready!(half.as_ref().poll_write_ready(context)).is_err() {
                break; // The runtime is shutting down.
            }
            self.write_interim();
        }
        Poll::Ready(())
    }

    fn write_interim(&mut self) {
        let Some(half) = &self.half else { return };
        match half.as_ref().try_write(&self.interim) {
            Ok(written) => self.interim.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.interim.clear(), // Nobody will read it; reading says so too.
        }
    }

    /// Takes a request from what has been read.
    pub(in crate::http1) fn take_request(
        &mut self,
        shared: &Arc<Shared>,
        limits: &Limits,
    ) -> Result<Option<Arrived>, Refusal> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let Some(head) = head::request(&mut self.buffer, &mut self.scan, limits)? else { return Ok(None) };
        self.exchange = self.exchange.wrapping_add(1);
        self.continued = false;
        self.answered = false;
        self.decoder = Decoder::new(head.framing);
        let body = match head.framing {
            Framing::None | Framing::Length(0) | Framing::Close => {
                self.piece.shrink();
                Body::Empty
            }
            // What is there already needs no reader.
            Framing::Length(length) if length <= self.buffer.len() as u64 => {
                self.piece.shrink();
                match self.decoder.decode(&mut self.buffer) {
                    Ok(Step::Data(data)) => Body::Bytes(data),
                    _ => Body::Empty,
                }
            }
            Framing::Length(_) | Framing::Chunked => {
                Body::source(RequestBody { shared: Arc::clone(shared), exchange: self.exchange })
            }
        };
        Ok(Some(Arrived { head, body, exchange: self.exchange }))
    }

    /// Reads once: false at the end of what the caller sends. Holds no buffer while there is nothing to read.
    pub(in crate::http1) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(half) = self.half.as_mut().filter(|_| !self.ended) else { return Poll::Ready(Ok(false)) };
        if self.buffer.capacity() == 0 {
            ready!(half.as_ref().poll_read_ready(context))?;
            self.buffer = buffers::take();
        }
        let expected = self.decoder.expected();
        let read = ready!(buffers::poll_read(half, &mut self.buffer, expected, &mut self.piece, context));
        self.ended = !matches!(read, Ok(1..));
        Poll::Ready(read.map(|read| read > 0))
    }

    /// Ready when the caller will send nothing more and has gone away, as far as one can tell. What it sends
    /// ahead of its turn is kept. While its body is still coming, reading the body tells instead.
    pub(in crate::http1) fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.ended {
            if !self.decoder.is_done() || self.buffer.len() >= buffers::SIZE {
                return Poll::Pending;
            }
            // The head of the request is still in the buffer: given back now, it would be lost to who comes next.
            let in_use = self.buffer.capacity() > 0
                && self.buffer.is_empty()
                && !self.buffer.try_reclaim(buffers::SIZE);
            if in_use && let Some(half) = &self.half {
                let _ = ready!(half.as_ref().poll_read_ready(context));
            }
            let _ = ready!(self.poll_fill(context));
        }
        if self.decoder.is_done() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The next piece of the current request's body.
    pub(in crate::http1) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(self.poll_fill(context)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(Some(Err(Error::Incomplete))),
                Err(error) => return Poll::Ready(Some(Err(Error::Io(error)))),
            }
        }
    }

    /// The exchange is over: whoever still holds its body finds nothing there.
    pub(in crate::http1) fn end_exchange(&mut self) {
        self.exchange = self.exchange.wrapping_add(1);
        self.release();
    }

    /// Gives back the buffer if nothing is in it.
    fn release(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.buffer));
        }
    }

    /// Reads once and throws it away: 0 at the end.
    pub(in crate::http1) fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.clear();
        let more = ready!(self.poll_fill(context))?;
        Poll::Ready(Ok(if more { self.buffer.len() } else { 0 }))
    }

    /// The raw connection and what was read from it ahead.
    pub(in crate::http1) fn give_away(&mut self) -> (Option<OwnedReadHalf>, Bytes) {
        (self.half.take(), std::mem::take(&mut self.buffer).freeze())
    }
}

/// A request's body while it arrives.
struct RequestBody {
    shared: Arc<Shared>,
    exchange: u32,
}

impl Source for RequestBody {
    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut reader = self.shared.reader();
        if reader.exchange == self.exchange {
            reader.poll_body(context)
        } else {
            Poll::Ready(Some(Err(Error::Stale)))
        }
    }

    fn is_end_stream(&self) -> bool {
        let reader = self.shared.reader();
        reader.exchange == self.exchange && reader.decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        let reader = self.shared.reader();
        if reader.exchange == self.exchange { reader.decoder.size_hint() } else { SizeHint::default() }
    }

    fn poll_progress(self: Pin<&mut Self>, _context: &mut Context<'_>) {
        let mut reader = self.shared.reader();
        if reader.exchange == self.exchange {
            reader.piece.shrink();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn an_interim_answer_that_cannot_be_written_is_not_tried_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (caller, ours) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (half, _writer) = ours.unwrap().0.into_split();
        let shared = Shared::new(half, &Bytes::new());
        crate::opaque::reset(&caller.unwrap()); // And it is dropped.
        poll_fn(|context| shared.reader().half.as_ref().unwrap().as_ref().poll_read_ready(context))
            .await
            .unwrap();
        let mut reader = shared.reader();
        reader.send_interim(0, StatusCode::PROCESSING, &HeaderMap::new());
        assert!(reader.interim.is_empty());
    }
}
