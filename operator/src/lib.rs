//! The operator: watches objects, compiles them to a mesh, serves it as Envoy xDS v3, and writes their status.
//!
//! The modules in reading order; each uses only those below it.

pub mod run;

pub mod admin;

pub mod webhook;

pub mod missed;

pub mod status;

pub mod publish;

pub mod watch;

pub mod xds;

pub mod certificates;

pub mod identity;

pub mod tls;

pub mod inject;

pub mod model;

pub mod leader;

pub mod yaml;

pub mod metrics;

pub mod cli;
