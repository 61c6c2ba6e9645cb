//! The words of the command line.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Says whether the mesh can be installed, or whether it is well, and what to do about what is not.
    ///
    /// One line a check: pass, skip, warn or fail. Exit code 0: nothing failed. 1: something did. 2: the API
    /// server could not be asked, a file could not be read, or the command makes no sense.
    Check(Check),
}

/// What `fairlead inject` needs.
#[derive(Debug, Args)]
pub struct Inject {
    /// Files of YAML or JSON, folders of them, or - for standard input; may be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE", num_args = 1.., required = true)]
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

/// What `fairlead check` needs.
#[derive(Debug, Args)]
pub struct Check {
    /// Judge these files of YAML or JSON, folders of them, or - for standard input, and ask no cluster; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", num_args = 1.., conflicts_with_all = ["pre", "only", "context"])]
    pub files: Vec<PathBuf>,
    /// Check whether it can be installed [default: when there is no Deployment fairlead-operator]
    #[arg(long)]
    pub pre: bool,
    /// Where the operator is, or will be
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "fairlead-system")]
    pub namespace: String,
    /// The name of the Helm release
    #[arg(long, value_name = "NAME", default_value = "fairlead")]
    pub release: String,
    /// Look at this meshed namespace and no other; may be repeated
    #[arg(long, value_name = "NAMESPACE")]
    pub only: Vec<String>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// How long each question may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// text for people, json for programs: an array of {id, result, subject, message, action}
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// For whom it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// People.
    Text,
    /// Programs.
    Json,
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
