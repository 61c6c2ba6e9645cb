//! The harness of the cross-crate tests: real programs, backends that misbehave on purpose, clients that
//! send exactly the bytes a test wants.
//!
//! A test reads top to bottom: a [`world::World`] with Services and backends, an operator, sidecars, calls,
//! and what must hold. Every program's output is in a file whose path is printed (cargo shows it when the
//! test fails), every load and every wait has an end, and no program outlives its test.

// A harness stops the test where it stands, reads the clock and starts tasks: it is no part of the product.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

pub mod envoy;
pub mod grpc;
pub mod ads;
pub mod world;
pub mod check;
pub mod installed;
pub mod workload;
pub mod databases;
pub mod cluster;
pub mod operator;
pub mod sidecar;
pub mod load;
pub mod endless;
pub mod backend;
pub mod rpc;
pub mod pod;
pub mod blocks;
pub mod reference;
pub mod program;
pub mod manifest;
pub mod until;
pub mod client;
