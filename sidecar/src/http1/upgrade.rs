//! After `101 Switching Protocols`: two raw connections that the caller copies between.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::net::TcpStream;

/// Both sides of an exchange that is HTTP no longer.
#[derive(Debug)]
pub struct Upgraded {
    /// Who asked for it.
    pub caller: Io,
    /// Who agreed.
    pub upstream: Io,
}

/// A connection and what was already read from it.
pub struct Io {
    /// The connection.
    pub stream: TcpStream,
    /// Bytes that came after the head: they go before what `stream` still gives.
    pub first: Bytes,
    /// The place in the pool that the connection takes, until this is dropped.
    pub permit: Option<Box<dyn Send + Sync>>,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Io({:?}, {} bytes first)", self.stream, self.first.len())
    }
}

/// In the extensions of a 101 answer: the upstream's connection, to be taken once.
#[derive(Debug, Clone)]
pub struct UpstreamIo(Arc<Mutex<Option<Io>>>);

impl UpstreamIo {
    /// For the extensions of an answer.
    pub fn new(io: Io) -> Self {
        Self(Arc::new(Mutex::new(Some(io))))
    }

    /// The connection; none when somebody has it already.
    pub fn take(&self) -> Option<Io> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
