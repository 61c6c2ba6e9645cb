//! Who is connected, who wants which resource, and what each client said to it.
//!
//! The index by name is what makes a push cost what it should: a changed name leads straight to
//! the streams that want it. The answers beside it are what `Programmed` is counted from.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::session::{Change, Protocol, wildcard_covers};
use super::snapshot::{ResourceKind, ResourceName};
use super::view::is_own;

/// How long a client that vanished without a word still counts as one that has to take changes: it
/// very likely still runs, on its last config, and reconnects within this time.
const REMEMBERED: Duration = Duration::from_secs(30);

/// A client that is back has asked for everything again within this time. Until then its lost stream speaks for
/// what it has not asked for yet, so that nothing seems to have no subscriber in between.
const RESUMED: Duration = Duration::from_secs(1);

/// A stream's number: later streams have higher ones.
pub type StreamId = u64;

/// All streams, with an index by resource name.
#[derive(Debug, Default)]
pub struct Registry {
    latest: StreamId,
    /// Counts streams that came, were named, were lost or went.
    movements: u64,
    streams: BTreeMap<StreamId, Stream>,
    wanted: HashMap<ResourceKind, Wanted>,
    touched: HashSet<ResourceName>,
}

/// Who wants what of one type.
#[derive(Debug, Default)]
struct Wanted {
    names: HashMap<Arc<str>, HashMap<StreamId, Answer>>,
    wildcard: HashSet<StreamId>,
}

/// What one client said about one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The version that it runs; the inner `None`: it knows that there is none.
    pub acked: Option<Option<Arc<str>>>,
    /// The version that it refused last, and why. Rare, and there is an answer a stream and resource: boxed.
    pub nacked: Option<Box<Refused>>,
}

/// The version that a client refused, and why.
pub type Refused = (Option<Arc<str>>, Arc<str>);

/// One stream, open or lately lost.
#[derive(Clone, Debug)]
pub struct Stream {
    /// `node.id`; empty until the first request.
    pub node: Arc<str>,
    /// The client's own number of the stream: higher than that of every earlier one, on whichever replica.
    pub number: Option<u64>,
    /// When the first request said whose stream it is.
    named: Option<Instant>,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// `NAMESPACE/POD`, where the client has proved it.
    pub pod: Option<Arc<str>>,
    /// Which protocol it speaks.
    pub protocol: Protocol,
    /// When it was lost; `None` while it is open.
    pub lost: Option<Instant>,
    /// The clusters of which it uses all endpoints, because too few are left.
    pub panicking: Arc<[Arc<str>]>,
    /// Its pod went to work before we had answered.
    pub started_without_config: bool,
    /// What it wants by name, or was sent.
    names: BTreeSet<ResourceName>,
    mailbox: Arc<Mailbox>,
}

/// What changed and the stream has not looked at yet.
#[derive(Debug, Default)]
pub struct Mailbox {
    changed: Mutex<HashSet<ResourceName>>,
    bell: Notify,
}

impl Mailbox {
    fn deliver(&self, name: ResourceName) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        self.bell.notify_one();
    }

    /// Takes what has come.
    pub fn take(&self) -> HashSet<ResourceName> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something has come.
    pub async fn rings(&self) {
        self.bell.notified().await;
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client closed it, or was refused: it is gone.
    Closed,
    /// The connection broke: the client is probably coming back.
    Lost,
}

impl Registry {
    /// Streams that are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.values().filter(|stream| stream.lost.is_none()).count()
    }

    /// Notes a new stream.
    pub fn open(
        &mut self,
        protocol: Protocol,
        peer: Option<SocketAddr>,
        pod: Option<Arc<str>>,
    ) -> (StreamId, Arc<Mailbox>) {
        self.latest += 1;
        let mailbox = Arc::new(Mailbox::default());
        let stream = Stream {
            node: "".into(),
            number: None,
            named: None,
            peer,
            pod,
            protocol,
            lost: None,
            panicking: Arc::default(),
            started_without_config: false,
            names: BTreeSet::new(),
            mailbox: mailbox.clone(),
        };
        self.streams.insert(self.latest, stream);
        (self.latest, mailbox)
    }

    /// Notes the stream's client, and the client's own number of the stream.
    pub fn name(&mut self, id: StreamId, node: &Arc<str>, number: Option<u64>, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.node.clone_from(node);
        stream.number = number;
        stream.named = Some(now);
        self.movements += 1;
    }

    /// Notes that a stream has ended.
    pub fn close(&mut self, id: StreamId, ending: Ending, now: Instant) {
        match (ending, self.streams.get_mut(&id)) {
            (Ending::Lost, Some(stream)) if !stream.node.is_empty() => {
                stream.lost = Some(now);
                self.movements += 1;
                self.touch_all(id);
            }
            _ => self.forget(id),
        }
    }

    /// Forgets who was lost long ago, and lost streams of clients that are back.
    pub fn expire(&mut self, now: Instant) {
        let lost: HashSet<&str> =
            self.streams.values().filter(|it| it.lost.is_some()).map(|it| &*it.node).collect();
        if lost.is_empty() {
            return;
        }
        let mut back: HashMap<&str, StreamId> = HashMap::new();
        for (id, stream) in &self.streams {
            let resumed = stream.named.is_some_and(|named| now.duration_since(named) >= RESUMED);
            if resumed && lost.contains(&*stream.node) {
                back.insert(&stream.node, *id);
            }
        }
        let over = |id: StreamId, stream: &Stream| {
            stream.lost.is_some_and(|lost| {
                now.duration_since(lost) >= REMEMBERED
                    || back.get(&*stream.node).is_some_and(|later| *later > id)
            })
        };
        let old: Vec<StreamId> =
            self.streams.iter().filter(|(id, stream)| over(**id, stream)).map(|(id, _)| *id).collect();
        old.into_iter().for_each(|id| self.forget(id));
    }

    /// Forgets the lost streams of a client that is not coming back.
    pub fn dismiss(&mut self, node: &str) {
        let gone = |stream: &Stream| stream.lost.is_some() && *stream.node == *node;
        let ids: Vec<StreamId> =
            self.streams.iter().filter(|(_, stream)| gone(stream)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.forget(id));
    }

    /// Differs from what it was when a stream has come, was named, was lost or has gone.
    #[must_use]
    pub fn movements(&self) -> u64 {
        self.movements
    }

    /// The open streams of this pod, by the identity that it proved.
    #[must_use]
    pub fn streams_of(&self, pod: &str) -> usize {
        let mine = |stream: &&Stream| stream.lost.is_none() && stream.pod.as_deref() == Some(pod);
        self.streams.values().filter(mine).count()
    }

    /// Lets the streams of this pod look again at the listeners that only it may have.
    pub fn look_again(&mut self, pod: &str) {
        for stream in self.streams.values().filter(|stream| stream.pod.as_deref() == Some(pod)) {
            let own = stream.names.iter().filter(|(kind, name)| is_own(*kind, name));
            own.for_each(|name| stream.mailbox.deliver(name.clone()));
        }
    }

    /// Takes over what happened on a stream.
    pub fn apply(&mut self, id: StreamId, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Subscribed(kind, name) => {
                    self.answer(id, kind, &name);
                }
                Change::Forgotten(kind, name) => {
                    self.unwant(id, kind, &name);
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.names.remove(&(kind, name.clone()));
                    }
                    self.touched.insert((kind, name));
                }
                Change::Wildcard(kind, true) => {
                    self.wanted.entry(kind).or_default().wildcard.insert(id);
                }
                Change::Wildcard(kind, false) => {
                    self.wanted.entry(kind).or_default().wildcard.remove(&id);
                }
                Change::Acked(kind, name, version) => {
                    *self.answer(id, kind, &name) = Answer { acked: Some(version), nacked: None };
                }
                Change::Nacked(kind, name, version, message) => {
                    self.answer(id, kind, &name).nacked = Some(Box::new((version, message)));
                }
                Change::StartedWithoutConfig => {
                    let Some(stream) = self.streams.get_mut(&id) else { continue };
                    stream.started_without_config = true;
                }
                Change::Panicking(clusters) => {
                    let Some(stream) = self.streams.get_mut(&id) else { continue };
                    let before = std::mem::replace(&mut stream.panicking, clusters.clone());
                    let both = before.iter().chain(clusters.iter());
                    self.touched.extend(both.map(|name| (ResourceKind::Cluster, name.clone())));
                }
            }
        }
    }

    /// Tells the streams that want it that a resource changed.
    pub fn publish(&mut self, changed: impl IntoIterator<Item = ResourceName>) {
        for (kind, name) in changed {
            if let Some(wanted) = self.wanted.get(&kind) {
                let by_name = wanted.names.get(&name).into_iter().flat_map(HashMap::keys);
                for id in by_name.chain(&wanted.wildcard) {
                    if let Some(stream) = self.streams.get(id).filter(|stream| stream.lost.is_none()) {
                        stream.mailbox.deliver((kind, name.clone()));
                    }
                }
            }
            self.touched.insert((kind, name));
        }
    }

    /// The names about which something changed since the last call.
    pub fn take_touched(&mut self) -> HashSet<ResourceName> {
        std::mem::take(&mut self.touched)
    }

    /// Who wants this resource, with what each said: one entry a client, by its latest stream.
    #[must_use]
    pub fn subscribers(&self, kind: ResourceKind, name: &str) -> Vec<Subscriber<'_>> {
        let Some(wanted) = self.wanted.get(&kind) else { return Vec::new() };
        let mut ids: Vec<StreamId> =
            wanted.names.get(name).into_iter().flat_map(HashMap::keys).copied().collect();
        if !wanted.wildcard.is_empty() && wildcard_covers(kind, name) {
            ids.extend(&wanted.wildcard);
        }
        ids.sort_unstable();
        ids.dedup();
        let mut latest: BTreeMap<&str, Subscriber<'_>> = BTreeMap::new();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else { continue };
            let answer = wanted.names.get(name).and_then(|streams| streams.get(&id));
            // Those without a number, and those of equal ones, are in the order of their arrival.
            if latest.get(&*stream.node).is_none_or(|known| known.stream.number <= stream.number) {
                latest.insert(&stream.node, Subscriber { id, stream, answer });
            }
        }
        latest.into_values().collect()
    }

    /// All streams, in the order in which they were opened.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.streams.iter().map(|(id, stream)| (*id, stream))
    }

    /// What a stream wants by name, or was sent, with what it said.
    pub fn answers(&self, id: StreamId) -> impl Iterator<Item = (&ResourceName, &Answer)> {
        let names = self.streams.get(&id).into_iter().flat_map(|stream| &stream.names);
        names.filter_map(move |name| Some((name, self.wanted.get(&name.0)?.names.get(&name.1)?.get(&id)?)))
    }

    /// The types of which a stream wants everything.
    pub fn wildcards(&self, id: StreamId) -> impl Iterator<Item = ResourceKind> {
        self.wanted.iter().filter(move |(_, wanted)| wanted.wildcard.contains(&id)).map(|(kind, _)| *kind)
    }

    fn answer(&mut self, id: StreamId, kind: ResourceKind, name: &Arc<str>) -> &mut Answer {
        self.touched.insert((kind, name.clone()));
        let names = &mut self.wanted.entry(kind).or_default().names;
        names.entry(name.clone()).or_default().entry(id).or_insert_with(|| {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.names.insert((kind, name.clone()));
            }
            Answer::default()
        })
    }

    fn unwant(&mut self, id: StreamId, kind: ResourceKind, name: &str) {
        let names = &mut self.wanted.entry(kind).or_default().names;
        if let Some(streams) = names.get_mut(name) {
            streams.remove(&id);
            if streams.is_empty() {
                names.remove(name);
            }
        }
    }

    fn forget(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.movements += 1;
        for (kind, name) in stream.names {
            self.unwant(id, kind, &name);
            self.touched.insert((kind, name));
        }
        for wanted in self.wanted.values_mut() {
            wanted.wildcard.remove(&id);
        }
    }

    fn touch_all(&mut self, id: StreamId) {
        let names = self.streams.get(&id).into_iter().flat_map(|stream| &stream.names);
        self.touched.extend(names.cloned());
    }
}

/// A client that wants a resource.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    /// Its latest stream.
    pub id: StreamId,
    /// That stream.
    pub stream: &'a Stream,
    /// What it said; `None`: nothing yet.
    pub answer: Option<&'a Answer>,
}

impl Subscriber<'_> {
    /// Whether it uses all endpoints of this cluster, because too few are left. One that has lost its stream
    /// may have recovered since.
    #[must_use]
    pub fn panics(&self, cluster: &str) -> bool {
        self.stream.lost.is_none() && self.stream.panicking.iter().any(|name| **name == *cluster)
    }
}

#[cfg(test)]
mod tests;
