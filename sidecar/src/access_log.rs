//! The access log: a line of JSON for each request, written by a thread of its own.
//!
//! A worker never waits for the log: lines go through a bounded channel, and when whoever reads the log is too
//! slow, lines are dropped and the next one says how many.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;

/// Lines that may wait to be written: some megabytes.
const LINES: usize = 8192;

/// What goes into one write; a pipe takes no more.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// How long a line may wait for others.
const GATHERED: Duration = Duration::from_millis(10);

/// Where lines go; cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// What is told of a request.
#[derive(Debug, Default, Serialize)]
pub struct Entry {
    /// When it began, RFC 3339.
    pub time: String,
    /// `outbound` or `inbound`.
    pub direction: &'static str,
    /// The caller's address.
    pub peer: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub protocol: String,
    /// The request's method.
    pub method: String,
    /// Its host.
    pub authority: String,
    /// Its path and query, as the caller sent them.
    pub path: String,
    /// `shop/reviews:9080`.
    pub service: String,
    /// `shop/reviews#canary`.
    pub route: String,
    /// The endpoint of the last attempt.
    pub endpoint: Option<std::net::SocketAddr>,
    /// Attempts that were made.
    pub attempts: u32,
    /// None: the caller left before.
    pub status: Option<u16>,
    /// Of a gRPC answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// `-`, or Envoy's response flag.
    pub flag: &'static str,
    /// Why the answer is our own, or broke off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Content of the request that was sent on.
    pub bytes_received: u64,
    /// Content of the answer.
    pub bytes_sent: u64,
    /// All of it.
    pub duration_ms: f64,
    /// The last attempt until the answer's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    /// From `traceparent`, `b3` or `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Its `User-Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Lines before this one that could not be written.
    #[serde(skip_serializing_if = "is_zero")]
    pub lines_dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl AccessLog {
    /// To standard error.
    pub fn stderr() -> io::Result<Self> {
        Self::to(io::stderr())
    }

    /// Appended to a file.
    pub fn file(path: &Path) -> io::Result<Self> {
        Self::to(OpenOptions::new().create(true).append(true).open(path)?)
    }

    /// To whatever is written to.
    pub fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, receiver) = sync_channel(LINES);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write(&receiver, sink))?;
        Ok(Self { lines, dropped: Arc::default() })
    }

    /// Waits until what was written so far has left, at most `limit`. For the end of the process: blocks.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.lines.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(limit);
        }
    }

    /// Writes a line, or drops it.
    pub fn write(&self, mut entry: Entry) {
        entry.lines_dropped = self.dropped.swap(0, Ordering::Relaxed);
        let Ok(mut line) = serde_json::to_vec(&entry) else { return };
        line.push(b'\n');
        if self.lines.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(entry.lines_dropped + 1, Ordering::Relaxed);
        }
    }
}

/// Writes whatever waits at once, then lets lines gather: to wake this thread, and to write, for each line would cost
/// a request as much as all the rest of it.
fn write(messages: &Receiver<Message>, mut sink: impl Write) {
    let mut lines = Vec::new();
    while let Ok(first) = messages.recv() {
        let mut asked = Vec::new();
        for message in std::iter::once(first).chain(messages.try_iter()) {
            match message {
                Message::Line(line) => lines.extend_from_slice(&line),
                Message::Flush(done) => asked.push(done),
            }
            if lines.len() >= WRITTEN_AT_ONCE {
                put(&mut sink, &mut lines);
            }
        }
        put(&mut sink, &mut lines);
        for done in asked {
            let _ = done.send(());
        }
        std::thread::sleep(GATHERED);
    }
}

/// A log that cannot be written (a full disk) must not end the proxy.
fn put(sink: &mut impl Write, lines: &mut Vec<u8>) {
    let _ = sink.write_all(lines);
    lines.clear();
}

/// The trace that a request belongs to: W3C, then B3, then the request id.
pub fn trace_id(headers: &http::HeaderMap) -> Option<String> {
    let id = String::from_utf8_lossy(crate::hops::trace(headers)?);
    Some(id.chars().take(128).collect())
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn timestamp() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from days since 1970 (Hinnant's algorithm), with years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json() {
        let (sender, receiver) = std::sync::mpsc::channel();
        struct Sink(std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.send(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let log = AccessLog::to(Sink(sender)).unwrap();
        log.write(Entry { flag: "UO", status: Some(503), ..Entry::default() });
        let line = receiver.recv().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["flag"], "UO");
        assert_eq!(value["status"], 503);
        assert_eq!(line.last(), Some(&b'\n'));
    }

    #[test]
    fn times_and_traces() {
        let time = timestamp();
        assert!(time.starts_with("20") && time.len() == 24, "{time}");
        let mut headers = http::HeaderMap::new();
        assert_eq!(trace_id(&headers), None);
        headers.insert("x-request-id", "r".parse().unwrap());
        headers.insert("b3", "80f198ee-e457-1".parse().unwrap());
        assert_eq!(trace_id(&headers).unwrap(), "80f198ee");
        headers.insert("traceparent", "00-4bf92f35-00f067aa-01".parse().unwrap());
        assert_eq!(trace_id(&headers).unwrap(), "4bf92f35");
    }
}
