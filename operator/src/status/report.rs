//! Who runs an object: counted from what the clients themselves said, a record a client and never
//! a sum, so that records of several replicas can be put together.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairlead_crds::{LastError, Rollout};

use crate::model::ObjectRef;
use crate::xds::registry::{Registry, Subscriber};
use crate::xds::snapshot::{ResourceName, Snapshot};

/// What one replica knows about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose report it is.
    pub replica: Arc<str>,
    /// What it is about.
    pub object: ObjectRef,
    /// The generation that this replica serves.
    pub generation: i64,
    /// The clients that want something that the object contributes to.
    pub clients: Vec<ClientReport>,
}

/// What one client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientReport {
    /// Its node id.
    pub client: Arc<str>,
    /// What it said.
    pub state: ClientState,
}

/// How far a client is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientState {
    /// It runs the current version of everything that the object contributes to.
    Acked,
    /// Something is under way to it, or it has lost its stream since something changed.
    Pending,
    /// It refused something.
    Nacked(Arc<str>),
}

/// Asks the registry who runs what the object contributes to, as it is in this snapshot.
#[must_use]
pub fn report(
    replica: &Arc<str>,
    object: &ObjectRef,
    generation: i64,
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
            let state = state(&subscriber, current.as_ref());
            let known = clients.entry(subscriber.stream.node.clone()).or_insert(ClientState::Acked);
            if *known < state {
                *known = state;
            }
        }
    }
    let clients = clients.into_iter().map(|(client, state)| ClientReport { client, state }).collect();
    Report { replica: replica.clone(), object: object.clone(), generation, clients }
}

/// The last acked version (or the one that the client came with) is the current one, or not.
fn state(subscriber: &Subscriber<'_>, current: Option<&Arc<str>>) -> ClientState {
    let Some(answer) = subscriber.answer else { return ClientState::Pending };
    match (&answer.nacked, &answer.acked) {
        (Some((version, message)), _) if version.as_ref() == current => ClientState::Nacked(message.clone()),
        (_, Some(version)) if version.as_ref() == current => ClientState::Acked,
        _ => ClientState::Pending,
    }
}

/// The sums of the reports of all replicas about one object. A client that moved from one replica
/// to another counts once, by what it said last... which for now is to its only replica.
#[must_use]
pub fn rollout(generation: i64, reports: &[Report]) -> Rollout {
    let mut clients: BTreeMap<&str, &ClientState> = BTreeMap::new();
    for client in reports.iter().flat_map(|report| &report.clients) {
        clients.insert(&client.client, &client.state);
    }
    let count = |wanted: fn(&ClientState) -> bool| {
        u32::try_from(clients.values().filter(|state| wanted(state)).count()).unwrap_or(u32::MAX)
    };
    let last_error = clients.iter().find_map(|(client, state)| match state {
        ClientState::Nacked(message) => {
            Some(LastError { client: (*client).to_owned(), message: message.to_string() })
        }
        ClientState::Acked | ClientState::Pending => None,
    });
    Rollout {
        generation,
        subscribed: u32::try_from(clients.len()).unwrap_or(u32::MAX),
        acked: count(|state| *state == ClientState::Acked),
        nacked: count(|state| matches!(state, ClientState::Nacked(_))),
        pending: count(|state| *state == ClientState::Pending),
        last_error,
    }
}
