//! What is asked for when it is first needed: the destinations that this pod calls, the endpoints that it is
//! called at.
//!
//! ```text
//! ask --> Seat --answer--> Known | Unknown         the server has said so, now or earlier
//!                      '-> NotYet                  asked HOLD ago, and still no word
//!                      '-> NoStream                nobody to ask
//! seat dropped --> idle --expire, or room needed--> asked for no more
//! ```
//!
//! Memory grows with what is called, not with the cluster, and not without bound: who tries every port of every
//! address pushes out what has been idle longest, what the server does not know first. What is in use is never
//! pushed out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::{Destination, ProxyConfig};
use crate::metrics::{Direction, Metrics};
use crate::proxy::now;
use crate::xds::client::Handle;

/// How long after it was first asked for a destination's connections are held. An answer takes a round trip
/// and the time to read it; an application notices nothing below a second.
pub const HOLD: Duration = Duration::from_millis(250);

/// What is asked for on demand; `T` is made once for each and lives as long as it is asked for.
#[derive(Debug)]
pub struct OnDemand<T> {
    xds: Handle,
    config: Arc<ArcSwap<ProxyConfig>>,
    metrics: Arc<Metrics>,
    bounds: Bounds,
    entries: Mutex<HashMap<SocketAddr, Arc<Entry<T>>>>,
}

/// How much is asked for, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Whose connections are held.
    pub direction: Direction,
    /// Stands before the address in the listener's name.
    pub prefix: &'static str,
    /// So many at once.
    pub most: usize,
    /// What has not been used for so long is asked for no more; None: only when room is needed.
    pub idle: Option<Duration>,
}

#[derive(Debug)]
struct Entry<T> {
    /// None: the server is not asked.
    name: Option<Arc<str>>,
    asked: Instant,
    used: Mutex<Instant>,
    value: OnceLock<Arc<T>>,
}

/// Keeps what was asked for from being idle.
#[derive(Debug)]
pub struct Seat<T>(Arc<Entry<T>>);

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Its configuration is in force.
    Known,
    /// The server says that there is no such thing.
    Unknown,
    /// No word in time.
    NotYet,
    /// There is no stream to the server.
    NoStream,
}

impl<T> OnDemand<T> {
    /// Asks `xds`, and finds its answers in `config`.
    pub fn new(
        xds: Handle,
        config: Arc<ArcSwap<ProxyConfig>>,
        metrics: Arc<Metrics>,
        bounds: Bounds,
    ) -> Self {
        Self { xds, config, metrics, bounds, entries: Mutex::default() }
    }

    /// Asks for the listener of `address`; asking again is free. None: there is no room, and all is in use.
    pub fn ask(&self, address: SocketAddr) -> Option<Seat<T>> {
        let name = Arc::from(format!("{}{address}", self.bounds.prefix));
        self.enter(address, Some(name))
    }

    /// The same without asking the server, which does not know such an address.
    pub fn keep(&self, address: SocketAddr) -> Option<Seat<T>> {
        self.enter(address, None)
    }

    fn enter(&self, address: SocketAddr, name: Option<Arc<str>>) -> Option<Seat<T>> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&address) {
            return Some(Seat(Arc::clone(entry)));
        }
        if entries.len() >= self.bounds.most {
            let idlest = self.idlest(&entries)?;
            self.forget(&mut entries, &idlest);
        }
        // Under the lock, so that asking and taking back happen in the order of the entries.
        if let Some(name) = &name {
            self.xds.subscribe(name);
        }
        let value = OnceLock::new();
        let entry = Arc::new(Entry { name, asked: now(), used: Mutex::new(now()), value });
        entries.insert(address, Arc::clone(&entry));
        Some(Seat(entry))
    }

    /// Waits until the server has said what it knows, for as long as that may take.
    pub async fn answer(&self, seat: &Seat<T>, address: SocketAddr) -> Answer {
        let Some(name) = &seat.0.name else { return Answer::Unknown };
        if let Some(answer) = self.answered(name, address) {
            return answer;
        }
        let began = now();
        let answer = self.awaited(name, address, seat.0.asked + HOLD).await;
        let outcome = match answer {
            Answer::Known | Answer::Unknown => "answered",
            Answer::NotYet => "timeout",
            Answer::NoStream => "disconnected",
        };
        self.metrics.held(self.bounds.direction, outcome, now() - began);
        answer
    }

    async fn awaited(&self, name: &str, address: SocketAddr, until: Instant) -> Answer {
        let mut state = self.xds.watch();
        loop {
            let connected = state.borrow_and_update().connected;
            // Looked at after the state, which changes after what it tells of is in force.
            if let Some(answer) = self.answered(name, address) {
                return answer;
            }
            if !connected {
                return Answer::NoStream;
            }
            match tokio::time::timeout_at(until.into(), state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Answer::NoStream,
                Err(_) => return Answer::NotYet,
            }
        }
    }

    fn answered(&self, name: &str, address: SocketAddr) -> Option<Answer> {
        let config = self.config.load();
        match config.destinations.get(name).map(AsRef::as_ref) {
            Some(Destination::Known(_)) => Some(Answer::Known),
            Some(Destination::Unknown) => Some(Answer::Unknown),
            None if self.bounds.direction == Direction::Inbound => {
                config.inbound.contains_key(&address).then_some(Answer::Known)
            }
            None => None,
        }
    }

    /// Asks no more for what has been idle for long.
    pub fn expire(&self) {
        let Some(limit) = self.bounds.idle else { return };
        let mut entries = self.entries();
        let old = |entry: &Entry<T>| now().saturating_duration_since(entry.used()) >= limit;
        let idle = entries.iter().filter(|(_, entry)| is_idle(entry) && old(entry));
        let idle: Vec<SocketAddr> = idle.map(|(address, _)| *address).collect();
        for address in idle {
            self.forget(&mut entries, &address);
        }
    }

    /// Does something with each value that was made.
    pub fn each(&self, act: impl FnMut(&Arc<T>)) {
        let values: Vec<Arc<T>> =
            self.entries().values().filter_map(|entry| entry.value.get().cloned()).collect();
        values.iter().for_each(act);
    }

    /// What to push out: idle, unknown rather than known, and longest unused.
    fn idlest(&self, entries: &HashMap<SocketAddr, Arc<Entry<T>>>) -> Option<SocketAddr> {
        let known = |address: &SocketAddr, entry: &Entry<T>| {
            let name = entry.name.as_ref();
            name.is_some_and(|name| self.answered(name, *address) == Some(Answer::Known))
        };
        let idle = entries.iter().filter(|(_, entry)| is_idle(entry));
        let idlest = idle.min_by_key(|(address, entry)| (known(address, entry), entry.used()));
        idlest.map(|(address, _)| *address)
    }

    fn forget(&self, entries: &mut HashMap<SocketAddr, Arc<Entry<T>>>, address: &SocketAddr) {
        if let Some(entry) = entries.remove(address)
            && let Some(name) = &entry.name
        {
            self.xds.unsubscribe(name);
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Entry<T>>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seats are given under the lock of the entries, so that nobody takes one while this is asked.
fn is_idle<T>(entry: &Arc<Entry<T>>) -> bool {
    Arc::strong_count(entry) == 1
}

impl<T> Entry<T> {
    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Seat<T> {
    /// What was made for it, made now if need be.
    pub fn value(&self, make: impl FnOnce() -> T) -> Arc<T> {
        Arc::clone(self.0.value.get_or_init(|| Arc::new(make())))
    }
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        *self.0.used.lock().unwrap_or_else(PoisonError::into_inner) = now();
    }
}

#[cfg(test)]
mod tests;
