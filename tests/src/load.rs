//! Callers that call side by side, until they are told to stop or their end has come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Answer, Call, Http1};
use crate::until::LIMIT;

/// No load lasts longer than this, whatever becomes of its test.
const END: Duration = Duration::from_secs(60);

/// What came of one call: its answer, or how the connection failed.
pub type Outcome = std::result::Result<Answer, String>;

/// Makes the n-th call of a load.
pub type Make = Arc<dyn Fn(usize) -> Call + Send + Sync>;

/// Makes `calls` calls with `callers` side by side, each on a kept connection; the outcomes in call order.
pub async fn burst(
    address: SocketAddr,
    calls: usize,
    callers: usize,
    make: impl Fn(usize) -> Call + Send + Sync + 'static,
) -> Vec<Outcome> {
    let (make, next) = (Arc::new(make), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..callers.min(calls) {
        let (make, next) = (Arc::clone(&make), Arc::clone(&next));
        tasks.spawn(async move {
            let (mut connection, mut outcomes) = (None, Vec::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return outcomes;
                }
                outcomes.push((number, one(address, &mut connection, &make(number)).await));
            }
        });
    }
    let all = tokio::time::timeout(END, tasks.join_all())
        .await
        .unwrap_or_else(|_| panic!("load not over in {END:?}"));
    let mut outcomes: Vec<_> = all.into_iter().flatten().collect();
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Sends a megabyte of every byte there is to an echo, and then the end: an error unless the same comes back.
pub async fn there_and_back(stream: TcpStream) -> Result<()> {
    let sent: Vec<u8> = (0..1 << 20).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let (mut read, mut write) = stream.into_split();
    let copy = sent.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&copy).await?;
        write.shutdown().await
    });
    let mut echoed = Vec::new();
    tokio::time::timeout(LIMIT, read.read_to_end(&mut echoed)).await.context("the end does not come")??;
    sending.await??;
    ensure!(echoed == sent, "{} bytes came back of the {} that were sent", echoed.len(), sent.len());
    Ok(())
}

/// A load that goes on beside the test.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<Outcome>>,
}

impl Load {
    /// `callers` callers, each on a kept connection, one call after the other with `pause` between.
    pub fn start(
        address: SocketAddr,
        callers: usize,
        pause: Duration,
        make: impl Fn(usize) -> Call + Send + Sync + 'static,
    ) -> Self {
        let make: Make = Arc::new(make);
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (mut tasks, start) = (JoinSet::new(), Instant::now());
        for _ in 0..callers {
            let (make, stop, made) = (Arc::clone(&make), Arc::clone(&stop), Arc::clone(&made));
            tasks.spawn(async move {
                let (mut connection, mut outcomes) = (None, Vec::new());
                while !stop.load(Ordering::Relaxed) && start.elapsed() < END {
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    outcomes.push(one(address, &mut connection, &make(number)).await);
                    tokio::time::sleep(pause).await;
                }
                outcomes
            });
        }
        Self { stop, made, tasks }
    }

    /// Calls begun so far.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    /// Lets every caller finish the call that it is in, and counts.
    pub async fn stop(self) -> Summary {
        self.stop.store(true, Ordering::Relaxed);
        Summary::of(self.tasks.join_all().await.into_iter().flatten())
    }
}

/// What came of many calls.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    /// All.
    pub calls: usize,
    /// By status; connections that failed are not here.
    pub statuses: BTreeMap<u16, usize>,
    /// 200s by backend.
    pub backends: BTreeMap<String, usize>,
    /// Each call that did not end with 200, in words.
    pub failed: Vec<String>,
}

impl Summary {
    /// Counts.
    pub fn of(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut summary = Self::default();
        for outcome in outcomes {
            summary.calls += 1;
            match outcome {
                Ok(answer) => {
                    *summary.statuses.entry(answer.status).or_default() += 1;
                    if answer.status == 200 {
                        *summary.backends.entry(answer.backend().to_owned()).or_default() += 1;
                    } else {
                        summary.failed.push(format!("{} {}", answer.status, answer.text()));
                    }
                }
                Err(error) => summary.failed.push(error),
            }
        }
        summary
    }

    /// Calls that ended with this status.
    pub fn status(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or(0)
    }
}

async fn one(address: SocketAddr, connection: &mut Option<Http1>, call: &Call) -> Outcome {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Http1::connect(address).await.map_err(|error| format!("{error:#}"))?,
    };
    let answer = open.call(call).await.map_err(|error| format!("{error:#}"))?;
    if answer.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
        *connection = Some(open);
    }
    Ok(answer)
}
