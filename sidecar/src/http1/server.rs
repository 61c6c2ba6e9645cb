//! One caller's connection.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;

use crate::body::Body;
use crate::failure::Failure;
use crate::http1::{Limits, Upgraded};

/// A caller's connection. One exchange at a time: [`next_request`](Self::next_request), then
/// [`respond`](Self::respond).
pub struct Connection {
    _stream: TcpStream,
    _limits: Arc<Limits>,
}

/// What came next on a caller's connection.
#[derive(Debug)]
pub enum Next {
    /// A request; answer it with [`Connection::respond`].
    Request(Request<Body>),
    /// Something that is no request. It was answered, the connection is over.
    Refused(Refusal),
    /// The caller left, cleanly or not; the connection is over.
    Closed,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {reason}")]
pub struct Refusal {
    /// 400, 408, 414, 431, 501, 505.
    pub status: StatusCode,
    /// For the log and for the body of the answer.
    pub reason: &'static str,
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
    pub fn new(stream: TcpStream, _first: Bytes, limits: Arc<Limits>) -> Self {
        Self { _stream: stream, _limits: limits }
    }

    /// Waits for a request. Holds no buffer until its first byte comes. Cancel safe: what was read is kept.
    #[expect(clippy::unused_async, reason = "the driver follows")]
    pub async fn next_request(&mut self) -> Next {
        Next::Closed
    }

    /// Whether no byte of a further request has been seen, so that the connection may be closed between two.
    pub fn is_idle(&self) -> bool {
        true
    }

    /// The next answer says `Connection: close` and is the last.
    pub fn last(&mut self) {}

    /// Runs `answer` while watching the caller: None when it went away, and then `answer` is dropped, which
    /// cancels the request upstream.
    pub async fn until_gone<F: Future>(&mut self, answer: F) -> Option<F::Output> {
        Some(answer.await)
    }

    /// Sends the answer, and meanwhile lets the body of the answer carry on the upload.
    #[expect(clippy::unused_async, reason = "the driver follows")]
    pub async fn respond(&mut self, _response: Response<Body>) -> Ended {
        Ended::Closed
    }
}
