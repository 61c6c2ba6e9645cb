//! What becomes of the objects: conditions, and who runs them. The same for every source; where
//! there is an API server the status is written to it, where there is none what is wrong is logged; at `/objects` it
//! is always to be seen.
//!
//! ```text
//! Published (problems) ───────────────────────────────────────────┐
//! Registry (acks, nacks) ─ report ─> Said ─┬─> records ─ tally ─ conditions ─> Board ──> /objects
//!                                          │      ^                              └─ plan ──> writer
//!                  a follower: exchange <──┘      └── the Lease holder: exchange, the other replicas
//! ```
//!
//! Every replica keeps a board. The holder of the Lease counts what all replicas say, and writes; a
//! follower counts its own clients only, and tells the holder of them.

pub mod write;

pub mod aloud;

pub mod plan;

pub mod exchange;

pub mod desk;

pub mod conditions;

pub mod records;

pub mod said;

pub mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fairlead_crds::Status;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use self::desk::Desk;
use self::report::Edition;
use self::said::{Client, Said};
use crate::leader::Role;
use crate::metrics::{Metrics, ObjectLabel};
use crate::model::ObjectRef;
use crate::publish::Published;
use crate::watch::Declared;
use crate::xds::hub::Hub;
use crate::xds::registry::Registry;
use crate::xds::snapshot::{ResourceName, Snapshot};

/// Streams that answer at the same time are counted together.
const TOGETHER: Duration = Duration::from_millis(20);
/// Clients that were lost are forgotten, and objects whose endpoints moved are counted anew, with
/// this delay.
const TICK: Duration = Duration::from_secs(1);
/// Clients that lost the operator are back within this time; their delays grow to a few seconds.
const RECONNECT: Duration = Duration::from_secs(10);
/// A new holder waits no longer than this for a replica that ought to report. What it writes then says that
/// the replica is behind.
const PATIENCE: Duration = Duration::from_secs(20);

/// The statuses as they are now.
#[derive(Debug, Default)]
pub struct Board {
    now: RwLock<Shown>,
}

/// What the board shows.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// All statuses.
    pub statuses: Arc<BTreeMap<ObjectRef, Status>>,
    /// Whether this replica may write them, and whose turn it is: another number, another time that it
    /// became the one that writes.
    pub tenure: Option<u64>,
}

impl Board {
    /// What it shows now.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, shown: Shown) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

/// Keeps the statuses true.
#[derive(Debug)]
pub struct Keeper {
    hub: Arc<Hub>,
    board: Arc<Board>,
    desk: Arc<Desk>,
    role: watch::Receiver<Role>,
    metrics: Arc<Metrics>,
    statuses: BTreeMap<ObjectRef, Status>,
    contributions: BTreeMap<ObjectRef, Vec<ResourceName>>,
    /// Which objects a resource is made of.
    made_of: HashMap<ResourceName, Vec<ObjectRef>>,
    edition: u64,
    /// When the index was made, and of what.
    indexed: Option<(Instant, Arc<Snapshot>)>,
    /// What this replica says itself.
    said: Said,
    /// The registry's streams when their list was made.
    movements: Option<u64>,
    /// The replicas whose word is needed.
    needed: BTreeSet<Arc<str>>,
    tenure: Tenure,
}

/// A time as the one that writes.
#[derive(Debug, Default)]
struct Tenure {
    number: u64,
    /// Since when; none: another replica is the one.
    since: Option<Instant>,
    /// Whether everybody who was there before has had the time to appear here.
    settled: bool,
}

impl Keeper {
    /// A keeper that knows nothing yet.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        board: Arc<Board>,
        desk: Arc<Desk>,
        role: watch::Receiver<Role>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            hub,
            board,
            desk,
            role,
            metrics,
            statuses: BTreeMap::new(),
            contributions: BTreeMap::new(),
            made_of: HashMap::new(),
            edition: 0,
            indexed: None,
            said: Said::default(),
            movements: None,
            needed: BTreeSet::new(),
            tenure: Tenure::default(),
        }
    }

    /// Keeps the statuses until nothing is published any more. `changed` hears of every change of the
    /// board, `said` of what this replica itself knows of its clients.
    pub async fn run(
        mut self,
        mut published: watch::Receiver<Published>,
        changed: watch::Sender<()>,
        said: watch::Sender<Said>,
    ) {
        loop {
            let now = published.borrow_and_update().clone();
            if self.update(&now, Instant::now(), Timestamp::now()) {
                self.board
                    .put(Shown { statuses: Arc::new(self.statuses.clone()), tenure: self.tenure.writes() });
                self.count();
                changed.send_replace(());
            }
            said.send_if_modified(|said| {
                let news = *said != self.said;
                if news {
                    *said = self.said.clone();
                }
                news
            });
            tokio::time::sleep(TOGETHER).await;
            tokio::select! {
                () = self.hub.moves() => {}
                () = tokio::time::sleep(TICK) => {}
                alive = published.changed() => if alive.is_err() { return },
                // The sender ends with the process.
                Ok(()) = self.role.changed() => {}
            }
        }
    }

    /// Counts anew what may have changed. True: something did.
    fn update(&mut self, published: &Published, now: Instant, wall: Timestamp) -> bool {
        let writes = self.tenure.writes();
        let (holds, other_role) = self.take_role(now);
        let other_edition = self.speak(published, now);
        let desk = self.desk.clone();
        let (needed, touched, partial) = {
            let mut records = desk.records();
            records.own(self.said.clone(), &desk.presence, now);
            records.expire(&desk.presence, now);
            let alone = || [desk.own().clone()].into();
            let needed = if holds { records.needed(&desk.presence) } else { alone() };
            (needed, records.take_touched(), records.is_partial(&desk.presence))
        };
        self.tenure.settle(now, partial, || had_subscribers(published));
        let other_replicas = needed != self.needed;
        self.needed = needed;
        let all = other_role || other_edition || other_replicas;
        let objects = if all { published.declared.keys().cloned().collect() } else { touched };
        let known = self.statuses.len();
        self.statuses.retain(|object, _| published.declared.contains_key(object));
        let mut changed = self.statuses.len() != known || writes != self.tenure.writes();
        for object in objects {
            changed |= self.judge(published, &object, wall);
        }
        changed
    }

    /// Notes whether this replica is the one that writes, and whether that is new.
    fn take_role(&mut self, now: Instant) -> (bool, bool) {
        let holds = self.role.borrow_and_update().holds();
        let changed = holds != self.tenure.since.is_some();
        if changed {
            // What was counted so far is not of all clients, or no business of ours any more.
            self.desk.records().start_over(now);
            self.statuses.clear();
            self.tenure.begin(holds.then_some(now));
            self.metrics.holds_lease(holds);
        }
        (holds, changed)
    }

    /// Notes what the clients of this replica said. True: what is compiled is another edition.
    fn speak(&mut self, published: &Published, now: Instant) -> bool {
        let touched = {
            let mut registry = self.hub.registry();
            for pod in self.desk.presence.take_deleted() {
                registry.dismiss(&pod);
                self.desk.records().dismiss(&pod);
            }
            registry.expire(now);
            registry.take_touched()
        };
        let other_edition = self.edition != published.edition;
        let endpoints_moved = self.indexed.as_ref().is_none_or(|(indexed, of)| {
            !Arc::ptr_eq(of, &published.snapshot) && now.duration_since(*indexed) >= TICK
        });
        let mut objects: BTreeSet<ObjectRef> = BTreeSet::new();
        if other_edition || endpoints_moved {
            let before = std::mem::take(&mut self.contributions);
            self.index(published);
            self.edition = published.edition;
            self.indexed = Some((now, published.snapshot.clone()));
            let same = |object: &&ObjectRef| self.contributions.get(object) == before.get(object);
            objects
                .extend(published.declared.keys().filter(|object| other_edition || !same(object)).cloned());
        }
        objects.extend(touched.iter().filter_map(|name| self.made_of.get(name)).flatten().cloned());
        self.said.objects.retain(|object, _| published.declared.contains_key(object));
        for object in objects {
            let Some(declared) = published.declared.get(&object) else { continue };
            let contributions = self.contributions.get(&object).map_or(&[][..], Vec::as_slice);
            let (snapshot, registry) = (&published.snapshot, self.hub.registry());
            let report = report::report(edition(declared), contributions, snapshot, &registry);
            self.said.objects.insert(object, Arc::new(report));
        }
        // After the reports: who is in one of them is in the list.
        let registry = self.hub.registry();
        if self.movements != Some(registry.movements()) {
            self.movements = Some(registry.movements());
            self.said.clients = Arc::new(clients(&registry));
        }
        other_edition
    }

    fn judge(&mut self, published: &Published, object: &ObjectRef, wall: Timestamp) -> bool {
        let Some(declared) = published.declared.get(object) else { return false };
        let tally = self.desk.records().tally(object, &edition(declared), &self.needed);
        let problems = published.problems.get(object).map_or(&[][..], Vec::as_slice);
        // Before this replica has settled, what counts is what another one wrote.
        let ours = self.statuses.get(object).filter(|_| self.tenure.settled);
        let status = conditions::status(declared, problems, &tally, ours.unwrap_or(&declared.status), wall);
        if self.statuses.get(object) == Some(&status) {
            return false;
        }
        self.statuses.insert(object.clone(), status);
        true
    }

    fn index(&mut self, published: &Published) {
        self.contributions.clear();
        self.made_of.clear();
        for object in published.declared.keys() {
            let names = published.snapshot.contributions(object);
            for name in &names {
                self.made_of.entry(name.clone()).or_default().push(object.clone());
            }
            self.contributions.insert(object.clone(), names);
        }
    }

    fn count(&self) {
        let mut counts: HashMap<ObjectLabel, i64> = HashMap::new();
        for (object, status) in &self.statuses {
            for condition in &status.conditions {
                let label = ObjectLabel {
                    kind: object.kind.as_str(),
                    condition: fixed(&condition.type_),
                    status: fixed(&condition.status),
                };
                *counts.entry(label).or_default() += 1;
            }
        }
        self.metrics.objects(counts);
    }
}

impl Tenure {
    /// Begins as the one that writes, or ends.
    fn begin(&mut self, since: Option<Instant>) {
        *self = Self { number: self.number + u64::from(since.is_some()), since, settled: false };
    }

    /// Decides whether what is counted is all there is. Replicas that have not reported may have clients of
    /// their own; and where there were subscribers, some may be on their way from a replica that has ended.
    fn settle(&mut self, now: Instant, partial: bool, had_subscribers: impl FnOnce() -> bool) {
        let Some(since) = self.since.filter(|_| !self.settled) else { return };
        let time = now.duration_since(since);
        self.settled = time >= PATIENCE || (!partial && (time >= RECONNECT || !had_subscribers()));
    }

    /// The number of the time, if statuses may be written.
    fn writes(&self) -> Option<u64> {
        self.settled.then_some(self.number)
    }
}

/// Whether any object had subscribers when it was read.
fn had_subscribers(published: &Published) -> bool {
    let rollouts = published.declared.values().filter_map(|declared| declared.status.rollout.as_ref());
    rollouts.into_iter().any(|rollout| rollout.subscribed > 0)
}

/// Which state of an object is meant.
fn edition(declared: &Declared) -> Edition {
    let uid = declared.written.pointer("/metadata/uid").and_then(serde_json::Value::as_str);
    Edition { uid: uid.unwrap_or_default().into(), generation: declared.generation }
}

/// The clients by name, each by its latest stream.
fn clients(registry: &Registry) -> BTreeMap<Arc<str>, Client> {
    let mut clients: BTreeMap<Arc<str>, Client> = BTreeMap::new();
    for (_, stream) in registry.streams().filter(|(_, stream)| !stream.node.is_empty()) {
        let client = Client { stream: stream.number, open: stream.lost.is_none() };
        let known = clients.entry(stream.node.clone()).or_insert(client);
        if (known.stream, known.open) < (client.stream, client.open) {
            *known = client;
        }
    }
    clients
}

/// The word as a label: one of a fixed set.
fn fixed(word: &str) -> &'static str {
    const WORDS: [&str; 8] = [
        "Accepted",
        "ResolvedRefs",
        "Conflicted",
        "Programmed",
        "EndpointsHealthy",
        "True",
        "False",
        "Unknown",
    ];
    WORDS.into_iter().find(|known| *known == word).unwrap_or("other")
}

#[cfg(test)]
mod tests;
