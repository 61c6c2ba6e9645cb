//! Tests that need a Kubernetes cluster: `make e2e`, one alone: `make e2e T=name KEEP=1`.

// The functions around the tests are tests too.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

// Each line is a run of its own in `make e2e`: what stands in `before` and `alone`, and between them, side by
// side, all that uses the installed mesh.
mod before;

mod chart;
mod check;
mod cluster;
mod databases;
mod escapes;
mod injection;
mod pods;
mod probes;

mod alone;

mod soak;
