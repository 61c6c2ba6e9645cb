//! An endpoint that an attempt is sent to, from the pick to the outcome.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use http::StatusCode;

use super::outlier::{Health, Judgement, Phase, judge};
use super::{Cluster, Endpoint, OutlierSettings};
use crate::failure::{At, Failure, Kind};

/// How an attempt at an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should; for bytes, the connection was opened.
    Success,
    /// It answered with this status; any, good or bad.
    Status(StatusCode),
    /// It answered with this gRPC status; any, good or bad.
    Grpc(u32),
    /// There was no answer, or not all of it, and the endpoint may be to blame. [`Outcome::of`] tells; a time
    /// that was over while the request still waited for a connection is our own doing.
    Failure(Kind),
    /// It ended by our own doing, or the caller's: it says nothing about the endpoint.
    Local,
}

impl Outcome {
    /// What a failure says about the endpoint: only what arose there counts.
    pub fn of(failure: &Failure) -> Self {
        match failure.at {
            At::Upstream => Self::Failure(failure.kind),
            At::Downstream | At::Local => Self::Local,
        }
    }
}

/// An endpoint that counts this attempt as in flight until it is dropped.
///
/// Hold it until the last byte of the answer. [`Picked::record`] once, as soon as the outcome is known;
/// dropped without it (the caller went away, the pool was full), the attempt says nothing about the
/// endpoint.
#[derive(Debug)]
pub struct Picked {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    /// Whether this is the one request that decides about the endpoint's return.
    probe: bool,
    epoch: u32,
}

impl Picked {
    pub(super) fn new(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>, probe: bool) -> Self {
        endpoint.begin();
        let epoch = endpoint.state.epoch.load(Ordering::Relaxed);
        Self { cluster, endpoint, probe, epoch }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The cluster that it was picked from.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Whether this request decides about the return of an ejected endpoint.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Tells outlier detection how the attempt ended. Each call counts; a cluster without outlier detection
    /// ignores them all.
    pub fn record(&mut self, now: Instant, outcome: Outcome) {
        let Some(outlier) = &self.cluster.settings.outlier else { return };
        match judge(outlier, outcome) {
            Judgement::Nothing => {}
            Judgement::Good if !self.endpoint.state.troubled.load(Ordering::Relaxed) => {}
            judgement => {
                self.weigh(now, outlier, judgement);
                self.probe = false;
            }
        }
    }

    /// The rare part: an error, or a good answer after one.
    fn weigh(&self, now: Instant, outlier: &OutlierSettings, judgement: Judgement) {
        let state = &self.endpoint.state;
        let mut health = state.health();
        let health = health.at(now, outlier);
        // An endpoint that is out gets requests besides its probes when all are used; they decide nothing.
        let decides = self.probe || outlier.shadow || !self.cluster.is_out(&self.endpoint);
        if health.epoch != self.epoch || !decides {
            return;
        }
        let counters = &self.cluster.live.ejections;
        match judgement {
            Judgement::Good => {
                if health.good(now) {
                    state.put_in();
                    if !outlier.shadow {
                        counters.returned.fetch_add(1, Ordering::Relaxed);
                        let (cluster, endpoint) = (&self.cluster.settings.name, self.endpoint.address());
                        tracing::info!(%cluster, %endpoint, "endpoint is back in");
                    }
                }
            }
            Judgement::Error(error, cause) => {
                let probing = self.endpoint.counts_as_out();
                if health.error(error, cause, outlier) {
                    if probing || self.cluster.may_eject(&self.endpoint, outlier) {
                        state.put_out(outlier.shadow);
                        health.eject(now, outlier);
                        self.report(probing, outlier, health);
                    } else if health.row.count == outlier.consecutive_errors {
                        counters.prevented.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Judgement::Nothing => {}
        }
        state.mirror(health);
    }

    fn report(&self, probing: bool, outlier: &OutlierSettings, health: &Health) {
        let counters = &self.cluster.live.ejections;
        if outlier.shadow {
            counters.shadow.fetch_add(1, Ordering::Relaxed);
        } else {
            counters.ejected.fetch_add(1, Ordering::Relaxed);
            if probing {
                counters.failed_probes.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Phase::Ejected { why, .. } = &health.phase {
            let (cluster, endpoint) = (&self.cluster.settings.name, self.endpoint.address());
            tracing::warn!(%cluster, %endpoint, %why, shadow = outlier.shadow, "endpoint ejected");
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.end();
        if self.probe {
            let mut health = self.endpoint.state.health();
            if health.epoch == self.epoch {
                health.release_probe();
            }
        }
    }
}

impl Cluster {
    /// Decides whether one more endpoint may go, and takes it out if so: at most `maxPercent` of all, but at
    /// least one; never the last that is in; nobody while all are used because too few are in.
    fn may_eject(&self, endpoint: &Endpoint, outlier: &OutlierSettings) -> bool {
        let _one_at_a_time = self.live.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let total = self.endpoints.len();
        let out = self.endpoints.iter().filter(|endpoint| endpoint.counts_as_out()).count();
        let in_now = self.healthy.iter().filter(|endpoint| !endpoint.counts_as_out()).count();
        let others = in_now - usize::from(endpoint.settings.healthy).min(in_now);
        let most = (total * outlier.max_percent as usize / 100).max(1);
        if out >= most || others == 0 || self.too_few(in_now) {
            return false;
        }
        endpoint.state.put_out(outlier.shadow);
        true
    }
}
