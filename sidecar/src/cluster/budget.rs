//! How many retries a Service can take.
//!
//! A fixed number of retries a request multiplies the load exactly when a service cannot take it: with two
//! retries each, an outage triples the traffic. A budget bounds retries by what else is sent: so many per
//! hundred requests over a sliding window, and a small fixed rate besides, so that a service that is called
//! twice a minute can be retried as well. One budget a Service port and sidecar, shared by all workers,
//! always on.
//!
//! The window slides in tenths: a count leaves it as a whole when its tenth is over. The minimum rate has its
//! own window and counts every retry, whichever of the two let it pass.
//!
//! Cost: one short mutex a request, one more a retry; 20 small counters, no allocation.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// `retryConstraint`: one a Service and sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetSettings {
    /// Retries per hundred requests in the interval.
    pub percent: f64,
    /// The window.
    pub interval: Duration,
    /// Retries allowed whatever the percentage says...
    pub min_retries: u32,
    /// ...in each of these.
    pub min_retries_interval: Duration,
}

impl Default for BudgetSettings {
    /// 20 % over 10 s, and 10 a second besides.
    fn default() -> Self {
        Self {
            percent: 20.0,
            interval: Duration::from_secs(10),
            min_retries: 10,
            min_retries_interval: Duration::from_secs(1),
        }
    }
}

/// The live budget of one Service port.
#[derive(Debug, Default)]
pub struct Budget {
    windows: Mutex<Windows>,
}

#[derive(Debug, Default)]
struct Windows {
    settings: BudgetSettings,
    /// First attempts over `interval`.
    requests: Window,
    /// Retries over `interval`.
    retries: Window,
    /// Retries over `min_retries_interval`.
    recent: Window,
}

impl Budget {
    /// Takes new settings; what was counted stays where its window did not change.
    pub fn configure(&self, settings: &BudgetSettings) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.settings.interval != settings.interval {
            windows.requests = Window::default();
            windows.retries = Window::default();
        }
        if windows.settings.min_retries_interval != settings.min_retries_interval {
            windows.recent = Window::default();
        }
        windows.settings = settings.clone();
    }

    /// Counts a first attempt. Every request that is sent to the Service, once.
    pub fn request(&self, now: Instant) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = windows.settings.interval;
        windows.requests.add(now, interval);
    }

    /// Takes one retry out of the budget; false when there is none.
    pub fn withdraw(&self, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let Windows { settings, requests, retries, recent } = &mut *windows;
        let allowed = f64::from(requests.sum(now, settings.interval)) * settings.percent / 100.0;
        let within = f64::from(retries.sum(now, settings.interval)) + 1.0 <= allowed;
        if !within && recent.sum(now, settings.min_retries_interval) >= settings.min_retries {
            return false;
        }
        retries.add(now, settings.interval);
        recent.add(now, settings.min_retries_interval);
        true
    }
}

/// So many parts has a window.
const PARTS: u32 = 10;

/// Counts over the last interval, in ten parts.
#[derive(Debug, Default)]
struct Window {
    parts: [u32; PARTS as usize],
    /// The part that counts now, and when it began.
    current: usize,
    began: Option<Instant>,
}

impl Window {
    fn add(&mut self, now: Instant, interval: Duration) {
        self.slide(now, interval);
        if let Some(part) = self.parts.get_mut(self.current) {
            *part = part.saturating_add(1);
        }
    }

    fn sum(&mut self, now: Instant, interval: Duration) -> u32 {
        self.slide(now, interval);
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// Empties the parts whose time is over.
    fn slide(&mut self, now: Instant, interval: Duration) {
        let part = (interval / PARTS).max(Duration::from_nanos(1));
        let began = *self.began.get_or_insert(now);
        let steps = now.saturating_duration_since(began).as_nanos() / part.as_nanos();
        if steps >= u128::from(PARTS) {
            *self = Self { began: Some(now), ..Self::default() };
            return;
        }
        for _ in 0..steps {
            self.current = (self.current + 1) % self.parts.len();
            if let Some(oldest) = self.parts.get_mut(self.current) {
                *oldest = 0;
            }
        }
        self.began = Some(began + part * u32::try_from(steps).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests;
