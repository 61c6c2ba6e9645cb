//! The sidecar: everything between an application and the services it calls.
//!
//! Read from the top: each module uses only what stands below it.

pub mod redirect;
pub mod prestop;
pub mod run;
pub mod admin;
pub mod accept;
pub mod capture;
pub mod on_demand;
pub mod outbound;
pub mod inbound;
pub mod passthrough;
pub mod opaque;
pub mod exchange;
pub mod proxy;
pub mod xds;
pub mod config;
pub mod route;
pub mod rate_limit;
pub mod matcher;
pub mod retry;
pub mod cluster;
pub mod pool;
pub mod http1;
pub mod body;
pub mod failure;
pub mod drain;
pub mod buffers;
pub mod heartbeat;
pub mod files;
pub mod spawn;
pub mod access_log;
pub mod hops;
pub mod said;
pub mod metrics;
pub mod decimal;
pub mod ports;
pub mod cli;
