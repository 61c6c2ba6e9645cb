//! What all replicas say, put together by the one that writes statuses.
//!
//! ```text
//! own registry ─────────────┐
//! replica b ─ batches ──────┼─> Said a replica ──┐
//! replica c ─ batches ──────┘                    ├─ tally(object): the latest record of each client
//! clients that nobody has any more ─> forsaken ──┘
//! ```
//!
//! A client that moves from one replica to another is known to both for a while, and the one that it left
//! may believe that it is still connected. Its own number of its streams says which record is the later. A
//! client without numbers may rightly be connected to several; then the worst of what it said counts, and
//! an open stream says more than a lost one.
//!
//! A record is dropped when a later one is there, when its pod is gone, or, of a client that is no pod's
//! sidecar, when its replica has forgotten it. Otherwise it stays and is pending: nobody knows what such a
//! sidecar runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::{LastError, Rollout};
use tokio::time::Instant;

use super::report::{ClientState, Edition};
use super::said::{Client, Said, Update};
use crate::model::ObjectRef;
use crate::publish::presence::Presence;

/// What a replica said last holds for so long after its stream broke: its clients run on, and are about to
/// appear elsewhere. The same time as for a client that lost its stream.
const REMEMBERED: Duration = Duration::from_secs(30);

/// After so long a client has told its new replica everything, and the records of its old stream are void.
const RESUMED: Duration = Duration::from_secs(2);

/// The sums about one object, and who is missing in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The sums.
    pub rollout: Rollout,
    /// A client that has not answered yet.
    pub waiting: Option<Arc<str>>,
    /// The clients that use all endpoints of a Service port because too few are left, with its name.
    pub panicking: BTreeMap<Arc<str>, Arc<str>>,
    /// Replicas whose report is needed.
    pub replicas: usize,
    /// Those that have not reported this generation.
    pub behind: Vec<Arc<str>>,
}

/// What all replicas say.
#[derive(Debug)]
pub struct Records {
    own: Arc<str>,
    connections: u64,
    replicas: BTreeMap<Arc<str>, Replica>,
    /// Clients of running pods that no replica has any more, with the objects that they had a part in.
    forsaken: BTreeMap<Arc<str>, Forsaken>,
    /// The highest number of each client's streams, since when it is known, and whether it still is news.
    latest: HashMap<Arc<str>, Latest>,
    touched: BTreeSet<ObjectRef>,
}

#[derive(Debug, Default)]
struct Replica {
    /// What counts.
    said: Arc<Said>,
    /// Whether it has said everything once.
    complete: bool,
    /// The batch that is not complete.
    batch: Option<Said>,
    connection: u64,
    /// Since when it is not connected.
    lost: Option<Instant>,
}

#[derive(Debug)]
struct Forsaken {
    stream: Option<u64>,
    objects: BTreeSet<ObjectRef>,
}

#[derive(Debug)]
struct Latest {
    stream: u64,
    since: Instant,
    fresh: bool,
}

/// One record of a client about an object; the greatest is the one that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    stream: Option<u64>,
    open: bool,
    state: ClientState,
}

impl Records {
    /// The records of the replica of that name; of others nothing is known yet.
    #[must_use]
    pub fn new(own: Arc<str>) -> Self {
        let replicas = BTreeMap::from([(own.clone(), Replica::default())]);
        Self {
            own,
            connections: 0,
            replicas,
            forsaken: BTreeMap::new(),
            latest: HashMap::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Forgets what others said: this replica no longer puts it together, or begins to.
    pub fn start_over(&mut self, now: Instant) {
        let own = self.replicas.remove(&self.own).unwrap_or_default();
        *self = Self { connections: self.connections, ..Self::new(self.own.clone()) };
        for (node, client) in &*own.said.clients {
            self.appeared(node, *client, now);
        }
        self.replicas.insert(self.own.clone(), own);
    }

    /// What this replica says itself.
    pub fn own(&mut self, said: Said, presence: &Presence, now: Instant) {
        let own = self.own.clone();
        self.replace(&own, said, presence, now);
    }

    /// A replica begins to report. What it said before holds until it has said everything again.
    pub fn connect(&mut self, replica: &Arc<str>) -> u64 {
        self.connections += 1;
        let known = self.replicas.entry(replica.clone()).or_default();
        known.connection = self.connections;
        known.batch = Some(Said::default());
        self.connections
    }

    /// A replica goes on to report. What it says on a connection that is no longer its latest is void.
    pub fn update(
        &mut self,
        replica: &Arc<str>,
        connection: u64,
        update: Update,
        presence: &Presence,
        now: Instant,
    ) {
        let Some(known) = self.replicas.get_mut(replica).filter(|it| it.connection == connection) else {
            return;
        };
        let last = update.last;
        let mut batch = known.batch.take().unwrap_or_else(|| Said::clone(&known.said));
        batch.apply(update);
        if last {
            self.replace(replica, batch, presence, now);
        } else {
            known.batch = Some(batch);
        }
    }

    /// A replica's connection broke, or it ended.
    pub fn disconnect(&mut self, replica: &Arc<str>, connection: u64, now: Instant) {
        let Some(known) = self.replicas.get_mut(replica).filter(|it| it.connection == connection) else {
            return;
        };
        known.batch = None;
        known.lost = Some(now);
        if known.complete {
            self.touched.extend(known.said.objects.keys().cloned());
        } else {
            self.replicas.remove(replica);
        }
    }

    /// Drops what time has made void.
    pub fn expire(&mut self, presence: &Presence, now: Instant) {
        let over = |replica: &Replica| {
            // One that is just telling everything again is back.
            replica.batch.is_none() && replica.lost.is_some_and(|lost| now.duration_since(lost) >= REMEMBERED)
        };
        let gone: Vec<Arc<str>> =
            self.replicas.iter().filter(|(_, it)| over(it)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            tracing::info!(replica = %name, "replica is gone");
            self.replace(&name, Said::default(), presence, now);
            self.replicas.remove(&name);
        }
        let left: Vec<Arc<str>> =
            self.forsaken.keys().filter(|node| !presence.is_running(node)).cloned().collect();
        left.iter().for_each(|node| self.forget(node));
        let mut settled: BTreeSet<Arc<str>> = BTreeSet::new();
        for (node, latest) in &mut self.latest {
            if latest.fresh && now.duration_since(latest.since) >= RESUMED {
                latest.fresh = false;
                settled.insert(node.clone());
            }
        }
        if settled.is_empty() {
            return;
        }
        for replica in self.replicas.values() {
            for (object, report) in &replica.said.objects {
                if report.clients.keys().any(|node| settled.contains(node)) {
                    self.touched.insert(object.clone());
                }
            }
        }
        let found = |node: &Arc<str>| {
            let (latest, forsaken) = (self.latest.get(node), self.forsaken.get(node));
            latest.zip(forsaken).is_some_and(|(latest, forsaken)| Some(latest.stream) >= forsaken.stream)
        };
        settled.retain(found);
        settled.iter().for_each(|node| self.forget(node));
    }

    /// A pod is gone, and its sidecar with it: nobody waits for it.
    pub fn dismiss(&mut self, node: &str) {
        self.forget(node);
        // Replicas that are there see for themselves that the pod is gone.
        for replica in self.replicas.values_mut().filter(|replica| replica.lost.is_some()) {
            if !replica.said.clients.contains_key(node) {
                continue;
            }
            let said = Arc::make_mut(&mut replica.said);
            Arc::make_mut(&mut said.clients).remove(node);
            for (object, report) in &mut said.objects {
                if report.clients.contains_key(node) {
                    Arc::make_mut(report).clients.remove(node);
                    self.touched.insert(object.clone());
                }
            }
        }
    }

    /// The objects about which something changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.touched)
    }

    /// The replicas whose word is needed: those that are ready for clients, and those that report.
    #[must_use]
    pub fn needed(&self, presence: &Presence) -> BTreeSet<Arc<str>> {
        let mut needed = presence.replicas();
        let report = |replica: &Replica| replica.complete && replica.lost.is_none();
        needed.extend(self.replicas.iter().filter(|(_, it)| report(it)).map(|(name, _)| name.clone()));
        needed.insert(self.own.clone());
        needed
    }

    /// The clients that have a stream at a replica.
    #[must_use]
    pub fn connected(&self) -> BTreeSet<Arc<str>> {
        let clients = self.replicas.values().flat_map(|replica| &*replica.said.clients);
        clients.filter(|(_, client)| client.open).map(|(node, _)| node.clone()).collect()
    }

    /// Whether a needed replica has not said everything once.
    #[must_use]
    pub fn is_partial(&self, presence: &Presence) -> bool {
        let complete = |name| self.replicas.get(name).is_some_and(|replica| replica.complete);
        self.needed(presence).iter().any(|name| !complete(name))
    }

    /// The sums about an object in this edition, of what this replica and those in `needed` say.
    #[must_use]
    pub fn tally(&self, object: &ObjectRef, edition: &Edition, needed: &BTreeSet<Arc<str>>) -> Tally {
        let mut behind = needed.clone();
        let mut records: BTreeMap<&Arc<str>, Vec<Record>> = BTreeMap::new();
        for (name, replica) in &self.replicas {
            let Some(report) = replica.said.objects.get(object) else { continue };
            let current = report.edition == *edition;
            if current {
                behind.remove(name);
            }
            for (node, state) in &report.clients {
                let client = replica.said.clients.get(node);
                let state = if current { state.clone() } else { ClientState::Pending };
                let open = replica.lost.is_none() && client.is_some_and(|client| client.open);
                let stream = client.and_then(|client| client.stream);
                records.entry(node).or_default().push(Record { stream, open, state });
            }
        }
        for (node, forsaken) in self.forsaken.iter().filter(|(_, it)| it.objects.contains(object)) {
            let record = Record { stream: forsaken.stream, open: false, state: ClientState::Pending };
            records.entry(node).or_default().push(record);
        }
        let counted = records.into_iter().filter_map(|(node, records)| {
            let record = records.into_iter().filter(|record| !self.is_void(node, record)).max()?;
            Some((node, record.state))
        });
        let behind: Vec<Arc<str>> = behind.into_iter().collect();
        Tally { replicas: needed.len(), behind, ..Tally::of(edition.generation, counted) }
    }

    /// Waits no longer for a client that nobody has.
    fn forget(&mut self, node: &str) {
        if let Some(forsaken) = self.forsaken.remove(node) {
            self.touched.extend(forsaken.objects);
        }
    }

    /// Whether a later stream of the client has said everything.
    fn is_void(&self, node: &Arc<str>, record: &Record) -> bool {
        let latest = self.latest.get(node).filter(|latest| !latest.fresh);
        latest.is_some_and(|latest| record.stream.is_some_and(|stream| stream < latest.stream))
    }

    /// What a replica says now counts in place of what it said.
    fn replace(&mut self, name: &Arc<str>, said: Said, presence: &Presence, now: Instant) {
        let replica = self.replicas.entry(name.clone()).or_default();
        replica.complete = true;
        replica.batch = None;
        replica.lost = None;
        let said = Arc::new(said);
        let before = std::mem::replace(&mut replica.said, said.clone());
        self.touched.extend(said.differences(&before));
        if Arc::ptr_eq(&said.clients, &before.clients) {
            return;
        }
        for (node, client) in &*said.clients {
            if before.clients.get(node) != Some(client) {
                self.appeared(node, *client, now);
            }
        }
        for (node, client) in &*before.clients {
            if !said.clients.contains_key(node) {
                self.vanished(node, *client, &before, presence);
            }
        }
    }

    fn appeared(&mut self, node: &Arc<str>, client: Client, now: Instant) {
        if let Some(stream) = client.stream
            && self.latest.get(node).is_none_or(|latest| latest.stream < stream)
        {
            self.latest.insert(node.clone(), Latest { stream, since: now, fresh: true });
        }
    }

    /// No replica may have the client any more; while its pod runs, so does the sidecar.
    fn vanished(&mut self, node: &Arc<str>, client: Client, said: &Said, presence: &Presence) {
        let elsewhere = self.replicas.values().filter_map(|replica| replica.said.clients.get(node));
        let later = elsewhere.map(|it| it.stream).max();
        if later.is_none() {
            self.latest.remove(node);
        }
        if client.stream.is_none() || later >= Some(client.stream) || !presence.is_running(node) {
            return;
        }
        let objects = said.objects.iter().filter(|(_, report)| report.clients.contains_key(node));
        let objects: BTreeSet<ObjectRef> = objects.map(|(object, _)| object.clone()).collect();
        if self.forsaken.get(node).is_some_and(|known| known.stream > client.stream) {
            return;
        }
        self.touched.extend(objects.iter().cloned());
        self.forsaken.insert(node.clone(), Forsaken { stream: client.stream, objects });
    }
}

impl Tally {
    /// Counts clients.
    pub(super) fn of<'a>(
        generation: i64,
        clients: impl Iterator<Item = (&'a Arc<str>, ClientState)>,
    ) -> Self {
        let mut tally = Self { rollout: Rollout { generation, ..Rollout::default() }, ..Self::default() };
        let rollout = &mut tally.rollout;
        for (node, state) in clients {
            rollout.subscribed += 1;
            match state {
                ClientState::Acked => rollout.acked += 1,
                ClientState::Panicking(port) => {
                    rollout.acked += 1;
                    tally.panicking.insert(node.clone(), port);
                }
                ClientState::Pending => {
                    rollout.pending += 1;
                    tally.waiting.get_or_insert_with(|| node.clone());
                }
                ClientState::Nacked(message) => {
                    rollout.nacked += 1;
                    let error = || LastError { client: node.to_string(), message: message.to_string() };
                    rollout.last_error.get_or_insert_with(error);
                }
            }
        }
        tally
    }
}

#[cfg(test)]
mod tests;
