//! Who runs an object, as one replica knows it: counted from what the clients themselves said, a record a
//! client and never a sum, so that the records of several replicas can be put together.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::xds::registry::{Registry, Subscriber};
use crate::xds::snapshot::{ResourceKind, ResourceName, Snapshot};

/// Which state of an object is meant: one that was deleted and made anew starts again at generation 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edition {
    /// `metadata.uid`; empty where there is none.
    pub uid: Arc<str>,
    /// `metadata.generation`.
    pub generation: i64,
}

/// What one replica knows about one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What this replica serves.
    pub edition: Edition,
    /// The clients, by node id, that want something that the object contributes to.
    pub clients: BTreeMap<Arc<str>, ClientState>,
}

/// How far a client is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientState {
    /// It runs the current version of everything that the object contributes to.
    Acked,
    /// It does, and uses all endpoints of this Service port, because too few are left.
    Panicking(Arc<str>),
    /// Something is under way to it, or it has lost its stream since something changed.
    Pending,
    /// It refused something.
    Nacked(Arc<str>),
}

/// Asks the registry who runs what the object contributes to, as it is in this snapshot.
#[must_use]
pub fn report(
    edition: Edition,
    contributions: &[ResourceName],
    snapshot: &Snapshot,
    registry: &Registry,
) -> Report {
    let mut clients: BTreeMap<Arc<str>, ClientState> = BTreeMap::new();
    for (kind, name) in contributions {
        let subscribers = registry.subscribers(*kind, name);
        if subscribers.is_empty() {
            continue; // Nobody asked, so it need not even be encoded.
        }
        let current = snapshot.get(*kind, name).map(|resource| resource.version.clone());
        for subscriber in subscribers {
            let state = match state(&subscriber, current.as_ref()) {
                ClientState::Acked if *kind == ResourceKind::Cluster && subscriber.panics(name) => {
                    ClientState::Panicking(name.clone())
                }
                state => state,
            };
            let known = clients.entry(subscriber.stream.node.clone()).or_insert(ClientState::Acked);
            if *known < state {
                *known = state;
            }
        }
    }
    Report { edition, clients }
}

/// The last acked version (or the one that the client came with) is the current one, or not.
fn state(subscriber: &Subscriber<'_>, current: Option<&Arc<str>>) -> ClientState {
    let Some(answer) = subscriber.answer else { return ClientState::Pending };
    match (answer.nacked.as_deref(), &answer.acked) {
        (Some((version, message)), _) if version.as_ref() == current => ClientState::Nacked(message.clone()),
        (_, Some(version)) if version.as_ref() == current => ClientState::Acked,
        _ => ClientState::Pending,
    }
}
