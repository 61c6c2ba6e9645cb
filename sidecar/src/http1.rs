//! HTTP/1.1: our own codec and the two drivers that put it on sockets.
//!
//! The codec is sans-io: [`head`] (bytes to `http` heads), [`body`] (bytes to frames), [`encode`] (the way
//! back). What RFC 9112 leaves ambiguous is refused, for two readers that disagree about where a message ends
//! are how requests are smuggled. The drivers are [`server::Connection`], one caller, and
//! [`client::Connection`], one upstream; there is no task and no channel between them: whoever polls the
//! answer's body also carries on the upload.
//!
//! ```text
//! server::Connection::next_request -> Request<Body> -> client::Connection::send -> Response<Body>
//!        ^                                                                               |
//!        +--------------------------- respond <------------------------------------------+
//! ```

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod server;
pub mod client;
pub mod informational;
pub mod upgrade;
mod caller;
pub mod encode;
pub mod body;
pub mod head;

use std::time::Duration;

use crate::buffers;

pub use informational::Informational;
pub use upgrade::{Io, Upgraded};

/// Gives the maps of a request's head, which nobody needs any more, to the next one.
pub fn recycle(parts: http::request::Parts) {
    buffers::give_maps(parts.headers, parts.extensions);
}

/// What a connection will take before it refuses. One value for the whole proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest head, start line and all fields: 431 for a request.
    pub head_bytes: usize,
    /// The longest request target: 414.
    pub target_bytes: usize,
    /// A request whose head has begun must be complete by then: 408.
    pub head_timeout: Duration,
    /// How much of a request's unread body is read away to keep the connection after an early answer.
    pub drain_bytes: u64,
    /// How long a connection that we end waits for the caller to have read our last words.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            target_bytes: 32 * 1024,
            head_timeout: Duration::from_secs(10),
            drain_bytes: 256 * 1024,
            linger: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests;
