//! One endpoint: what the configuration says of it, and its live state.
//!
//! The state is found again by address when the configuration changes. What every request touches are
//! atomics; the rest is behind the endpoint's own mutex, which only errors, what follows them, and the
//! admin page take.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::OutlierSettings;
use super::outlier::{Health, Phase};

/// One endpoint of a `ClusterLoadAssignment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its weight, at least 1.
    pub weight: u32,
    /// The zone of its locality.
    pub zone: Arc<str>,
    /// False: `UNHEALTHY`, `DRAINING` or `TIMEOUT` from the server; used in panic only.
    pub healthy: bool,
}

/// An endpoint in one configuration of its cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// As received.
    pub settings: EndpointSettings,
    pub(super) state: Arc<EndpointState>,
}

/// What counts for an endpoint, whatever its configuration.
#[derive(Debug)]
pub(super) struct EndpointState {
    in_flight: AtomicU32,
    /// Round robin's credit; only read and written under the cluster's `turn`.
    pub(super) credit: AtomicI64,
    /// [`IN`], [`OUT`] or [`OUT_IN_SHADOW`]; mirrors the phase of `health`.
    out: AtomicU8,
    /// Whether a good answer changes anything in `health`.
    pub(super) troubled: AtomicBool,
    /// Mirrors the epoch of `health`.
    pub(super) epoch: AtomicU32,
    health: Mutex<Health>,
    /// The cluster's number of those that are out.
    all_out: Arc<AtomicUsize>,
}

/// Gets ordinary requests.
const IN: u8 = 0;
/// Ejected or on probation.
const OUT: u8 = 1;
/// Would be, but detection only looks on.
const OUT_IN_SHADOW: u8 = 2;

/// Where an endpoint stands, and why; for the admin page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointStatus {
    /// Gets requests.
    In {
        /// Errors since the last good answer.
        errors_in_a_row: u32,
    },
    /// The server says that it is not healthy: gets requests in panic only.
    Unhealthy,
    /// Gets no requests.
    Ejected {
        /// For so long.
        more: Duration,
        /// What it did.
        why: String,
        /// Only looked on: it does get requests.
        shadow: bool,
    },
    /// Gets one request at a time.
    Probing {
        /// Good answers needed before it is in.
        left: u32,
        /// Why it was ejected.
        why: String,
        /// Only looked on: it does get requests.
        shadow: bool,
    },
}

impl Endpoint {
    /// With the live state of `before`, the same endpoint in the last configuration, if there is one.
    pub(super) fn new(
        settings: &EndpointSettings,
        before: Option<&Arc<Endpoint>>,
        all_out: &Arc<AtomicUsize>,
    ) -> Arc<Self> {
        match before {
            Some(before) if before.settings == *settings => Arc::clone(before),
            Some(before) => Arc::new(Self { settings: settings.clone(), state: Arc::clone(&before.state) }),
            None => {
                let state = EndpointState {
                    in_flight: AtomicU32::new(0),
                    credit: AtomicI64::new(0),
                    out: AtomicU8::new(IN),
                    troubled: AtomicBool::new(false),
                    epoch: AtomicU32::new(0),
                    health: Mutex::default(),
                    all_out: Arc::clone(all_out),
                };
                Arc::new(Self { settings: settings.clone(), state: Arc::new(state) })
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.settings.address
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Where it stands. `outlier` are the settings of its cluster.
    pub fn status(&self, now: Instant, outlier: Option<&OutlierSettings>) -> EndpointStatus {
        let mut health = self.state.health();
        if let Some(outlier) = outlier {
            health.at(now, outlier);
        }
        let shadow = self.state.out.load(Ordering::Relaxed) == OUT_IN_SHADOW;
        match &health.phase {
            Phase::In if !self.settings.healthy => EndpointStatus::Unhealthy,
            Phase::In => EndpointStatus::In { errors_in_a_row: health.row.count },
            Phase::Ejected { until, why } => EndpointStatus::Ejected {
                more: until.saturating_duration_since(now),
                why: why.to_string(),
                shadow,
            },
            Phase::Probing { left, why, .. } => {
                EndpointStatus::Probing { left: *left, why: why.to_string(), shadow }
            }
        }
    }

    /// Whether it is ejected or on probation, and that is in force.
    pub(super) fn is_out(&self) -> bool {
        self.state.out.load(Ordering::Relaxed) == OUT
    }

    /// Whether it is ejected or on probation, or would be if detection were in force.
    pub(super) fn counts_as_out(&self) -> bool {
        self.state.out.load(Ordering::Relaxed) != IN
    }

    /// Takes the place of a probe, if it is time for one.
    pub(super) fn take_probe(&self, now: Instant, outlier: &OutlierSettings) -> bool {
        self.is_out() && self.state.health().at(now, outlier).take_probe()
    }

    /// Forgets what outlier detection knows of it.
    pub(super) fn forget(&self) {
        let mut health = self.state.health();
        health.forget();
        self.state.put_in();
        self.state.mirror(&health);
    }

    /// Begins a request.
    pub(super) fn begin(&self) {
        self.state.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends a request.
    pub(super) fn end(&self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EndpointState {
    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies what the hot path reads; to be called with the lock held, after a change.
    pub(super) fn mirror(&self, health: &Health) {
        self.troubled.store(!health.is_clean(), Ordering::Relaxed);
        self.epoch.store(health.epoch, Ordering::Relaxed);
    }

    /// Takes the endpoint out of rotation.
    pub(super) fn put_out(&self, shadow: bool) {
        let out = if shadow { OUT_IN_SHADOW } else { OUT };
        let before = self.out.swap(out, Ordering::Relaxed);
        if out == OUT && before != OUT {
            self.all_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes it in again.
    pub(super) fn put_in(&self) {
        if self.out.swap(IN, Ordering::Relaxed) == OUT {
            self.all_out.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for EndpointState {
    fn drop(&mut self) {
        self.put_in();
    }
}

impl fmt::Display for EndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shadow = |shadow: bool| if shadow { "would be " } else { "" };
        match self {
            Self::In { errors_in_a_row: 0 } => f.write_str("in"),
            Self::In { errors_in_a_row: count } => write!(f, "in, {count} errors in a row"),
            Self::Unhealthy => f.write_str("unhealthy, says the server"),
            Self::Ejected { more, why, shadow: only } => {
                write!(f, "{}ejected {} s more: {why}", shadow(*only), more.as_millis().div_ceil(1000))
            }
            Self::Probing { left, why, shadow: only } => {
                write!(f, "{}probing, {left} more must succeed; was ejected: {why}", shadow(*only))
            }
        }
    }
}
