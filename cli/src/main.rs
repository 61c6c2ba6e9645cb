//! `fairlead`: what a person types.

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Command, Fairlead};

mod demo;
mod check;
mod inject;
mod cli;

fn main() -> anyhow::Result<ExitCode> {
    match Fairlead::parse().command {
        Command::Demo { keep } => demo::run(keep),
        Command::Inject(command) => inject::run(&command),
        Command::Check(command) => check::run(&command),
    }
}
