//! Which endpoint gets the next attempt.
//!
//! Who is asked, in this order:
//!
//! 1. an endpoint whose ejection is over and that awaits its probe, unless this is a retry: a request that
//!    has failed once is not risked again;
//! 2. those in rotation (all endpoints, when too few are in: panic), without those tried before;
//! 3. an endpoint that awaits its probe, and was not tried before;
//! 4. those of 2. that were tried before;
//! 5. the ejected ones: a bad endpoint is better than none. Outlier detection never ejects the last endpoint,
//!    but the others may have gone away.
//!
//! Among those: power of two choices by requests in flight (ties go to the first drawn, so an idle cluster is
//! used evenly), smooth weighted round robin (exact over all workers), or at random; all of them by weight.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::{Balance, Cluster, Endpoint};

impl Cluster {
    /// The endpoint, and whether the attempt is its probe.
    pub(super) fn choose(&self, now: Instant, exclude: &[SocketAddr]) -> Option<(&Arc<Endpoint>, bool)> {
        if exclude.is_empty() && self.nobody_out() {
            let list = if self.too_few(self.healthy.len()) { &*self.endpoints } else { &*self.healthy };
            return Some((self.balance_all(list)?, false));
        }
        let new = |endpoint: &Endpoint| !exclude.contains(&endpoint.address());
        if exclude.is_empty()
            && let Some(endpoint) = self.awaits_probe(now, &new)
        {
            return Some((endpoint, true));
        }
        let panic = self.too_few(self.in_rotation());
        let list = if panic { &*self.endpoints } else { &*self.healthy };
        let usable = |endpoint: &Endpoint| panic || !self.is_out(endpoint);
        if let Some(endpoint) = self.balance_some(list, &|endpoint| usable(endpoint) && new(endpoint)) {
            return Some((endpoint, false));
        }
        if let Some(endpoint) = self.awaits_probe(now, &new) {
            return Some((endpoint, true));
        }
        let endpoint = self
            .balance_some(list, &usable)
            .or_else(|| self.balance_some(&self.healthy, &new))
            .or_else(|| self.balance_all(&self.healthy))?;
        Some((endpoint, false))
    }

    /// Takes the place of a probe at an endpoint whose ejection is over.
    fn awaits_probe(&self, now: Instant, may: &impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let outlier = self.settings.outlier.as_ref().filter(|outlier| !outlier.shadow)?;
        self.healthy.iter().find(|endpoint| may(endpoint) && endpoint.take_probe(now, outlier))
    }

    /// One of a list of which every one may be used.
    fn balance_all<'l>(&self, list: &'l [Arc<Endpoint>]) -> Option<&'l Arc<Endpoint>> {
        if let [] | [_] = list {
            return list.first();
        }
        if !self.uniform || self.settings.balance == Balance::RoundRobin {
            return self.balance_some(list, &|_| true);
        }
        let first = fastrand::usize(..list.len());
        if self.settings.balance == Balance::Random {
            return list.get(first);
        }
        let second = fastrand::usize(..list.len() - 1);
        let second = if second >= first { second + 1 } else { second };
        Some(less_loaded(list.get(first)?, list.get(second)?))
    }

    /// One of those of a list that may be used.
    fn balance_some<'l>(
        &self,
        list: &'l [Arc<Endpoint>],
        may: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&'l Arc<Endpoint>> {
        match self.settings.balance {
            Balance::RoundRobin => self.next_in_turn(list, may),
            Balance::Random => draw(list, may),
            Balance::LeastRequest => {
                let first = draw(list, may)?;
                let second = draw(list, &|endpoint| may(endpoint) && endpoint.address() != first.address());
                Some(second.map_or(first, |second| less_loaded(first, second)))
            }
        }
    }

    /// Smooth weighted round robin, as for the backends of a rule; the credits are the endpoints' own, so
    /// that they survive the configuration.
    fn next_in_turn<'l>(
        &self,
        list: &'l [Arc<Endpoint>],
        may: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&'l Arc<Endpoint>> {
        let _turn = self.live.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let mut best: Option<(&Arc<Endpoint>, i64)> = None;
        for endpoint in list.iter().filter(|endpoint| may(endpoint)) {
            let weight = i64::from(endpoint.settings.weight);
            let credit = endpoint.state.credit.load(Ordering::Relaxed) + weight;
            endpoint.state.credit.store(credit, Ordering::Relaxed);
            total += weight;
            if best.is_none_or(|(_, most)| credit > most) {
                best = Some((endpoint, credit));
            }
        }
        let (endpoint, credit) = best?;
        endpoint.state.credit.store(credit - total, Ordering::Relaxed);
        Some(endpoint)
    }
}

/// One at random by weight. An endpoint may go out between the two walks; then the last seen is taken.
fn draw<'l>(list: &'l [Arc<Endpoint>], may: &dyn Fn(&Endpoint) -> bool) -> Option<&'l Arc<Endpoint>> {
    let usable = || list.iter().filter(|endpoint| may(endpoint));
    let total: u64 = usable().map(|endpoint| u64::from(endpoint.settings.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = fastrand::u64(..total);
    let mut last = None;
    for endpoint in usable() {
        let weight = u64::from(endpoint.settings.weight);
        last = Some(endpoint);
        if left < weight {
            break;
        }
        left -= weight;
    }
    last
}

/// The one with fewer requests in flight for its weight; the first of equals.
fn less_loaded<'l>(first: &'l Arc<Endpoint>, second: &'l Arc<Endpoint>) -> &'l Arc<Endpoint> {
    let load = |endpoint: &Endpoint, other: &Endpoint| {
        u64::from(endpoint.in_flight()) * u64::from(other.settings.weight)
    };
    if load(second, first) < load(first, second) { second } else { first }
}

#[cfg(test)]
mod tests;
