//! Whether the proxy is ready, and if not, what is missing.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::capture::Capture;
use crate::config::Known;
use crate::drain::{Drain, Phase};
use crate::ports::INBOUND_PORT;
use crate::xds::client::{Handle, State};

/// So many different texts go into the log: whoever asks in many ways does not fill it.
const TOLD: usize = 16;

/// What decides.
#[derive(Debug)]
pub(super) struct Readiness {
    /// What was asked for on the command line, in words, and the name of its configuration.
    pub wanted: Vec<(String, Arc<str>)>,
    pub xds: Handle,
    pub drain: Drain,
    pub pod: Option<Facts>,
    /// Once ready, losing the operator does not change it.
    was_ready: AtomicBool,
    /// What was missing and is in the log.
    told: Mutex<BTreeSet<String>>,
}

/// Of a pod whose traffic is captured.
#[derive(Debug)]
pub(super) struct Facts {
    pub addresses: Vec<IpAddr>,
    pub capture: Arc<Capture>,
    /// What the operator is asked at the start.
    pub first: Vec<Arc<str>>,
}

/// How the question was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// Redirected to the inbound listener, as everything from outside should be.
    ThroughInbound,
    /// Dialled here by this address.
    Directly(SocketAddr),
}

impl Readiness {
    pub fn new(wanted: Vec<(String, Arc<str>)>, xds: Handle, drain: Drain, pod: Option<Facts>) -> Self {
        Self { wanted, xds, drain, pod, was_ready: AtomicBool::new(false), told: Mutex::default() }
    }

    /// Whether everything that is needed is there; else what is missing, a line each.
    pub fn ready(&self, came: Came) -> Result<(), String> {
        if self.drain.phase() >= Phase::Draining {
            return Err("draining\n".into());
        }
        let mut missing = Vec::new();
        if let Some(pod) = &self.pod {
            missing.extend(pod.not_captured(came));
        }
        if !self.was_ready.load(Ordering::Relaxed) {
            let state = self.xds.state();
            let lacking = match &self.pod {
                Some(pod) => pod.capture.missing(&state, &pod.first),
                None => self.unconfigured(&state),
            };
            self.was_ready.store(lacking.is_empty(), Ordering::Relaxed);
            missing.extend(lacking);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.concat();
        if self.is_news(&missing) {
            tracing::info!(missing = missing.trim_end(), "not ready");
        }
        Err(missing)
    }

    /// The kubelet keeps the status of an answer and drops its text, so the log has it, once.
    pub fn is_news(&self, missing: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < TOLD && told.insert(missing.to_owned())
    }

    /// What is on the command line and has no configuration in force.
    fn unconfigured(&self, state: &State) -> Vec<String> {
        let missing = self.wanted.iter().filter_map(|(words, name)| {
            let why = match state.listeners.get(name) {
                Some(Known::InForce) => return None,
                // An endpoint that no Service lists has no limits, and that is in force.
                Some(Known::Absent) if name.starts_with("inbound/") => return None,
                Some(Known::Absent) => "the operator knows no such Service port".to_owned(),
                Some(Known::Awaited(what)) => format!("awaited: {what}"),
                None => "awaited".to_owned(),
            };
            Some(format!("{words}: {why}\n"))
        });
        let mut missing: Vec<String> = missing.collect();
        if !missing.is_empty() && !state.connected {
            let stream = match &state.last_failure {
                Some(why) => format!("no stream to the operator: {why}\n"),
                None => "no stream to the operator yet\n".to_owned(),
            };
            missing.insert(0, stream);
        }
        missing
    }
}

impl Facts {
    /// From outside, the way of the question tells whether the rules hold. From inside nothing is redirected.
    fn not_captured(&self, came: Came) -> Option<String> {
        match came {
            Came::ThroughInbound => {
                self.capture.came_through_inbound();
                None
            }
            Came::Directly(peer) if peer.ip().is_loopback() || self.addresses.contains(&peer.ip()) => None,
            Came::Directly(_) => Some(format!(
                "this request did not come through {INBOUND_PORT}: inbound capture does not hold\n"
            )),
        }
    }
}
