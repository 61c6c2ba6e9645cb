//! What one stream wants, has and waits for of one resource type.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::{Catalog, wildcard_covers};
use crate::xds::snapshot::{Resource, ResourceKind};

/// One type of one stream.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// Whether a request of this type has come.
    pub(super) opened: bool,
    /// State of the world: whether a name was ever given, which ends the legacy wildcard.
    pub(super) explicit: bool,
    /// Names asked for one by one.
    pub(super) names: HashSet<Arc<str>>,
    /// Whether everything is asked for.
    pub(super) wildcard: bool,
    /// The wildcard is new: all that it covers has to be looked at.
    pub(super) expand: bool,
    /// An answer is owed even if there is nothing to say.
    pub(super) answer: bool,
    /// What the client was sent, or said to have.
    pub(super) held: HashMap<Arc<str>, Held>,
    /// What has to be looked at before the next response, in the order in which it came.
    pub(super) dirty: IndexMap<Arc<str>, Due>,
    /// The response that the client has not answered yet.
    pub(super) in_flight: Option<Flight>,
    /// The nonce of the latest response.
    pub(super) last_nonce: String,
}

/// Why a name is looked at, which decides whether it may wait for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The client asked: answered at once, even if it was sent before.
    Asked,
    /// It may have changed.
    Pushed,
    /// The client had it before it reconnected.
    Resumed,
    /// It waits for nothing (any more), and is sent if it changed.
    Released,
}

impl Due {
    pub(super) fn release(&mut self) {
        if *self != Self::Asked {
            *self = Self::Released;
        }
    }

    /// Whether it goes out now, whatever else is under way.
    pub(super) fn is_urgent(self) -> bool {
        matches!(self, Self::Asked | Self::Released)
    }
}

/// What the client was last told about a name.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The version; `None`: that there is no such resource.
    pub(super) version: Option<Arc<str>>,
    /// What the client said to it.
    pub(super) standing: Standing,
    /// State of the world: the bytes, to repeat them while a removal waits.
    pub(super) resource: Option<Arc<Resource>>,
}

impl Held {
    /// Something that the client says it has.
    pub(super) fn acked(version: Option<Arc<str>>) -> Self {
        Self { version, standing: Standing::Acked, resource: None }
    }

    /// Something that is being sent.
    pub(super) fn sent(resource: Option<&Arc<Resource>>) -> Self {
        Self {
            version: resource.map(|resource| resource.version.clone()),
            standing: Standing::Sent,
            resource: None,
        }
    }
}

/// What the client said to what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet.
    Sent,
    /// It runs it.
    Acked,
    /// It refused it and keeps what it had.
    Nacked,
}

/// A response under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) nonce: String,
    /// What it carries; `None`: removed.
    pub(super) names: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// It has names that the client never had before.
    pub(super) fresh: bool,
}

impl Subscription {
    /// Marks all that a new wildcard covers, and all that it may no longer cover.
    pub(super) fn expand(&mut self, catalog: &impl Catalog, kind: ResourceKind) {
        if !std::mem::take(&mut self.expand) {
            return;
        }
        for name in catalog.names(kind).into_iter().chain(self.held.keys().cloned()) {
            // The client asked, so this does not wait; what it has already is not repeated.
            self.dirty.entry(name).or_insert(Due::Released);
        }
    }

    /// What is under way to a client that gave up the wildcard and wants it again will be taken, so
    /// it counts as held: should it be gone by now, the client has to hear so.
    pub(super) fn reclaim(&mut self, kind: ResourceKind) {
        for (name, version) in self.in_flight.iter().flat_map(|flight| &flight.names) {
            if version.is_some() && wildcard_covers(kind, name) {
                let sent = Held { version: version.clone(), standing: Standing::Sent, resource: None };
                self.held.entry(name.clone()).or_insert(sent);
            }
        }
    }

    /// The resource as this client should have it.
    pub(super) fn current(
        &self,
        catalog: &impl Catalog,
        kind: ResourceKind,
        name: &str,
    ) -> Option<Arc<Resource>> {
        let covered = self.names.contains(name) || self.wildcard && wildcard_covers(kind, name);
        if covered { catalog.get(kind, name) } else { None }
    }

    /// The version that the client has or was sent.
    pub(super) fn version(&self, name: &str) -> Option<&Arc<str>> {
        self.held.get(name)?.version.as_ref()
    }

    /// Whether the client has yet to take resources that it never had.
    pub(super) fn takes_new_ones(&self, catalog: &impl Catalog, kind: ResourceKind) -> bool {
        self.in_flight.as_ref().is_some_and(|flight| flight.fresh)
            || self
                .dirty
                .keys()
                .any(|name| self.version(name).is_none() && self.current(catalog, kind, name).is_some())
    }

    /// Whether the client has yet to take changes.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some() || self.expand || !self.dirty.is_empty()
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.dirty.shift_remove(name);
    }
}
