//! The operator's program; everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use fairlead_operator::{cli, run};

fn main() -> ExitCode {
    run::main(cli::Cli::parse())
}
