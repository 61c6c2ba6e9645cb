//! `fairlead-proxy`: reads the flags, starts the log, and runs.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use fairlead_proxy::cli::Flags;

fn main() -> ExitCode {
    let options = match Flags::parse().check() {
        Ok(options) => options,
        Err(refused) => {
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{refused}\n")).exit()
        }
    };
    let filter = options.log.parse::<tracing_subscriber::EnvFilter>().unwrap_or_default();
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    match fairlead_proxy::run::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
