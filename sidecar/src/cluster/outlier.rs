//! Which endpoints to stop calling, and for how long: ejection after consecutive errors.
//!
//! ```text
//!            consecutiveErrors in a row, and one more may go
//!      In ---------------------------------------------------> Ejected until
//!      ^ |                                                        |     ^
//!      | any good answer: counter back to zero                    |     | a probe fails:
//!      |                                                time over |     | the next longer time
//!      |                    all probes good                       v     |
//!      +------------------------------------------------------- Probing
//! ```
//!
//! No timer runs: an ejection ends when somebody asks after its time, and the endpoint then gets real
//! requests one at a time until `probes` of them went well. An endpoint on probation does not count as in.
//!
//! The n-th ejection in a row lasts n times `baseTime`, at most `maxTime`. As in Envoy, n shrinks by one for
//! every ten seconds (Envoy's default `interval`) that the endpoint has been in since, and does not grow
//! where the time cannot. Unlike Envoy's sweep, every step happens at the event that causes it, the counter
//! of errors stays at its limit while an ejection is not allowed (Envoy starts again from zero), and
//! requests that were under way when an endpoint was ejected or returned no longer count.
//!
//! What may go: at most `maxPercent` of all endpoints but at least one, never the last that is in, and
//! nobody while fewer are in than `minHealthyPercent`.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::Outcome;
use crate::failure::Kind;

/// Envoy's default `interval`: so long an endpoint must be in to be forgiven one ejection.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// OutlierDetection.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierSettings {
    /// Shadow: only counted and logged.
    pub shadow: bool,
    /// In a row, after which an endpoint is ejected.
    pub consecutive_errors: u32,
    /// What counts as an error.
    pub errors: Vec<OutlierError>,
    /// The first ejection; the n-th in a row lasts n times as long.
    pub base_time: Duration,
    /// The longest.
    pub max_time: Duration,
    /// Of all endpoints, at the most; at least one while another stays in.
    pub max_percent: u32,
    /// Real requests that a returning endpoint gets first.
    pub probes: u32,
}

/// What counts as an error of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutlierError {
    /// Any 5xx, or a gRPC status that maps to one.
    ServerError,
    /// 502, 503, 504, or a gRPC status that maps to one.
    GatewayError,
    /// No connection.
    ConnectFailure,
    /// No answer in time.
    Timeout,
    /// The connection ended too early.
    Reset,
}

/// What outlier detection did to one Service port, for the metrics.
#[derive(Debug, Default)]
pub struct EjectionCounters {
    /// Ejections in force, those after a failed probe too.
    pub ejected: AtomicU64,
    /// Ejections that shadow mode only counted.
    pub shadow: AtomicU64,
    /// Ejections that were due but not allowed: too many were out, or it was the last one.
    pub prevented: AtomicU64,
    /// Endpoints that came back after their probes.
    pub returned: AtomicU64,
    /// Probes that failed.
    pub failed_probes: AtomicU64,
}

/// What an outcome says about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It answered, and not with an error that counts.
    Good,
    /// An error that counts.
    Error(OutlierError, Cause),
    /// Nothing: our own doing, or a failure that does not count.
    Nothing,
}

/// One kind of error, as the person on call wants to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Status(u16),
    Grpc(u32),
    Connect,
    Refused,
    Timeout,
    Reset,
    Protocol,
}

/// Judges an outcome by what the settings count.
pub(super) fn judge(settings: &OutlierSettings, outcome: Outcome) -> Judgement {
    let counts = |error: OutlierError| settings.errors.contains(&error);
    match outcome {
        Outcome::Success => Judgement::Good,
        Outcome::Local => Judgement::Nothing,
        Outcome::Status(status) => by_status(&counts, status.as_u16(), Cause::Status(status.as_u16())),
        Outcome::Grpc(code) => by_status(&counts, grpc_to_http(code), Cause::Grpc(code)),
        Outcome::Failure(kind) => {
            let (error, cause) = match kind {
                Kind::Connect => (OutlierError::ConnectFailure, Cause::Connect),
                Kind::Refused => (OutlierError::ConnectFailure, Cause::Refused),
                Kind::Timeout => (OutlierError::Timeout, Cause::Timeout),
                Kind::Reset => (OutlierError::Reset, Cause::Reset),
                // The caller gets 502 for it, so it counts as one.
                Kind::Protocol => (OutlierError::GatewayError, Cause::Protocol),
                Kind::NoRoute
                | Kind::BadBackend
                | Kind::NoEndpoint
                | Kind::Overflow
                | Kind::RateLimited
                | Kind::BadRequest
                | Kind::HeadTooLarge
                | Kind::HeadTimeout
                | Kind::Gone => return Judgement::Nothing,
            };
            if counts(error) { Judgement::Error(error, cause) } else { Judgement::Nothing }
        }
    }
}

/// A 5xx that does not count is an answer like any other, and ends a row of errors, as in Envoy.
fn by_status(counts: &impl Fn(OutlierError) -> bool, status: u16, cause: Cause) -> Judgement {
    if matches!(status, 502..=504) && counts(OutlierError::GatewayError) {
        Judgement::Error(OutlierError::GatewayError, cause)
    } else if matches!(status, 500..=599) && counts(OutlierError::ServerError) {
        Judgement::Error(OutlierError::ServerError, cause)
    } else {
        Judgement::Good
    }
}

/// Envoy's `Grpc::Utility::grpcToHttpStatus`.
fn grpc_to_http(code: u32) -> u16 {
    match code {
        0 => 200,          // OK
        1 => 499,          // CANCELLED
        3 | 9 | 11 => 400, // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
        4 => 504,          // DEADLINE_EXCEEDED
        5 => 404,          // NOT_FOUND
        6 | 10 => 409,     // ALREADY_EXISTS, ABORTED
        7 => 403,          // PERMISSION_DENIED
        8 => 429,          // RESOURCE_EXHAUSTED
        12 => 501,         // UNIMPLEMENTED
        14 => 503,         // UNAVAILABLE
        16 => 401,         // UNAUTHENTICATED
        _ => 500,          // UNKNOWN, INTERNAL, DATA_LOSS, and what is no gRPC status
    }
}

/// What is known about one endpoint. Sans-io: every method takes the time.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) phase: Phase,
    /// Errors since the last good answer.
    pub(super) row: Row,
    /// Ejections in a row, as far as not forgiven.
    pub(super) ejections: u32,
    /// When it last came back.
    returned: Option<Instant>,
    /// Counts ejections and returns: an outcome of a request that was picked before the last of them says
    /// nothing about now.
    pub(super) epoch: u32,
}

/// Where an endpoint is in the picture above.
#[derive(Debug, Default, Clone)]
pub(super) enum Phase {
    #[default]
    In,
    Ejected {
        until: Instant,
        why: Why,
    },
    Probing {
        /// Good answers still needed.
        left: u32,
        /// Whether a request is on its way.
        under_way: bool,
        why: Why,
    },
}

/// Errors in a row, by cause.
#[derive(Debug, Default, Clone)]
pub(super) struct Row {
    pub(super) count: u32,
    causes: Vec<(OutlierError, Cause, u32)>,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone)]
pub(super) struct Why {
    row: Row,
    /// Whether the last of the row was a probe.
    probe: bool,
    /// The how many-th ejection in a row.
    nth: u32,
}

impl Health {
    /// Lets the time pass: an ejection whose time is over becomes probation.
    pub(super) fn at(&mut self, now: Instant, settings: &OutlierSettings) -> &mut Self {
        if let Phase::Ejected { until, why } = &self.phase
            && now >= *until
        {
            self.phase = Phase::Probing { left: settings.probes.max(1), under_way: false, why: why.clone() };
        }
        self
    }

    /// Takes the place of the one probe that may be under way.
    pub(super) fn take_probe(&mut self) -> bool {
        match &mut self.phase {
            Phase::Probing { under_way, .. } if !*under_way => {
                *under_way = true;
                true
            }
            _ => false,
        }
    }

    /// Gives the place back: the probe ended without an outcome that says anything.
    pub(super) fn release_probe(&mut self) {
        if let Phase::Probing { under_way, .. } = &mut self.phase {
            *under_way = false;
        }
    }

    /// A good answer; true when it brought the endpoint back in.
    pub(super) fn good(&mut self, now: Instant) -> bool {
        match &mut self.phase {
            Phase::In => self.row = Row::default(),
            Phase::Ejected { .. } => {}
            Phase::Probing { left, under_way, .. } => {
                *left = left.saturating_sub(1);
                *under_way = false;
                if *left == 0 {
                    self.phase = Phase::In;
                    self.row = Row::default();
                    self.returned = Some(now);
                    self.epoch = self.epoch.wrapping_add(1);
                    return true;
                }
            }
        }
        false
    }

    /// An error that counts; true when the endpoint is now due to be ejected.
    pub(super) fn error(&mut self, error: OutlierError, cause: Cause, settings: &OutlierSettings) -> bool {
        match self.phase {
            Phase::In => {
                self.row.add(error, cause);
                self.row.count >= settings.consecutive_errors
            }
            Phase::Ejected { .. } => false,
            Phase::Probing { .. } => {
                self.row = Row::default();
                self.row.add(error, cause);
                true
            }
        }
    }

    /// Ejects the endpoint.
    pub(super) fn eject(&mut self, now: Instant, settings: &OutlierSettings) {
        let base = settings.base_time.max(Duration::from_millis(1));
        let longest = settings.max_time.max(base);
        let probe = matches!(self.phase, Phase::Probing { .. });
        if let (Phase::In, Some(returned)) = (&self.phase, self.returned) {
            let quiet = now.saturating_duration_since(returned).as_secs() / FORGIVEN_AFTER.as_secs();
            self.ejections = self.ejections.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX));
        }
        if base.saturating_mul(self.ejections) < longest {
            self.ejections += 1;
        }
        let time = base.saturating_mul(self.ejections).min(longest);
        let row = std::mem::take(&mut self.row);
        self.phase = Phase::Ejected { until: now + time, why: Why { row, probe, nth: self.ejections } };
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Back to the beginning, but what is under way no longer counts.
    pub(super) fn forget(&mut self) {
        *self = Self { epoch: self.epoch.wrapping_add(1), ..Self::default() };
    }

    /// Whether a good answer changes nothing.
    pub(super) fn is_clean(&self) -> bool {
        matches!(self.phase, Phase::In) && self.row.count == 0
    }
}

impl Row {
    fn add(&mut self, error: OutlierError, cause: Cause) {
        self.count = self.count.saturating_add(1);
        match self.causes.iter_mut().find(|(_, known, _)| *known == cause) {
            Some((_, _, count)) => *count = count.saturating_add(1),
            None => self.causes.push((error, cause, 1)),
        }
    }
}

/// `5 consecutive GatewayError (503 x4, 502 x1)`, or `errors` where they are of several kinds.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = self.causes.iter().map(|(error, _, _)| error);
        match kinds.next() {
            Some(first) if kinds.all(|kind| kind == first) => {
                write!(f, "{} consecutive {first:?}", self.count)?;
            }
            _ => write!(f, "{} consecutive errors", self.count)?,
        }
        for (index, (_, cause, count)) in self.causes.iter().enumerate() {
            let opening = if index == 0 { " (" } else { ", " };
            write!(f, "{opening}{cause} x{count}")?;
        }
        if self.causes.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.probe {
            f.write_str("a probe failed: ")?;
        }
        write!(f, "{}", self.row)?;
        match self.nth {
            0 | 1 => Ok(()),
            2 => f.write_str(", 2nd time in a row"),
            3 => f.write_str(", 3rd time in a row"),
            nth => write!(f, ", {nth}th time in a row"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Grpc(code) => write!(f, "grpc-status {code}"),
            Self::Connect => f.write_str("connect"),
            Self::Refused => f.write_str("refused"),
            Self::Timeout => f.write_str("timeout"),
            Self::Reset => f.write_str("reset"),
            Self::Protocol => f.write_str("protocol"),
        }
    }
}

#[cfg(test)]
mod tests;
