//! Where what is published meets who listens: the current snapshot and the registry of streams.
//!
//! A stream first notes in the registry what it wants and then looks at the snapshot; a
//! publication first replaces the snapshot and then looks into the registry. Whichever comes
//! second sees the other, so no change is missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use super::registry::Registry;
use super::snapshot::Snapshot;
use crate::model::{ObjectKey, Pod};

/// The current snapshot and its readers.
#[derive(Debug)]
pub struct Hub {
    snapshot: RwLock<Arc<Snapshot>>,
    registry: Mutex<Registry>,
    moved: Notify,
    /// Whose address is whose: what an identified client may ask for depends on it.
    pods: RwLock<HashMap<ObjectKey, Arc<Pod>>>,
}

impl Hub {
    /// A hub that serves this snapshot.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot: RwLock::new(snapshot),
            registry: Mutex::default(),
            moved: Notify::new(),
            pods: RwLock::default(),
        }
    }

    /// What is served now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves this snapshot from now on, and wakes the streams that want what changed in it. Gives
    /// the number of resources that changed.
    pub fn publish(&self, snapshot: &Arc<Snapshot>) -> usize {
        let previous = {
            let mut current = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, snapshot.clone())
        };
        let changed = snapshot.changed(&previous);
        let count = changed.len();
        self.registry().publish(changed);
        self.moved.notify_one();
        count
    }

    /// The Pod of that name, as far as it is known.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<Arc<Pod>> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Takes over what a Pod is now. Its own streams look again when its addresses changed.
    pub fn pod_changed(&self, key: &ObjectKey, pod: Option<&Arc<Pod>>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        let before = match pod {
            Some(pod) => pods.insert(key.clone(), pod.clone()),
            None => pods.remove(key),
        };
        drop(pods);
        let whose = |pod: &Arc<Pod>| (pod.uid.clone(), pod.addresses.clone());
        if before.as_ref().map(whose) != pod.map(whose) {
            self.registry().look_again(&key.to_string());
        }
    }

    /// The registry of streams; held for as short as possible, never across an await.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a stream opened, closed or answered.
    pub fn notify(&self) {
        self.moved.notify_one();
    }

    /// Waits until something was published, or a stream moved. For one waiter: status.
    pub async fn moves(&self) {
        self.moved.notified().await;
    }
}
