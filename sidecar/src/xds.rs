//! The configuration as it arrives: an xDS client of the operator, or of any other xDS server.
//!
//! ```text
//! client        the stream: connect, send, receive, back off      (async, the only part that waits)
//!   dial           a connection: name, certificates, token
//!   subscription   what is asked for, acknowledged, refused        (sans-io)
//!     decode          Envoy's protobuf -> the words of this crate  (pure)
//!   config::assemble  what is complete becomes the configuration   (pure)
//! ```
//!
//! The client speaks the incremental (delta) variant of the aggregated discovery service, on its own
//! thread. The workers read what it publishes and never wait for it.

pub mod client;
pub mod dial;
pub mod subscription;
pub mod decode;
#[cfg(test)]
mod testing;
