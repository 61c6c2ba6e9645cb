//! The messages. Fields are added, never reused: during an upgrade, replicas of two releases talk.

use prost::Message;

use crate::model::{Kind, ObjectKey, ObjectRef};
use crate::status::report::{ClientState, Edition};
use crate::status::said;

/// A piece of what is new. The first one says who speaks.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Update {
    /// The name of the replica; in the first message only.
    #[prost(string, tag = "1")]
    pub(super) replica: String,
    #[prost(message, repeated, tag = "2")]
    clients: Vec<Client>,
    #[prost(string, repeated, tag = "3")]
    gone: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    objects: Vec<Object>,
    #[prost(message, repeated, tag = "5")]
    removed: Vec<Reference>,
    #[prost(bool, tag = "6")]
    last: bool,
}

/// The answer to everything, at the end.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Thanks {}

#[derive(Clone, PartialEq, Message)]
struct Client {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(uint64, optional, tag = "2")]
    stream: Option<u64>,
    #[prost(bool, tag = "3")]
    open: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Object {
    #[prost(message, optional, tag = "1")]
    object: Option<Reference>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(int64, tag = "3")]
    generation: i64,
    #[prost(message, repeated, tag = "4")]
    clients: Vec<State>,
    #[prost(string, repeated, tag = "5")]
    gone: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Reference {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(string, tag = "1")]
    node: String,
    /// One of the constants below; another one counts as pending.
    #[prost(uint32, tag = "2")]
    state: u32,
    /// Why it refused; of one that did not, the Service port of which it uses all endpoints, if it does.
    #[prost(string, tag = "3")]
    message: String,
}

const PENDING: u32 = 0;
const ACKED: u32 = 1;
const NACKED: u32 = 2;

impl Update {
    /// As it is sent.
    pub(super) fn write(replica: String, update: said::Update) -> Self {
        let said::Update { clients, gone, objects, removed, last } = update;
        let client = |(node, client): (std::sync::Arc<str>, said::Client)| Client {
            node: node.to_string(),
            stream: client.stream,
            open: client.open,
        };
        let object = |object: said::ObjectUpdate| Object {
            object: Some(Reference::write(&object.object)),
            uid: object.edition.uid.to_string(),
            generation: object.edition.generation,
            clients: object.clients.into_iter().map(|(node, state)| State::write(&node, &state)).collect(),
            gone: object.gone.iter().map(ToString::to_string).collect(),
        };
        Self {
            replica,
            clients: clients.into_iter().map(client).collect(),
            gone: gone.iter().map(ToString::to_string).collect(),
            objects: objects.into_iter().map(object).collect(),
            removed: removed.iter().map(Reference::write).collect(),
            last,
        }
    }

    /// What it means. Objects of kinds that this release does not know are left out.
    pub(super) fn read(self) -> said::Update {
        let client = |it: Client| (it.node.into(), said::Client { stream: it.stream, open: it.open });
        let object = |it: Object| {
            Some(said::ObjectUpdate {
                object: it.object.as_ref().and_then(Reference::read)?,
                edition: Edition { uid: it.uid.into(), generation: it.generation },
                clients: it.clients.into_iter().map(State::read).collect(),
                gone: it.gone.into_iter().map(Into::into).collect(),
            })
        };
        said::Update {
            clients: self.clients.into_iter().map(client).collect(),
            gone: self.gone.into_iter().map(Into::into).collect(),
            objects: self.objects.into_iter().filter_map(object).collect(),
            removed: self.removed.iter().filter_map(Reference::read).collect(),
            last: self.last,
        }
    }
}

impl Reference {
    fn write(object: &ObjectRef) -> Self {
        Self {
            kind: object.kind.as_str().to_owned(),
            namespace: object.key.namespace.to_string(),
            name: object.key.name.to_string(),
        }
    }

    fn read(&self) -> Option<ObjectRef> {
        let kinds = [Kind::ServiceRoute, Kind::OutlierDetection, Kind::RateLimitPolicy];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == self.kind)?;
        Some(ObjectRef::new(kind, ObjectKey::new(self.namespace.as_str(), self.name.as_str())))
    }
}

impl State {
    fn write(node: &str, state: &ClientState) -> Self {
        let (state, message) = match state {
            ClientState::Pending => (PENDING, String::new()),
            ClientState::Acked => (ACKED, String::new()),
            ClientState::Panicking(port) => (ACKED, port.to_string()),
            ClientState::Nacked(message) => (NACKED, message.to_string()),
        };
        Self { node: node.to_owned(), state, message }
    }

    fn read(self) -> (std::sync::Arc<str>, ClientState) {
        let state = match self.state {
            ACKED if self.message.is_empty() => ClientState::Acked,
            ACKED => ClientState::Panicking(self.message.into()),
            NACKED => ClientState::Nacked(self.message.into()),
            _ => ClientState::Pending,
        };
        (self.node.into(), state)
    }
}
