//! What goes out next: the second half of the session.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::subscription::{Due, Flight, Held, Standing};
use super::{Catalog, Change, Protocol, Response, Rules, Session};
use crate::xds::snapshot::{Resource, ResourceKind};
use crate::xds::wire::{DeltaResponse, StateResponse};

/// What became of a look at one type.
enum Step {
    Send(Response),
    /// Nothing to send, but names were looked at and let go, which may let others go.
    Settled,
    Idle,
}

impl Session {
    /// The next response, if one may go out now. Called until it has none.
    pub fn next(&mut self, catalog: &impl Catalog) -> Option<Response> {
        loop {
            let mut settled = false;
            for kind in ResourceKind::ALL {
                if self.peek(kind).in_flight.is_some() {
                    continue;
                }
                self.subscription(kind).expand(catalog, kind);
                match self.step(catalog, kind) {
                    Step::Send(response) => return Some(response),
                    Step::Settled => settled = true,
                    Step::Idle => {}
                }
            }
            if !settled {
                return None;
            }
        }
    }

    fn step(&mut self, catalog: &impl Catalog, kind: ResourceKind) -> Step {
        let before = self.peek(kind).dirty.len();
        let response = match self.protocol {
            Protocol::Delta => self.compose_delta(catalog, kind).map(Response::Delta),
            Protocol::State if kind.sends_full_state() => {
                self.compose_all(catalog, kind).map(Response::State)
            }
            Protocol::State => self.compose_some(catalog, kind).map(Response::State),
        };
        match response {
            Some(response) => Step::Send(response),
            None if self.peek(kind).dirty.len() < before => Step::Settled,
            None => Step::Idle,
        }
    }

    /// Delta: what changed, and what is gone.
    fn compose_delta(&mut self, catalog: &impl Catalog, kind: ResourceKind) -> Option<DeltaResponse> {
        let waits = self.additions_wait(catalog, kind);
        let mut room = Room::new(self.limits.response_bytes);
        let mut resources = Vec::new();
        let mut removed = Vec::new();
        let mut fresh = false;
        let dirty = std::mem::take(&mut self.subscription(kind).dirty);
        for (name, due) in dirty {
            let current = self.peek(kind).current(catalog, kind, &name);
            let held = self.peek(kind).held.get(&name);
            let told =
                held.is_some_and(|held| held.version.as_ref() == current.as_ref().map(|it| &it.version));
            if told && due != Due::Asked {
                continue;
            }
            let had = held.is_some_and(|held| held.version.is_some());
            if current.is_none() && !had && due != Due::Asked && !self.peek(kind).names.contains(&name) {
                continue; // Only the wildcard might have covered it, and the client never had it.
            }
            let later = match &current {
                Some(_) => waits && due == Due::Pushed,
                None => had && self.removal_waits(kind, due),
            };
            if later || !room.takes(&name, current.as_ref()) {
                self.subscription(kind).dirty.insert(name, due);
                continue;
            }
            match current {
                Some(resource) => {
                    fresh |= !had;
                    resources.push(resource);
                }
                None => removed.push(name),
            }
        }
        let answer = std::mem::take(&mut self.subscription(kind).answer);
        if resources.is_empty() && removed.is_empty() && !answer {
            return None;
        }
        let nonce = self.depart(kind, &resources, &removed, fresh);
        Some(DeltaResponse::new(kind, nonce, &resources, &removed))
    }

    /// State of the world, listeners and clusters: everything, when anything changed.
    fn compose_all(&mut self, catalog: &impl Catalog, kind: ResourceKind) -> Option<StateResponse> {
        let waits = self.additions_wait(catalog, kind);
        let mut keep = Vec::new();
        let mut due_now = std::mem::take(&mut self.subscription(kind).answer);
        let mut postponed = Vec::new();
        for (name, due) in std::mem::take(&mut self.subscription(kind).dirty) {
            let current = self.peek(kind).current(catalog, kind, &name);
            let had = self.peek(kind).version(&name).cloned();
            if due != Due::Asked && had.as_ref() == current.as_ref().map(|it| &it.version) {
                continue;
            }
            if current.is_none() && had.is_some() && self.removal_waits(kind, due) {
                keep.push((name, due));
            } else if waits && due == Due::Pushed {
                postponed.push((name, due));
            } else {
                due_now = true;
            }
        }
        let kept: Vec<Arc<Resource>> =
            keep.iter().filter_map(|(name, _)| self.peek(kind).held.get(name)?.resource.clone()).collect();
        self.subscription(kind).dirty.extend(keep);
        if !due_now {
            self.subscription(kind).dirty.extend(postponed);
            return None;
        }
        let mut resources = self.wanted(catalog, kind);
        resources.extend(kept);
        let fresh = resources.iter().any(|resource| self.peek(kind).version(&resource.name).is_none());
        let version = version_of(&resources);
        // What was asked for and is not there is said by leaving it out, and taken with the rest.
        let names: HashSet<&str> = resources.iter().map(|it| &*it.name).collect();
        let missing = |name: &&Arc<str>| !names.contains(&***name);
        let subscription = self.peek(kind);
        let absent: Vec<Arc<str>> = subscription.names.iter().filter(missing).cloned().collect();
        let gone: Vec<Arc<str>> = subscription.held.keys().filter(missing).cloned().collect();
        for name in gone {
            self.subscription(kind).held.remove(&name);
            if !self.peek(kind).names.contains(&name) {
                self.changes.push(Change::Forgotten(kind, name));
            }
        }
        let nonce = self.depart(kind, &resources, &absent, fresh);
        Some(StateResponse::new(kind, version, nonce, &resources))
    }

    /// State of the world, routes and endpoints: those that changed; the absence of one means
    /// nothing.
    fn compose_some(&mut self, catalog: &impl Catalog, kind: ResourceKind) -> Option<StateResponse> {
        let waits = self.additions_wait(catalog, kind);
        let mut room = Room::new(self.limits.response_bytes);
        let mut resources = Vec::new();
        let mut fresh = false;
        for (name, due) in std::mem::take(&mut self.subscription(kind).dirty) {
            let Some(current) = self.peek(kind).current(catalog, kind, &name) else {
                // There are no words for it, so nothing more can come of it.
                self.subscription(kind).held.remove(&name);
                if self.peek(kind).names.contains(&name) {
                    self.changes.push(Change::Acked(kind, name, None));
                }
                continue;
            };
            let had = self.peek(kind).version(&name);
            if due != Due::Asked && had == Some(&current.version) {
                continue;
            }
            let fresh_one = had.is_none();
            if waits && due == Due::Pushed || !room.takes(&name, Some(&current)) {
                self.subscription(kind).dirty.insert(name, due);
                continue;
            }
            fresh |= fresh_one;
            resources.push(current);
        }
        let answer = std::mem::take(&mut self.subscription(kind).answer);
        if resources.is_empty() && !answer {
            return None;
        }
        let version = version_of(&self.wanted(catalog, kind));
        let nonce = self.depart(kind, &resources, &[], fresh);
        Some(StateResponse::new(kind, version, nonce, &resources))
    }

    /// All that the client asks for and that exists.
    fn wanted(&self, catalog: &impl Catalog, kind: ResourceKind) -> Vec<Arc<Resource>> {
        let subscription = self.peek(kind);
        let mut names: Vec<Arc<str>> = subscription.names.iter().cloned().collect();
        if subscription.wildcard {
            names.extend(catalog.names(kind));
        }
        names.sort_unstable();
        names.dedup();
        names.iter().filter_map(|name| catalog.get(kind, name)).collect()
    }

    /// Listeners and routes wait until clusters and endpoints that are new to the client are taken.
    fn additions_wait(&self, catalog: &impl Catalog, kind: ResourceKind) -> bool {
        matches!(kind, ResourceKind::Listener | ResourceKind::Route)
            && [ResourceKind::Cluster, ResourceKind::Endpoints]
                .into_iter()
                .any(|used| self.peek(used).takes_new_ones(catalog, used))
    }

    /// Clusters and endpoints stay until listeners and routes no longer need them. A client that
    /// has just reconnected may not even have asked for its routes yet.
    fn removal_waits(&self, kind: ResourceKind, due: Due) -> bool {
        matches!(kind, ResourceKind::Cluster | ResourceKind::Endpoints)
            && !due.is_urgent()
            && (self.listeners.is_busy()
                || self.routes.is_busy()
                || due == Due::Resumed && !self.routes.opened)
    }

    /// Notes a response as under way and gives its nonce.
    fn depart(
        &mut self,
        kind: ResourceKind,
        resources: &[Arc<Resource>],
        removed: &[Arc<str>],
        fresh: bool,
    ) -> String {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let keeps_bytes = self.protocol == Protocol::State && kind == ResourceKind::Cluster;
        let subscription = self.subscription(kind);
        let mut names = Vec::with_capacity(resources.len() + removed.len());
        let mut anew = Vec::new();
        for resource in resources {
            let unchanged = subscription.held.get(&resource.name).is_some_and(|held| {
                held.standing == Standing::Acked && held.version.as_ref() == Some(&resource.version)
            });
            if !unchanged {
                if subscription.version(&resource.name).is_some() {
                    anew.push(resource.name.clone());
                }
                let kept = keeps_bytes.then(|| resource.clone());
                subscription
                    .held
                    .insert(resource.name.clone(), Held { resource: kept, ..Held::sent(Some(resource)) });
            }
            names.push((resource.name.clone(), Some(resource.version.clone())));
        }
        let mut forgotten = Vec::new();
        for name in removed {
            if subscription.names.contains(name) {
                subscription.held.insert(name.clone(), Held::sent(None));
            } else {
                subscription.held.remove(name);
                forgotten.push(Change::Forgotten(kind, name.clone()));
            }
            names.push((name.clone(), None));
        }
        subscription.last_nonce.clone_from(&nonce);
        subscription.in_flight = Some(Flight { nonce: nonce.clone(), names, fresh });
        self.changes.extend(forgotten);
        if kind == ResourceKind::Cluster {
            self.endpoints_again(anew);
        }
        nonce
    }

    /// Envoy makes a cluster anew when its settings change, and the new one waits for its endpoints (15 seconds,
    /// unless told otherwise), also when they have not changed and it does not ask for them again.
    fn endpoints_again(&mut self, clusters: Vec<Arc<str>>) {
        for name in clusters {
            if self.endpoints.names.contains(&name) {
                self.endpoints.dirty.insert(name, Due::Asked);
            }
        }
    }
}

/// What still fits into a response; the rest follows when that is answered. Only a resource that is larger
/// than a whole response makes one that is.
struct Room {
    left: usize,
    empty: bool,
}

impl Room {
    /// Type URL, version, and the frames around them.
    const AROUND: usize = 160;

    fn new(bytes: usize) -> Self {
        Self { left: bytes, empty: true }
    }

    /// Takes a name with its resource, if there is room.
    fn takes(&mut self, name: &str, resource: Option<&Arc<Resource>>) -> bool {
        let bytes = name.len() + resource.map_or(8, |resource| resource.any.len() + Self::AROUND);
        let taken = self.empty || bytes <= self.left;
        if taken {
            self.left = self.left.saturating_sub(bytes);
            self.empty = false;
        }
        taken
    }
}

/// The version of a set of resources: equal sets have equal versions on every replica.
fn version_of(resources: &[Arc<Resource>]) -> String {
    let mut hasher = DefaultHasher::new(); // SipHash with fixed keys: the same everywhere.
    for resource in resources {
        resource.name.hash(&mut hasher);
        resource.version.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}
