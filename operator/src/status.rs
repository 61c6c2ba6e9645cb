//! What becomes of the objects: conditions, and who runs them. The same for every source; where
//! there is an API server the status is written to it, at `/objects` it is always to be seen.
//!
//! ```text
//! Published (problems) ──┐
//!                        ├─ report (who runs it) ─ conditions ──> Board ──> /objects
//! Registry (acks, nacks)─┘                                          └─ plan ──> writer ──> API server
//! ```

pub mod write;

pub mod plan;

pub mod conditions;

pub mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fairlead_crds::Status;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::{Metrics, ObjectLabel};
use crate::model::ObjectRef;
use crate::publish::Published;
use crate::xds::hub::Hub;
use crate::xds::snapshot::{ResourceName, Snapshot};

/// Streams that answer at the same time are counted together.
const TOGETHER: Duration = Duration::from_millis(20);
/// Clients that were lost are forgotten, and objects whose endpoints moved are counted anew, with
/// this delay.
const TICK: Duration = Duration::from_secs(1);

/// The statuses as they are now.
#[derive(Debug, Default)]
pub struct Board {
    statuses: RwLock<Arc<BTreeMap<ObjectRef, Status>>>,
}

impl Board {
    /// All statuses.
    #[must_use]
    pub fn statuses(&self) -> Arc<BTreeMap<ObjectRef, Status>> {
        self.statuses.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, statuses: BTreeMap<ObjectRef, Status>) {
        *self.statuses.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(statuses);
    }
}

/// Keeps the statuses true.
#[derive(Debug)]
pub struct Keeper {
    replica: Arc<str>,
    hub: Arc<Hub>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    statuses: BTreeMap<ObjectRef, Status>,
    contributions: BTreeMap<ObjectRef, Vec<ResourceName>>,
    /// Which objects a resource is made of.
    made_of: HashMap<ResourceName, Vec<ObjectRef>>,
    edition: u64,
    /// When the index was made, and of what.
    indexed: Option<(Instant, Arc<Snapshot>)>,
}

impl Keeper {
    /// A keeper that knows nothing yet.
    #[must_use]
    pub fn new(replica: &str, hub: Arc<Hub>, board: Arc<Board>, metrics: Arc<Metrics>) -> Self {
        Self {
            replica: replica.into(),
            hub,
            board,
            metrics,
            statuses: BTreeMap::new(),
            contributions: BTreeMap::new(),
            made_of: HashMap::new(),
            edition: 0,
            indexed: None,
        }
    }

    /// Keeps the statuses until nothing is published any more. `changed` hears of every change.
    pub async fn run(mut self, mut published: watch::Receiver<Published>, changed: watch::Sender<()>) {
        loop {
            let now = published.borrow_and_update().clone();
            if self.update(&now, Instant::now(), Timestamp::now()) {
                self.board.put(self.statuses.clone());
                self.count();
                changed.send_replace(());
            }
            tokio::time::sleep(TOGETHER).await;
            tokio::select! {
                () = self.hub.moves() => {}
                () = tokio::time::sleep(TICK) => {}
                alive = published.changed() => if alive.is_err() { return },
            }
        }
    }

    /// Counts anew what may have changed. True: something did.
    fn update(&mut self, published: &Published, now: Instant, wall: Timestamp) -> bool {
        let touched = {
            let mut registry = self.hub.registry();
            registry.expire(now);
            registry.take_touched()
        };
        let other_edition = self.edition != published.edition;
        let endpoints_moved = self.indexed.as_ref().is_none_or(|(indexed, of)| {
            !Arc::ptr_eq(of, &published.snapshot) && now.duration_since(*indexed) >= TICK
        });
        let mut objects: BTreeSet<ObjectRef> = BTreeSet::new();
        if other_edition || endpoints_moved {
            self.index(published);
            self.edition = published.edition;
            self.indexed = Some((now, published.snapshot.clone()));
            objects.extend(published.declared.keys().cloned());
        } else {
            objects.extend(touched.iter().filter_map(|name| self.made_of.get(name)).flatten().cloned());
        }
        let known = self.statuses.len();
        self.statuses.retain(|object, _| published.declared.contains_key(object));
        let mut changed = self.statuses.len() != known;
        for object in objects {
            changed |= self.judge(published, &object, wall);
        }
        changed
    }

    fn judge(&mut self, published: &Published, object: &ObjectRef, wall: Timestamp) -> bool {
        let Some(declared) = published.declared.get(object) else { return false };
        let contributions = self.contributions.get(object).map_or(&[][..], Vec::as_slice);
        let report = report::report(
            &self.replica,
            object,
            declared.generation,
            contributions,
            &published.snapshot,
            &self.hub.registry(),
        );
        let problems = published.problems.get(object).map_or(&[][..], Vec::as_slice);
        let previous = self.statuses.get(object).unwrap_or(&declared.status);
        let status = conditions::status(declared, problems, &[report], 1, previous, wall);
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

/// The word as a label: one of a fixed set.
fn fixed(word: &str) -> &'static str {
    const WORDS: [&str; 7] =
        ["Accepted", "ResolvedRefs", "Conflicted", "Programmed", "True", "False", "Unknown"];
    WORDS.into_iter().find(|known| *known == word).unwrap_or("other")
}

#[cfg(test)]
mod tests;
