//! One request from its first byte to the last of its answer, as metrics and the access log tell it.
//!
//! An [`Exchange`] is told what happens and reports once: when the answer has ended ([`watched::Watched`]), or
//! when it is dropped before, which means that the caller has left.

mod answer;
pub mod watched;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::access_log::{self, Entry};
use crate::failure::Failure;
use crate::metrics::{Ended, Handles};
use crate::proxy::{Caller, Proxy, now};

pub use answer::{grpc_answer, own_answer};

/// Of a gRPC answer, in its trailers, or in its header block where it has no message.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    proxy: Arc<Proxy>,
    handles: Arc<Handles>,
    started: Instant,
    seen: Instant,
    status: Option<StatusCode>,
    flag: &'static str,
    upstream: Option<(Duration, Duration)>,
    entry: Option<Box<Entry>>,
    reported: bool,
}

impl Exchange {
    /// A request has come. `handles` are those of no rule, until [`Self::follows`].
    pub fn begin(proxy: &Arc<Proxy>, handles: Arc<Handles>, caller: Caller, request: &Parts) -> Self {
        let entry = proxy.access_log.is_some().then(|| Box::new(entry(&handles, caller, request)));
        let now = now();
        Self {
            proxy: Arc::clone(proxy),
            handles,
            started: now,
            seen: now,
            status: None,
            flag: "-",
            upstream: None,
            entry,
            reported: false,
        }
    }

    /// The worker's view.
    pub fn proxy(&self) -> &Arc<Proxy> {
        &self.proxy
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When the clock was last read for it: when it began, or when its last attempt ended. Reading the clock costs as
    /// much as routing, so what follows without waiting takes this.
    pub fn seen(&self) -> Instant {
        self.seen
    }

    /// The rule that carries it is known.
    pub fn follows(&mut self, handles: Arc<Handles>) {
        self.handles = handles;
    }

    /// An attempt begins.
    pub fn attempt(&mut self, endpoint: SocketAddr) {
        if let Some(entry) = &mut self.entry {
            entry.attempts += 1;
            entry.endpoint = Some(endpoint);
        }
    }

    /// An attempt, begun `since`, has its head, or failed.
    pub fn attempted(&mut self, since: Instant) {
        self.seen = now();
        self.upstream = Some((self.seen - since, self.seen - self.started));
    }

    /// Another attempt follows.
    pub fn retried(&self) {
        self.proxy.metrics.retried(&self.handles);
    }

    /// Another attempt was wanted, and is not made.
    pub fn retry_skipped(&self, reason: &'static str) {
        self.proxy.metrics.retry_skipped(&self.handles, reason);
    }

    /// The answer is our own.
    pub fn failed(&mut self, failure: &Failure) {
        self.flag = failure.flag();
        if let Some(entry) = &mut self.entry {
            entry.reason = Some(failure.reason.clone());
        }
    }

    /// The answer's head goes to the caller.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        if let Some(entry) = &mut self.entry {
            entry.grpc_status = grpc_status(headers);
        }
    }

    /// The trailers of the answer have come.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(entry) = &mut self.entry {
            entry.grpc_status = grpc_status(trailers).or(entry.grpc_status);
        }
    }

    /// So much content of the request was sent on.
    pub fn received(&mut self, bytes: u64) {
        if let Some(entry) = &mut self.entry {
            entry.bytes_received = bytes;
        }
    }

    /// The answer broke off.
    pub fn broke_off(&mut self, flag: &'static str, reason: &str) {
        self.flag = flag;
        if let Some(entry) = &mut self.entry {
            entry.reason = Some(reason.to_owned());
        }
    }

    /// The end: the answer had so many bytes.
    pub fn end(mut self, now: Instant, bytes: u64) {
        self.report(now, bytes);
    }

    fn report(&mut self, now: Instant, bytes: u64) {
        self.reported = true;
        let total = now - self.started;
        let ended = Ended { status: self.status, flag: self.flag, total, upstream: self.upstream };
        self.proxy.metrics.request_ended(&self.handles, &ended);
        let Some((mut entry, log)) = self.entry.take().zip(self.proxy.access_log.as_ref()) else { return };
        entry.service = self.handles.service().to_string();
        entry.route = self.handles.rule().to_string();
        entry.status = self.status.map(|status| status.as_u16());
        entry.flag = self.flag;
        entry.bytes_sent = bytes;
        entry.duration_ms = milliseconds(total);
        entry.upstream_ms = self.upstream.map(|(upstream, _)| milliseconds(upstream));
        log.write(*entry);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.reported {
            if self.flag == "-" {
                self.flag = "DC";
            }
            self.report(now(), 0);
        }
    }
}

/// `grpc-status` of a header block.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

fn entry(handles: &Handles, caller: Caller, request: &Parts) -> Entry {
    let header = |name| request.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    Entry {
        time: access_log::timestamp(),
        direction: handles.direction().word(),
        peer: caller.peer.to_string(),
        protocol: format!("{:?}", request.version),
        method: request.method.to_string(),
        authority: authority.or_else(|| header(http::header::HOST)).unwrap_or_default().to_owned(),
        path: request.uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
        trace_id: access_log::trace_id(&request.headers),
        user_agent: header(http::header::USER_AGENT).map(str::to_owned),
        ..Entry::default()
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
