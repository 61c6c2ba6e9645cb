//! xDS: the mesh in the words of Envoy, and the server that pushes it.
//!
//! ```text
//! sockets: server ── hub (current snapshot) ── registry (who wants what, who acked what)
//!             │
//!          session (one stream, sans-io) ── wire (response messages)
//!             │
//!          view (what this client may have)
//!             │
//!          snapshot (resources by name, encoded once) ── encode
//! ```

pub mod server;

pub mod hub;

pub mod registry;

pub mod session;
pub mod view;

pub mod wire;

pub mod snapshot;
mod name;
mod encode;
mod resource;
