//! How the replicas of the operator tell the one that writes statuses what their clients said: a gRPC service
//! of our own on the xDS port, `fairlead.internal.v1.Reports`.
//!
//! ```text
//! follower ── who holds the Lease, and where ── connect ── everything, then what changes ──> holder's desk
//!     ^                                                                                        │
//!     └── again, after a wait with jitter <── not the holder (any more), broken, refused <─────┘
//! ```
//!
//! What changes while a batch is under way is told by the next one, once: a slow holder costs a follower one
//! batch in memory. A batch counts as a whole.

pub mod client;

pub mod server;

mod wire;

/// Clients and their states in one message; with node ids and reasons of usual length some 100 KB, at the
/// very most 3 MB.
const ENTRIES: usize = 1_000;
/// A message has so many bytes at most.
const MESSAGE_BYTES: usize = 4 << 20;
/// The one method.
const PATH: &str = "/fairlead.internal.v1.Reports/Report";

#[cfg(test)]
mod tests;
