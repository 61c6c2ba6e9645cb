//! A caller: calls a URL at a rate, on kept connections, and says what came of it as one line of JSON.
//!
//! Ends when standard input does (the test lets go of `kubectl exec -i`), when `--count` calls are made, or
//! after half an hour. Every hundred calls a line `made N`, for the test to wait for.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use fairlead_tests::client::{Answer, Call, Http1};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// No load lasts longer, whatever becomes of its test.
const END: Duration = Duration::from_secs(1800);

/// A call that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the load is.
pub struct Flags {
    authority: String,
    address: String,
    call: Call,
    count: usize,
    callers: usize,
    /// Calls a second, by all callers together.
    rate: f64,
}

impl Flags {
    /// `http://HOST:PORT/PATH [--rate R] [--count N] [--callers N] [--method M] [--header NAME:VALUE]... [--body TEXT]`
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let url: http::Uri = arguments.next().context("load needs a URL")?.parse()?;
        let authority = url.authority().context("the URL has no host")?.to_string();
        let address = format!("{}:{}", url.host().unwrap_or_default(), url.port_u16().unwrap_or(80));
        let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut flags = Self {
            call: Call::get(path).authority(&authority),
            authority,
            address,
            count: usize::MAX,
            callers: 4,
            rate: 100.0,
        };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--rate" => flags.rate = value.parse()?,
                "--count" => flags.count = value.parse()?,
                "--callers" => flags.callers = value.parse()?,
                "--method" => flags.call.method = value,
                "--body" => flags.call.body = value.into(),
                "--header" => {
                    let (name, value) = value.split_once(':').context("a header is NAME:VALUE")?;
                    flags.call = flags.call.header(name, value.trim());
                }
                other => bail!("{other} is no flag of load"),
            }
        }
        Ok(flags)
    }
}

/// One call, which fails unless it is answered with 200: for a probe.
pub async fn check(url: &str) -> anyhow::Result<()> {
    let flags = Flags::parse([url.to_owned()].into_iter())?;
    let answer = one(&flags, &mut None).await.map_err(anyhow::Error::msg)?;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(())
}

/// Calls until the end, and says what came of it.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let flags = Arc::new(flags);
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..flags.callers {
        callers.spawn(caller(Arc::clone(&flags), Arc::clone(&stop), Arc::clone(&made)));
    }
    let input_ends = async {
        if flags.count == usize::MAX {
            let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let all = callers.join_all();
    tokio::pin!(all);
    let tallies = tokio::select! {
        tallies = &mut all => tallies,
        () = input_ends => {
            stop.store(true, Ordering::Relaxed);
            all.await
        }
    };
    let mut tally = Tally::default();
    tallies.into_iter().for_each(|one| tally.add(one));
    say(&tally.summary().to_string());
    Ok(())
}

async fn caller(flags: Arc<Flags>, stop: Arc<AtomicBool>, made: Arc<AtomicUsize>) -> Tally {
    let start = Instant::now();
    let callers = u32::try_from(flags.callers).unwrap_or(1);
    let mut clock = interval(Duration::from_secs_f64(f64::from(callers) / flags.rate));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut connection, mut tally) = (None, Tally::default());
    while !stop.load(Ordering::Relaxed) && start.elapsed() < END {
        clock.tick().await;
        let number = made.fetch_add(1, Ordering::Relaxed);
        if number >= flags.count {
            break;
        }
        let answered = timeout(PATIENCE, one(&flags, &mut connection)).await;
        let outcome = answered.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        if outcome.is_err() {
            connection = None;
        }
        tally.count(
            outcome.map_err(|error| format!("{error} (after {:.1} s)", start.elapsed().as_secs_f64())),
        );
        if (number + 1).is_multiple_of(100) {
            say(&format!("made {}", number + 1));
        }
    }
    tally
}

async fn one(flags: &Flags, connection: &mut Option<Http1>) -> Result<Answer, String> {
    let called = async {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Http1::connect(super::serve::resolve(&flags.address).await?).await?,
        };
        let answer = open.call(&flags.call).await?;
        if answer.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
            *connection = Some(open);
        }
        anyhow::Ok(answer)
    };
    called.await.map_err(|error| format!("{}: {error:#}", flags.authority))
}

/// So many bodies, and failures, are told in words.
const WORDS: usize = 20;

/// Calls by status and by backend, the first answers' texts, and why calls failed: as much for a million calls
/// as for ten.
#[derive(Default)]
struct Tally {
    calls: usize,
    statuses: BTreeMap<u16, usize>,
    backends: BTreeMap<String, usize>,
    bodies: BTreeMap<String, usize>,
    last_headers: BTreeMap<String, String>,
    failed: usize,
    failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, outcome: Result<Answer, String>) {
        self.calls += 1;
        match outcome {
            Ok(answer) => {
                *self.statuses.entry(answer.status).or_default() += 1;
                *self.backends.entry(answer.backend().to_owned()).or_default() += 1;
                let text = answer.text();
                if answer.status != 200 {
                    self.fail(format!("{} {text}", answer.status));
                }
                if self.bodies.len() < WORDS || self.bodies.contains_key(&text) {
                    *self.bodies.entry(text).or_default() += 1;
                }
                self.last_headers = answer.headers.into_iter().collect();
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, failure: String) {
        self.failed += 1;
        if self.failures.len() < WORDS {
            self.failures.push(failure);
        }
    }

    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        other
            .statuses
            .into_iter()
            .for_each(|(status, calls)| *self.statuses.entry(status).or_default() += calls);
        other.backends.into_iter().for_each(|(name, calls)| *self.backends.entry(name).or_default() += calls);
        other.bodies.into_iter().for_each(|(text, calls)| *self.bodies.entry(text).or_default() += calls);
        if other.calls > 0 {
            self.last_headers = other.last_headers;
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(WORDS);
    }

    fn summary(self) -> serde_json::Value {
        json!({"calls": self.calls, "statuses": self.statuses, "backends": self.backends,
            "bodies": self.bodies, "last_headers": self.last_headers, "failed": self.failed,
            "failures": self.failures})
    }
}

/// A line for who started this.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Who does not listen any more does not want it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
