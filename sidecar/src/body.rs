//! The one body type of the sidecar: whatever protocol it comes from, whatever protocol it goes to.
//!
//! ```text
//! caller's connection --Body--> upstream's connection      (the upload)
//! upstream's connection --Body--> caller's connection      (the answer)
//! ```
//!
//! Most bodies are none or a few bytes that arrived with their head: those are values ([`Body::Empty`],
//! [`Body::Bytes`]). What streams is a [`Source`]: a connection of our HTTP/1.1 codec, a body that is kept for
//! a retry, a body that counts. HTTP/2 bodies are hyper's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::said::Said;

/// The content of a request or a response.
#[derive(Default)]
pub enum Body {
    /// No content.
    #[default]
    Empty,
    /// All of the content.
    Bytes(Bytes),
    /// Content that arrives on an HTTP/2 stream.
    Http2(Incoming),
    /// Content that arrives in any other way.
    Source(Pin<Box<dyn Source>>),
}

/// Content that arrives piece by piece.
pub trait Source: Send {
    /// The next piece, as [`http_body::Body::poll_frame`].
    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>>;

    /// Whether nothing more follows; false where that is not known yet.
    fn is_end_stream(&self) -> bool {
        false
    }

    /// What is known of the length that is still to come.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }

    /// Moves on what depends on this body without taking a piece of it: an HTTP/1.1 answer carries on the
    /// upload of its request. Called while the reader of this body is itself held up, so that a caller who
    /// reads only after it has sent everything is not waited for in vain; whoever reads ahead reads less. A
    /// wrapper passes it on.
    fn poll_progress(self: Pin<&mut Self>, _context: &mut Context<'_>) {}
}

impl Body {
    /// Content from a [`Source`].
    pub fn source(source: impl Source + 'static) -> Self {
        Self::Source(Box::pin(source))
    }

    /// See [`Source::poll_progress`].
    pub fn poll_progress(&mut self, context: &mut Context<'_>) {
        if let Self::Source(source) = self {
            source.as_mut().poll_progress(context);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let body = self.get_mut();
        match body {
            Self::Empty => Poll::Ready(None),
            Self::Bytes(_) => {
                let Self::Bytes(bytes) = std::mem::take(body) else { return Poll::Ready(None) };
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Http2(incoming) => {
                match ready!(Pin::new(&mut *incoming).poll_frame(context)) {
                    Some(Ok(mut frame)) => {
                        if let Some(trailers) = frame.trailers_mut() {
                            Said::take(trailers);
                            *body = Self::Empty;
                        }
                        Poll::Ready(Some(Ok(frame)))
                    }
                    Some(Err(error)) => Poll::Ready(Some(Err(Error::Http2(error)))),
                    None if incoming.is_end_stream() || incoming.size_hint().exact() == Some(0) => {
                        Poll::Ready(None)
                    }
                    // To hyper a reset without an error (NO_ERROR) is an end like any other.
                    None => Poll::Ready(Some(Err(Error::Incomplete))),
                }
            }
            Self::Source(source) => source.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Http2(incoming) => incoming.is_end_stream(),
            Self::Source(source) => source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http2(incoming) => incoming.size_hint(),
            Self::Source(source) => source.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Bytes(bytes) }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        if http_body::Body::is_end_stream(&incoming) { Self::Empty } else { Self::Http2(incoming) }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => formatter.write_str("Empty"),
            Self::Bytes(bytes) => write!(formatter, "Bytes({})", bytes.len()),
            Self::Http2(_) => formatter.write_str("Http2"),
            Self::Source(_) => formatter.write_str("Source"),
        }
    }
}

/// Why a body ended before its end. Whoever passes the body on must end its own connection so that the
/// reader sees the loss: a body that was cut off never looks complete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection ended before the body did.
    #[error("the connection or the stream ended in the middle of the body")]
    Incomplete,
    /// The framing of the body is broken.
    #[error("malformed body: {0}")]
    Malformed(&'static str),
    /// The connection failed.
    #[error("reading the body: {0}")]
    Io(#[from] io::Error),
    /// The HTTP/2 stream failed.
    #[error("HTTP/2: {0}")]
    Http2(#[source] hyper::Error),
    /// The exchange that the body belongs to is over.
    #[error("the exchange is over")]
    Stale,
    /// Belongs to an answer: the caller has broken off the request, so nobody will hear the rest.
    #[error("the request's body broke off")]
    Upload,
    /// We ended it: a time limit, draining.
    #[error("{0}")]
    Aborted(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;

    #[test]
    fn hints_are_exact_for_what_is_here() {
        assert!(Body::Empty.is_end_stream());
        assert!(Body::from(Bytes::new()).is_end_stream());
        let body = Body::from("four");
        assert!(!body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(4));
    }

    #[test]
    fn bytes_come_once() {
        let mut body = Body::from("four");
        let mut context = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else {
            panic!("no frame")
        };
        assert_eq!(frame.into_data().ok().as_deref(), Some(&b"four"[..]));
        assert!(body.is_end_stream());
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut context), Poll::Ready(None)));
    }

    #[test]
    fn a_body_is_small() {
        // It is moved with every request and response: larger variants are boxed.
        assert!(size_of::<Body>() <= 64, "{}", size_of::<Body>());
    }
}
