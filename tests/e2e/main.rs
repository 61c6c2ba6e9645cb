//! Tests that need a Kubernetes cluster: `make e2e`, one alone: `make e2e T=name KEEP=1`.

// The functions around the tests are tests too.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod cluster;
mod crds;
mod policies;
mod rollout;
mod zones;
