//! The words of the command line.

use clap::builder::FalseyValueParser;
use clap::{Parser, Subcommand};

/// Fairlead, a service mesh for Kubernetes.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Fairlead {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the mesh at work on this machine, without a cluster: a small system, an operator, sidecars.
    Demo {
        /// Leave everything running at the end, and say where.
        #[arg(long, env = "KEEP", value_parser = FalseyValueParser::new())]
        keep: bool,
    },
}
