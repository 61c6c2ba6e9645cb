//! Tests of the real programs on loopback: no root, no cluster. `make test`, one alone: `make test T=name`.

// The functions around the tests are tests too.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod check;
mod contract;
mod demo;
mod docs;
mod harness;
mod memory;
mod operator_restart;
mod proxy_balance;
mod proxy_crowd;
mod proxy_drain;
mod proxy_grpc;
mod proxy_hops;
mod proxy_inbound_down;
mod proxy_limits;
mod proxy_methods;
mod proxy_overload;
mod proxy_panic;
mod proxy_pool;
mod proxy_product;
mod proxy_retries;
mod proxy_rewrite;
mod proxy_slow;
mod pushed;
mod tidy;
mod xds_envoy;
mod xds_foreign;
mod xds_grpc;
