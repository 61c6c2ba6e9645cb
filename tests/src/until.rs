//! Waiting for a condition, with an end and with the time it took.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client;

/// How long a test waits for what should take milliseconds.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(5);

/// Asks again and again until there is an answer, at most [`LIMIT`] long; panics naming `what` otherwise.
/// Returns the answer and the time it took.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> (T, Duration)
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return (answer, start.elapsed());
        }
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(EVERY).await;
    }
}

/// The same for a plain condition; returns the time it took.
pub async fn holds<F>(what: &str, mut ask: impl FnMut() -> F) -> Duration
where
    F: Future<Output = bool>,
{
    eventually(what, || {
        let asked = ask();
        async move { asked.await.then_some(()) }
    })
    .await
    .1
}

/// The same outside of a runtime.
pub fn blocking(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(EVERY);
    }
}

/// Until a page answers 200.
pub async fn answers(what: &str, address: SocketAddr, path: &str) -> Duration {
    holds(what, || async { client::get(address, path).await.is_ok_and(|answer| answer.status == 200) }).await
}
