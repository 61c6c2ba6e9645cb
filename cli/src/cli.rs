//! The words of the command line.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};

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
    /// Writes manifests with the sidecar in every pod: what the webhook does in a labelled namespace, without a
    /// cluster. Other objects, and pods that have it already, stay as they are.
    Inject(Inject),
}

/// What `fairlead inject` needs.
#[derive(Debug, Args)]
pub struct Inject {
    /// A file of YAML or JSON, or - for standard input; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The image of the sidecar [default: the one of this version]
    #[arg(long, env = "FAIRLEAD_PROXY_IMAGE", value_name = "IMAGE", default_value = PROXY_IMAGE, hide_default_value = true)]
    pub proxy_image: String,
    /// Where the sidecars find the operator
    #[arg(long, env = "FAIRLEAD_OPERATOR", value_name = "https://HOST:PORT", default_value = OPERATOR, value_parser = operator)]
    pub operator: String,
    /// The uid that the sidecar runs as, and no container of the pod may
    #[arg(long, env = "FAIRLEAD_PROXY_UID", value_name = "UID", default_value_t = fairlead_operator::inject::PROXY_UID)]
    pub proxy_uid: i64,
}

/// As `make image` names it.
const PROXY_IMAGE: &str = concat!("localhost/fairlead-proxy:", env!("CARGO_PKG_VERSION"));

/// Where the chart installs it.
const OPERATOR: &str = "https://fairlead-operator.fairlead-system.svc:15010";

fn operator(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("https://").unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(format!("write https://HOST:PORT, for instance {OPERATOR}")),
    }
}
