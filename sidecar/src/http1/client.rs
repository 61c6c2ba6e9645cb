//! One upstream connection.

use std::sync::Arc;

use http::{Request, Response};
use tokio::net::TcpStream;

use crate::body::Body;
use crate::failure::{Failure, Kind};
use crate::http1::Limits;

/// An upstream connection, idle or at its one exchange. Small: the state is boxed.
pub struct Connection(Box<Inner>);

struct Inner {
    _stream: TcpStream,
    _home: Option<Arc<dyn Home>>,
    _permit: Option<Box<dyn Send + Sync>>,
    _limits: Arc<Limits>,
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
        Self(Box::new(Inner { _stream: stream, _home: home, _permit: permit, _limits: limits }))
    }

    /// Sends a request and waits for the head of the answer. Polling the answer's body carries on the upload.
    /// Dropping the future, or the body before its end, drops the connection.
    #[expect(clippy::unused_async, reason = "the driver follows")]
    pub async fn send(self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        Err(SendError { cause: Cause::Reset, request_sent: false, reused: false, reason: "not written yet".into() })
    }

    /// Whether the upstream has neither closed nor said anything unasked, as far as the reactor has heard: no
    /// system call is made unless it has.
    pub fn is_reusable(&self) -> bool {
        true
    }

    /// How many requests were sent on it.
    pub fn requests(&self) -> u64 {
        0
    }

    /// The next request says `Connection: close`, and the connection does not come home.
    pub fn last(&mut self) {}
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
    /// The request's body failed: the caller went away or broke the framing.
    Upload,
}

impl SendError {
    /// As the data path speaks of it.
    pub fn into_failure(self) -> Failure {
        match self.cause {
            Cause::Reset => Failure::upstream(Kind::Reset, self.request_sent, self.reason),
            Cause::Protocol => Failure::upstream(Kind::Protocol, self.request_sent, self.reason),
            Cause::Upload => Failure::downstream(Kind::Gone, self.reason),
        }
    }
}
