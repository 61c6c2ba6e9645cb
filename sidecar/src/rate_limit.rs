//! How much is let in: the limits of the Services and rules that lead to this pod.
//!
//! ```text
//! x-fairlead-target --> the policies of that rule or Service, in order of precedence
//!                       (no target: of every Service that lists the endpoint)
//! request ------------> the first Enforce policy with a matching limit, alone: all its matching limits
//! limits + keys ------> a bucket each: a token from all of them, or from none
//! ```
//!
//! A Shadow policy never displaces an Enforce one. Where it would come first if it were in force, it is
//! evaluated beside, with buckets of its own, and only counted.
//!
//! One limit of one policy is one set of buckets for a Service port, whatever rules the policy comes to the
//! request by: a Service's limit holds for the sum of all its rules. The buckets outlive configurations as
//! long as the limit's numbers and key stay the same.
//!
//! Cost of a request without a policy for its target: one or two hash lookups, no lock. With limits: one
//! mutex an endpoint of this pod, held while the buckets are looked up (that makes "from all or from none"
//! exact over all workers), two hashes of the key, one small allocation; no allocation for a key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::request::Parts;

mod answer;
mod bucket;
mod keys;
mod policy;
mod settings;

pub use answer::{Decision, Quota, Refusal};
pub use policy::BadLimit;
pub use settings::{
    HeaderSettings, InboundSettings, KeySettings, LimitSettings, MatchSettings, PathSettings, PolicySettings,
    ResponseSettings, ValueSettings,
};

use answer::tightest;
use bucket::Verdict;
use policy::{Compiled, LiveLimit, Policy};

/// The limits of one endpoint of this pod, with their buckets.
#[derive(Debug)]
pub struct RateLimiter {
    /// As received.
    pub settings: InboundSettings,
    /// By `shop/reviews:9080` or `shop/reviews:9080#rule`.
    targets: HashMap<String, Arc<[Policy]>>,
    /// Those of each Service that lists the endpoint, for a call that does not say what it called.
    unnamed: Vec<Arc<[Policy]>>,
    /// Held while the buckets of one request are looked at and charged; shared with the limiters before and
    /// after, which share the buckets.
    charging: Arc<Mutex<()>>,
}

/// What one limit did so far, for metrics and the admin page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitReport {
    /// The Service port, `shop/reviews:9080`.
    pub service: Arc<str>,
    /// `shop/orders`.
    pub policy: Arc<str>,
    /// Its name in the policy.
    pub limit: Arc<str>,
    /// Whether it only counts.
    pub shadow: bool,
    /// Requests that took a token.
    pub admitted: u64,
    /// Requests that this limit refused.
    pub refused: u64,
    /// Requests that it would have refused, while it only counted.
    pub would_refuse: u64,
    /// Keys with a bucket of their own at present.
    pub keys: usize,
    /// Requests whose key found no room and shared one bucket.
    pub overflowed: u64,
}

impl RateLimiter {
    /// The limits in force; buckets of `previous` whose limit did not change stay as full as they are. A
    /// limit that cannot be used is skipped; [`InboundSettings::check`] tells beforehand.
    pub fn new(settings: InboundSettings, previous: Option<&RateLimiter>) -> Self {
        let before: Vec<&Arc<LiveLimit>> = previous.into_iter().flat_map(RateLimiter::limits).collect();
        let mut known: HashMap<policy::Identity, Arc<LiveLimit>> =
            before.into_iter().map(|limit| (limit.identity(), Arc::clone(limit))).collect();
        let compiled: HashMap<&str, Compiled<'_>> =
            settings.policies.iter().map(|policy| (policy.name.as_str(), Compiled::new(policy))).collect();
        let targets: HashMap<String, Arc<[Policy]>> = settings
            .targets
            .iter()
            .map(|(target, policies)| {
                let service = service_of(target);
                (
                    target.clone(),
                    policies
                        .iter()
                        .filter_map(|name| compiled.get(name.as_str()))
                        .map(|policy| Policy::new(service, policy, &mut known))
                        .collect(),
                )
            })
            .collect();
        drop(compiled);
        let unnamed =
            settings.services.iter().filter_map(|service| targets.get(service.as_str())).cloned().collect();
        let charging = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.charging));
        Self { settings, targets, unnamed, charging }
    }

    /// Decides about a request and takes its tokens. `target` is what `x-fairlead-target` says: a rule that
    /// is not known is held to its Service's limits; a Service that is not known counts as none named.
    pub fn check(&self, now: Instant, target: Option<&str>, request: &Parts, peer: IpAddr) -> Decision {
        let named = target.and_then(|target| {
            self.targets
                .get(target)
                .or_else(|| self.targets.get(service_of(target)))
                .map(std::slice::from_ref)
        });
        let lists = named.unwrap_or(&self.unnamed);
        if lists.iter().all(|policies| policies.is_empty()) {
            return Decision::Admit(None);
        }
        let in_force = lists.iter().filter_map(|policies| self.in_force(policies, now, request, peer));
        let charges: Vec<Charge<'_>> = in_force.flat_map(|policy| charges(policy, request, peer)).collect();
        if charges.is_empty() {
            return Decision::Admit(None);
        }
        let verdicts = self.charge(&charges, now);
        tightest(&charges, &verdicts, request)
    }

    /// What every limit did so far; one line a limit and Service port.
    pub fn report(&self) -> Vec<LimitReport> {
        let mut reports: Vec<LimitReport> = Vec::new();
        for (policy, limit) in
            self.policies().flat_map(|policy| policy.limits().map(move |limit| (policy, limit)))
        {
            let report = limit.report(policy.shadow);
            if !reports.iter().any(|known| {
                (&known.service, &known.policy, &known.limit)
                    == (&report.service, &report.policy, &report.limit)
            }) {
                reports.push(report);
            }
        }
        reports.sort_by(|a, b| (&a.service, &a.policy, &a.limit).cmp(&(&b.service, &b.policy, &b.limit)));
        reports
    }

    fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.targets.values().flat_map(|policies| policies.iter())
    }

    fn limits(&self) -> impl Iterator<Item = &Arc<LiveLimit>> {
        self.policies().flat_map(Policy::limits)
    }

    /// The policy that holds for this request: the first in force that has a limit for it. One in shadow
    /// that stands before it is evaluated on the way.
    fn in_force<'l>(
        &self,
        policies: &'l [Policy],
        now: Instant,
        request: &Parts,
        peer: IpAddr,
    ) -> Option<&'l Policy> {
        let mut applying = policies.iter().filter(|policy| policy.applies(request));
        let first = applying.next()?;
        if !first.shadow {
            return Some(first);
        }
        self.look_on(first, now, request, peer);
        applying.find(|policy| !policy.shadow)
    }

    /// Takes a token from all or from none.
    fn charge(&self, charges: &[Charge<'_>], now: Instant) -> Vec<Verdict> {
        let _all_at_once = self.charging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut receipts = Vec::with_capacity(charges.len());
        for charge in charges {
            receipts.push(charge.limit.buckets().charge(charge.key, now));
        }
        let refused = receipts.iter().any(|receipt| receipt.verdict.is_refused());
        for (charge, receipt) in charges.iter().zip(&receipts) {
            let counters = charge.limit.counters();
            if receipt.verdict.is_refused() {
                let counter = if charge.policy.shadow { &counters.would_refuse } else { &counters.refused };
                counter.fetch_add(1, Ordering::Relaxed);
            } else if refused {
                charge.limit.buckets().refund(receipt);
            } else {
                counters.admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
        receipts.into_iter().map(|receipt| receipt.verdict).collect()
    }

    fn look_on(&self, policy: &Policy, now: Instant, request: &Parts, peer: IpAddr) {
        let charges: Vec<Charge<'_>> = charges(policy, request, peer).collect();
        self.charge(&charges, now);
    }
}

/// A limit that a request is held to, and its bucket's key.
#[derive(Debug)]
struct Charge<'l> {
    policy: &'l Policy,
    limit: &'l Arc<LiveLimit>,
    key: u128,
}

fn charges<'l>(policy: &'l Policy, request: &Parts, peer: IpAddr) -> impl Iterator<Item = Charge<'l>> {
    policy.matching(request).map(move |limit| Charge { policy, limit, key: limit.key(request, peer) })
}

/// `shop/reviews:9080` of `shop/reviews:9080#rule`.
fn service_of(target: &str) -> &str {
    target.split_once('#').map_or(target, |(service, _)| service)
}

#[cfg(test)]
mod tests;
