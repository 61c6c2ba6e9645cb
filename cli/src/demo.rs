//! `fairlead demo`: a small real system on loopback, and the mesh at work on it, step by step.
//!
//! ```text
//! frontend -> sidecar --.                 reviews-1, -2, -3 (-4)   127.77.0.11...
//!                        >-- rules -->    reviews-v2               127.77.0.21
//! mobile ---> sidecar --'                 sidecar -> orders        127.77.0.31
//!                 ^ xDS                      ^ xDS
//!                 operator <- a copy of examples/demo/ in a temporary folder
//! ```
//!
//! The callers and the services are in this process, the operator and the sidecars are the real programs
//! beside it. A step says what it promises, causes it and measures it; the demo's exit code is 0 only when
//! every promise was kept.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};

use self::screen::Screen;
use self::stage::Stage;

mod steps;
mod stage;
mod caller;
mod instance;
mod program;
mod screen;

/// No step takes longer, whatever goes wrong: the demo ends by itself.
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// Runs the demo; `keep` leaves it running until it is interrupted.
pub fn run(keep: bool) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (stage, kept) = tokio::select! {
            shown = show(keep) => shown?,
            word = interrupted() => {
                word?;
                return Ok(ExitCode::from(130));
            }
        };
        if keep {
            interrupted().await?;
        }
        stage.end(kept).await;
        Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Plays every step. True: every promise was kept.
async fn show(keep: bool) -> Result<(Stage, bool)> {
    let start = Instant::now();
    let mut screen = Screen::new();
    screen.title("Fairlead: a service mesh on this machine, for a minute")?;
    let mut stage =
        timeout(STEP_LIMIT, Stage::start()).await.context("the programs did not start in time")??;
    screen.text(&stage.describe())?;

    macro_rules! step {
        ($title:literal, $step:ident) => {
            screen.step($title)?;
            match timeout(STEP_LIMIT, steps::$step(&mut stage, &mut screen)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => screen.promise(false, &format!("{error:#}"))?,
                Err(_) => screen.promise(false, &format!("not done within {STEP_LIMIT:?}"))?,
            }
        };
    }
    step!("Calls are spread over three instances", spread);
    step!("A tenth goes to the next version, and testers always do", split);
    step!("A new instance gets calls as soon as it is listed", new_instance);
    step!("An instance that fails is left alone, and comes back", ejection);
    step!("A connection failure is hidden; what may have been processed is not sent twice", retries);
    step!("One call too many is told when to come back", limit);
    step!("A rule edited on disk is in force everywhere at once", edit);
    step!("A bad rule is refused by name and harms nobody", bad_rule);

    let kept = screen.summary(start.elapsed(), &stage.logs())?;
    screen.text(&if keep { stage.invitation() } else { "make demo KEEP=1 leaves it running.".to_owned() })?;
    Ok((stage, kept))
}

/// Resolves when somebody wants us to end; the programs end with us.
async fn interrupted() -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
