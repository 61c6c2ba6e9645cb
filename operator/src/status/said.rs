//! Everything that one replica says: who is connected to it, and what each client said of each object. What
//! changes in it travels as updates in bounded pieces, and counts when the last piece of a batch has come: a
//! half-told batch would say too much.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::{ClientState, Edition, Report};
use crate::model::ObjectRef;

/// What one replica says. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Its clients, by node id.
    pub clients: Arc<BTreeMap<Arc<str>, Client>>,
    /// What it knows of each object that it has compiled.
    pub objects: BTreeMap<ObjectRef, Arc<Report>>,
}

/// A client of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its own number of its latest stream there; only sidecars number them.
    pub stream: Option<u64>,
    /// Whether that stream is open, or was lately lost.
    pub open: bool,
}

/// A piece of what changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Clients that are new or changed.
    pub clients: Vec<(Arc<str>, Client)>,
    /// Clients that are no more.
    pub gone: Vec<Arc<str>>,
    /// Objects about which something changed.
    pub objects: Vec<ObjectUpdate>,
    /// Objects that are no more.
    pub removed: Vec<ObjectRef>,
    /// Whether it is the last of its batch: everything told so far counts now.
    pub last: bool,
}

/// What changed about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectUpdate {
    /// Which.
    pub object: ObjectRef,
    /// What the replica serves of it.
    pub edition: Edition,
    /// Clients whose state is new or changed.
    pub clients: Vec<(Arc<str>, ClientState)>,
    /// Clients that want nothing of it any more.
    pub gone: Vec<Arc<str>>,
}

impl Said {
    /// What has to be told to someone who knows `known`, in pieces of so many entries at most; empty when
    /// nothing has. An unknown start (`None`) is told even if there is nothing to tell.
    #[must_use]
    pub fn since(&self, known: Option<&Self>, entries: usize) -> Vec<Update> {
        let nothing = Self::default();
        let mut pieces = Pieces { entries, room: 0, updates: Vec::new() };
        let before = known.unwrap_or(&nothing);
        if !Arc::ptr_eq(&self.clients, &before.clients) {
            for (node, client) in &*self.clients {
                if before.clients.get(node) != Some(client) {
                    pieces.piece().clients.push((node.clone(), *client));
                }
            }
            for node in before.clients.keys().filter(|node| !self.clients.contains_key(*node)) {
                pieces.piece().gone.push(node.clone());
            }
        }
        for (object, report) in &self.objects {
            pieces.object(object, before.objects.get(object), report);
        }
        for object in before.objects.keys().filter(|object| !self.objects.contains_key(object)) {
            pieces.piece().removed.push(object.clone());
        }
        let mut updates = pieces.updates;
        if updates.is_empty() && known.is_none() {
            updates.push(Update::default());
        }
        if let Some(last) = updates.last_mut() {
            last.last = true;
        }
        updates
    }

    /// Takes over an update. Gives the objects that it was about.
    pub fn apply(&mut self, update: Update) {
        if !update.clients.is_empty() || !update.gone.is_empty() {
            let clients = Arc::make_mut(&mut self.clients);
            clients.extend(update.clients);
            for node in update.gone {
                clients.remove(&node);
            }
        }
        let clients = &self.clients;
        // A client's name is stored once, whatever it has a part in.
        let known = |node: Arc<str>| clients.get_key_value(&node).map_or(node, |(known, _)| known.clone());
        for told in update.objects {
            let report = Arc::make_mut(self.objects.entry(told.object).or_default());
            report.edition = told.edition;
            report.clients.extend(told.clients.into_iter().map(|(node, state)| (known(node), state)));
            for node in told.gone {
                report.clients.remove(&node);
            }
        }
        for object in update.removed {
            self.objects.remove(&object);
        }
    }

    /// The objects of which this says something else than `other`, also because one of their clients is
    /// connected otherwise.
    #[must_use]
    pub fn differences(&self, other: &Self) -> BTreeSet<ObjectRef> {
        let moved: BTreeSet<&Arc<str>> = if Arc::ptr_eq(&self.clients, &other.clients) {
            BTreeSet::new()
        } else {
            let changed = self.clients.iter().filter(|(node, it)| other.clients.get(*node) != Some(*it));
            let gone = other.clients.keys().filter(|node| !self.clients.contains_key(*node));
            changed.map(|(node, _)| node).chain(gone).collect()
        };
        let concerned = |report: &Report| moved.iter().any(|node| report.clients.contains_key(*node));
        let mut objects = BTreeSet::new();
        for (object, report) in &self.objects {
            let before = other.objects.get(object);
            let same = before.is_some_and(|before| Arc::ptr_eq(before, report) || before == report);
            if !same || concerned(report) {
                objects.insert(object.clone());
            }
        }
        objects.extend(other.objects.keys().filter(|object| !self.objects.contains_key(object)).cloned());
        objects
    }
}

/// A batch on its way into pieces.
struct Pieces {
    entries: usize,
    /// Entries that the last piece still takes.
    room: usize,
    updates: Vec<Update>,
}

impl Pieces {
    /// The piece that takes the next entry.
    fn piece(&mut self) -> &mut Update {
        if self.room == 0 || self.updates.is_empty() {
            self.updates.push(Update::default());
            self.room = self.entries;
        }
        self.room = self.room.saturating_sub(1);
        self.updates.last_mut().expect("there is one: it was made above if there was none")
    }

    fn object(&mut self, object: &ObjectRef, before: Option<&Arc<Report>>, report: &Arc<Report>) {
        if before.is_some_and(|before| Arc::ptr_eq(before, report) || before == report) {
            return;
        }
        let told = |clients, gone| ObjectUpdate {
            object: object.clone(),
            edition: report.edition.clone(),
            clients,
            gone,
        };
        let nothing = BTreeMap::new();
        let known = before.map_or(&nothing, |before| &before.clients);
        let mut changed =
            report.clients.iter().filter(|(node, state)| known.get(*node) != Some(*state)).peekable();
        let mut gone = known.keys().filter(|node| !report.clients.contains_key(*node)).peekable();
        // Its edition is told even if no client is concerned.
        self.piece().objects.push(told(Vec::new(), Vec::new()));
        while changed.peek().is_some() || gone.peek().is_some() {
            if self.room == 0 {
                self.piece().objects.push(told(Vec::new(), Vec::new()));
            }
            let room = self.room.max(1);
            let clients: Vec<_> =
                changed.by_ref().take(room).map(|(node, it)| (node.clone(), it.clone())).collect();
            let left = room - clients.len();
            let gone: Vec<_> = gone.by_ref().take(left).cloned().collect();
            self.room = left - gone.len();
            let told = self.updates.last_mut().and_then(|update| update.objects.last_mut());
            if let Some(told) = told {
                told.clients.extend(clients);
                told.gone.extend(gone);
            }
        }
    }
}

#[cfg(test)]
mod tests;
