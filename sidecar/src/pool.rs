//! Connections to the endpoints of one Service port: opened, kept, shared, limited.
//!
//! One pool a Service port and sidecar, used by all workers, so that its limits are exact.

pub mod admission;

/// See the module.
#[derive(Debug, Default)]
pub struct Pool {}
