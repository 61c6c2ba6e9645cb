//! `fairlead`: what a person types.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Command, Fairlead};

mod demo;
mod check;
mod inject;
mod files;
mod cli;

fn main() -> ExitCode {
    let (name, done) = match Fairlead::parse().command {
        Command::Demo { keep } => ("demo", demo::run(keep)),
        Command::Inject(command) => ("inject", inject::run(&command)),
        Command::Check(command) => ("check", check::run(&command)),
    };
    done.unwrap_or_else(|error| {
        // Who closed standard error wants to hear nothing.
        let _ = writeln!(std::io::stderr(), "fairlead {name}: {error:#}");
        ExitCode::FAILURE
    })
}
