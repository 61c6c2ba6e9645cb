//! `fairlead-proxy`: reads the flags, starts the log, and runs.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use fairlead_proxy::cli::{Flags, Task, redirect};
use fairlead_proxy::redirect::Inbound;

/// Where the kubelet looks for the last words of a container.
const TERMINATION_MESSAGE: &str = "/dev/termination-log";

fn main() -> ExitCode {
    let done = match Task::try_parse_from(std::env::args_os()) {
        Ok(Task::Run(flags)) => run(*flags),
        Ok(Task::Redirect(options)) => install(&options),
        Ok(Task::Drain(drain)) => fairlead_proxy::prestop::drain(drain.admin_listen).map_err(Into::into),
        Err(error) => error.exit(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log("info");
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let options = match flags.check() {
        Ok(options) => options,
        Err(refused) => {
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{refused}\n")).exit()
        }
    };
    log(&options.log);
    fairlead_proxy::run::run(&options)
}

/// Redirects, and says so in the words that others read.
fn install(options: &redirect::Options) -> anyhow::Result<()> {
    let text = if options.print {
        fairlead_proxy::redirect::script(options, Inbound::Listening)
    } else {
        log("info");
        format!("redirecting inbound {}\n", fairlead_proxy::redirect::install(options)?.word())
    };
    if !options.print {
        // In a container this stays to be read in the pod's status, where `fairlead check` finds it. Elsewhere
        // there is no such file.
        if let Ok(mut message) = std::fs::OpenOptions::new().write(true).open(TERMINATION_MESSAGE) {
            let _ = message.write_all(text.as_bytes());
        }
    }
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Starts the log on stderr, once.
fn log(filter: &str) {
    let filter = filter.parse::<tracing_subscriber::EnvFilter>().unwrap_or_default();
    let ansi = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi);
    let _ = log.try_init(); // Fails when it has been started.
}
