//! What is asked for, acknowledged and refused: the client's side of the incremental xDS protocol, without
//! a socket and without a clock of its own.
//!
//! ```text
//! want(names) ----> subscribe / unsubscribe ----> request()
//! receive(response) --> updates of what can be used
//!                   \-> ACK, or NACK naming each resource that cannot be used ----> request()
//! opened() ----> everything asked for again, with the versions that are held
//! ```
//!
//! From the xDS protocol specification, and what we made of where it leaves a choice:
//!
//! * One response is acknowledged as a whole: with a nonce alone (ACK), or with `error_detail` (NACK). The
//!   incremental variant has no field for "these yes, those no", and its units are whole named resources.
//!   So the resources of a response that can be used are used, each that cannot keeps its last good
//!   version, and the NACK names it with the reason (gRPC does the same, gRFC A46). After a reconnect
//!   `initial_resource_versions` has only what is used, and the server sends the refused one again.
//! * A first request of a type without names would be a wildcard subscription, so nothing is sent for a
//!   type before there is a name, and what arrives for a type that was not asked for on this stream is
//!   neither used nor acknowledged.
//! * A resource that was not asked for is ignored ("the client will silently ignore any supplied resources
//!   that were not explicitly requested"), a name that stands twice in a response is refused.
//! * A name asked for that the server says nothing about for 15 s (the specification's time) counts as
//!   absent, so that a server that does not say `removed_resources` for it cannot hold up a destination
//!   for ever. Listeners are left out: nothing waits for them, and absence of one must be said.
//! * Which clusters are in panic stands in the node's metadata, under our own key. "The node identifier may be
//!   sent in any request", and one that neither names nor answers anything changes nothing else.
//! * `ttl` is not honoured: the last good configuration is kept for ever.
//!
//! Bounded against a server gone mad: the number of names of a type, the length of a name, of a version and
//! of what a NACK says; the size of a resource is the decoder's.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, ResourceError,
};
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value, value};
use envoy_types::pb::google::rpc::Status;

use super::decode;
use crate::config::pieces::{Kind, News, Update};

/// What the server says nothing about for so long does not exist (xDS: "recommended duration is 15 seconds").
pub const UNANSWERED: Duration = Duration::from_secs(15);

/// Names of one type. A pod calls tens of services; ten thousand services called fit twice.
const MAX_NAMES: usize = 32_768;

/// A Kubernetes name is at most 253 bytes long, ours are two and a port.
const MAX_NAME: usize = 1_024;

/// Clusters in panic that the server is told of. More than a few are one cause, and a person sees it.
const MAX_PANICKING: usize = 64;

/// Versions are hashes or counters.
const MAX_VERSION: usize = 256;

/// What a NACK says, in bytes: enough for a person, little enough for a log line.
const MAX_NACK: usize = 4_096;

/// gRPC's code for what a NACK is.
const INVALID_ARGUMENT: i32 = 3;

/// gRPC's code for a resource that does not exist.
const NOT_FOUND: i32 = 5;

/// The state of one client: what it asks for, on the stream that it has or will have.
#[derive(Debug)]
pub struct Subscription {
    node: Node,
    types: BTreeMap<Kind, Names>,
    open: bool,
    report: Report,
    /// What the server was told on this stream, with the node; none: it does not know the node yet.
    told: Option<Report>,
    answers: VecDeque<DeltaDiscoveryRequest>,
}

/// What our own operator is told of ourselves.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Report {
    /// The clusters in panic.
    panicking: BTreeSet<Arc<str>>,
    /// The pod went to work before the server had answered.
    started_without_config: bool,
}

/// The names of one type.
#[derive(Debug, Default)]
struct Names {
    entries: BTreeMap<Arc<str>, Entry>,
    /// Not sent yet.
    subscribe: BTreeSet<Arc<str>>,
    /// Not sent yet.
    unsubscribe: BTreeSet<Arc<str>>,
    /// What the server takes us to be subscribed to on this stream.
    sent: BTreeSet<Arc<str>>,
    /// Whether a name of this type was asked for on this stream.
    asked: bool,
}

/// A name that is asked for.
#[derive(Debug, Default)]
struct Entry {
    /// Of what is used.
    held: Option<Version>,
    /// Since when the server owes an answer.
    awaited_since: Option<Instant>,
    /// Whether the server has ever said anything usable about it, its absence too.
    known: bool,
}

#[derive(Debug)]
struct Version {
    text: String,
    /// Of the bytes, so that what is sent again unchanged changes nothing.
    digest: u64,
}

/// What came of a response.
#[derive(Debug, Default)]
pub struct Received {
    /// What is new, in the order received.
    pub updates: Vec<Update>,
    /// What the NACK says; none: it was acknowledged, or there was nothing to acknowledge.
    pub nack: Option<Arc<str>>,
    /// Whether it was about something that was asked for.
    pub meaningful: bool,
}

impl Default for Subscription {
    /// A client that asks for nothing yet.
    fn default() -> Self {
        let types = Kind::ALL.into_iter().map(|kind| (kind, Names::default())).collect();
        Self {
            node: Node::default(),
            types,
            open: false,
            report: Report::default(),
            told: None,
            answers: VecDeque::new(),
        }
    }
}

impl Subscription {
    /// Sets the names of a type that are asked for. Says how many of them are over the limit and left out.
    pub fn want(&mut self, kind: Kind, mut names: BTreeSet<Arc<str>>) -> usize {
        let before = names.len();
        names.retain(|name| !name.is_empty() && name.len() <= MAX_NAME && &**name != "*");
        while names.len() > MAX_NAMES {
            names.pop_last();
        }
        let left_out = before - names.len();
        let asked = self.types.entry(kind).or_default();
        let gone: Vec<Arc<str>> =
            asked.entries.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            asked.entries.remove(&name);
            asked.subscribe.remove(&name);
            if asked.sent.contains(&name) {
                asked.unsubscribe.insert(name);
            }
        }
        for name in names {
            if !asked.entries.contains_key(&name) {
                asked.entries.insert(Arc::clone(&name), Entry::default());
                // An unsubscription that waits to be sent stays: what was held is gone, and only a server
                // that saw it taken back is sure to send it again.
                asked.subscribe.insert(name);
            }
        }
        left_out
    }

    /// A new stream is open: everything is asked for on it, with the versions that are held. `node` says who
    /// asks, and on which of its streams.
    pub fn opened(&mut self, node: Node) {
        self.node = node;
        self.open = true;
        self.told = None;
        self.answers.clear();
        for names in self.types.values_mut() {
            names.asked = false;
            names.unsubscribe.clear();
            names.sent.clear();
            names.subscribe = names.entries.keys().cloned().collect();
        }
    }

    /// The stream has ended. What is held stays held.
    pub fn closed(&mut self) {
        self.open = false;
        self.answers.clear();
        for entry in self.types.values_mut().flat_map(|names| names.entries.values_mut()) {
            entry.awaited_since = None;
        }
    }

    /// Whether [`request`](Self::request) has something to send.
    pub fn has_request(&self) -> bool {
        let news = |names: &Names| !names.subscribe.is_empty() || !names.unsubscribe.is_empty();
        self.open && (!self.answers.is_empty() || self.types.values().any(news) || self.has_report())
    }

    /// Sets the clusters of which all endpoints are used because too few are left. The server is told with
    /// the next request, or with one that asks for nothing. Says whether it is news.
    pub fn panic(&mut self, clusters: BTreeSet<Arc<str>>) -> bool {
        let few = clusters.into_iter().take(MAX_PANICKING).collect();
        let before = std::mem::replace(&mut self.report.panicking, few);
        before != self.report.panicking
    }

    /// The pod went to work before the server had answered; told as panic is.
    pub fn started_without_config(&mut self) {
        self.report.started_without_config = true;
    }

    /// A request that names nothing asks for everything, if it is the first of its type: there must have been
    /// another one.
    fn has_report(&self) -> bool {
        let asked = self.types.get(&Kind::Cluster).is_some_and(|names| names.asked);
        asked && self.told.as_ref().is_some_and(|told| *told != self.report)
    }

    /// The next request to send, which counts as sent: acknowledgements first, in order.
    pub fn request(&mut self, now: Instant) -> Option<DeltaDiscoveryRequest> {
        if !self.open {
            return None;
        }
        let report = || DeltaDiscoveryRequest {
            type_url: decode::type_url(Kind::Cluster).to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let mut request = match self.answers.pop_front() {
            Some(answer) => answer,
            None => match self.types.iter_mut().find_map(|(kind, names)| names.request(*kind, now)) {
                Some(request) => request,
                None => self.has_report().then(report)?,
            },
        };
        if self.told.as_ref() != Some(&self.report) {
            self.told = Some(self.report.clone());
            request.node = Some(self.introduction());
        }
        Some(request)
    }

    /// The node, with what only our own operator reads.
    fn introduction(&self) -> Node {
        let text = |name: &Arc<str>| value::Kind::StringValue(name.to_string());
        let value = |kind| Value { kind: Some(kind) };
        let list = ListValue { values: self.report.panicking.iter().map(|name| value(text(name))).collect() };
        let mut node = self.node.clone();
        let fields = &mut node.metadata.get_or_insert_default().fields;
        let ours = fields
            .entry(decode::METADATA.to_owned())
            .or_insert_with(|| value(value::Kind::StructValue(Struct::default())));
        if let Some(value::Kind::StructValue(ours)) = &mut ours.kind {
            ours.fields.insert("panicking".to_owned(), value(value::Kind::ListValue(list)));
            if self.report.started_without_config {
                ours.fields.insert("startedWithoutConfig".to_owned(), value(value::Kind::BoolValue(true)));
            }
        }
        node
    }

    /// Takes in a response and prepares its acknowledgement, to be sent once the updates are in force.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Received {
        let Some(kind) = decode::kind(&response.type_url) else { return Received::default() };
        let Some(names) = self.types.get_mut(&kind).filter(|names| self.open && names.asked) else {
            return Received::default();
        };
        let mut received = Received { meaningful: true, ..Received::default() };
        let mut refusals = Refusals::default();
        let mut seen = BTreeSet::new();
        for resource in response.resources {
            let name = resource_name(&resource);
            if name.is_empty() || name.len() > MAX_NAME {
                refusals.add("(no name)", "a resource must be wrapped with its name, of at most 1024 bytes");
                continue;
            }
            let Some((name, entry)) = names.get_mut(name) else { continue };
            if !seen.insert(Arc::clone(&name)) {
                refusals.add(&name, "it stands twice in this response");
                continue;
            }
            entry.awaited_since = None;
            match entry.take(kind, &name, resource) {
                Ok(None) => {}
                Ok(Some(news)) => received.updates.push(Update { kind, name, news }),
                Err(reason) => {
                    refusals.add(&name, &reason);
                    received.updates.push(Update { kind, name, news: News::Refused(reason.into()) });
                }
            }
        }
        let removed = response.removed_resource_names.iter().map(|name| &name.name);
        for name in response.removed_resources.iter().chain(removed) {
            received.updates.extend(names.remove(kind, name));
        }
        for error in response.resource_errors {
            received.updates.extend(names.error(kind, error));
        }
        received.nack = refusals.message();
        if !response.nonce.is_empty() {
            self.answers.push_back(DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                error_detail: received.nack.as_ref().map(|message| Status {
                    code: INVALID_ARGUMENT,
                    message: message.to_string(),
                    details: Vec::new(),
                }),
                ..DeltaDiscoveryRequest::default()
            });
        }
        received
    }

    /// What has been asked for in vain for too long: it counts as absent.
    pub fn expire(&mut self, now: Instant) -> Vec<Update> {
        let mut updates = Vec::new();
        for (kind, names) in &mut self.types {
            for (name, entry) in &mut names.entries {
                if entry.expires(*kind).is_some_and(|at| at <= now) {
                    entry.awaited_since = None;
                    entry.known = true;
                    updates.push(Update { kind: *kind, name: Arc::clone(name), news: News::Absent });
                }
            }
        }
        updates
    }

    /// When [`expire`](Self::expire) is to be called next.
    pub fn next_expiry(&self) -> Option<Instant> {
        let expiries = self
            .types
            .iter()
            .flat_map(|(kind, names)| names.entries.values().filter_map(|entry| entry.expires(*kind)));
        expiries.min()
    }
}

impl Names {
    fn request(&mut self, kind: Kind, now: Instant) -> Option<DeltaDiscoveryRequest> {
        if self.subscribe.is_empty() && self.unsubscribe.is_empty() {
            return None;
        }
        let unsubscribe = std::mem::take(&mut self.unsubscribe);
        // Taken back and asked for again: two requests, for in one the order would be anyone's guess.
        let again = unsubscribe.iter().any(|name| self.subscribe.contains(name));
        let subscribe = if again { BTreeSet::new() } else { std::mem::take(&mut self.subscribe) };
        self.sent.retain(|name| !unsubscribe.contains(name));
        self.sent.extend(subscribe.iter().cloned());
        for name in &subscribe {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.awaited_since = Some(now);
            }
        }
        let first = !std::mem::replace(&mut self.asked, true);
        let held =
            |(name, entry): (&Arc<str>, &Entry)| Some((name.to_string(), entry.held.as_ref()?.text.clone()));
        Some(DeltaDiscoveryRequest {
            type_url: decode::type_url(kind).to_owned(),
            resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
            resource_names_unsubscribe: unsubscribe.iter().map(ToString::to_string).collect(),
            initial_resource_versions: if first {
                self.entries.iter().filter_map(held).filter(|(_, version)| !version.is_empty()).collect()
            } else {
                HashMap::new()
            },
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn get_mut(&mut self, name: &str) -> Option<(Arc<str>, &mut Entry)> {
        let name = Arc::clone(self.entries.get_key_value(name)?.0);
        let entry = self.entries.get_mut(&name)?;
        Some((name, entry))
    }

    fn remove(&mut self, kind: Kind, name: &str) -> Option<Update> {
        let (name, entry) = self.get_mut(name)?;
        *entry = Entry { known: true, ..Entry::default() };
        Some(Update { kind, name, news: News::Absent })
    }

    /// The server's own word that it cannot give a resource (xDS-TP, `resource_errors`).
    fn error(&mut self, kind: Kind, error: ResourceError) -> Option<Update> {
        let status = error.error_detail.unwrap_or_default();
        let name = error.resource_name?.name;
        if status.code == NOT_FOUND {
            return self.remove(kind, &name);
        }
        let (name, entry) = self.get_mut(&name)?;
        entry.awaited_since = None;
        let reason = format!("the server has an error for it: {} (code {})", status.message, status.code);
        Some(Update { kind, name, news: News::Refused(shortened(&reason, MAX_NACK).into()) })
    }
}

impl Entry {
    /// Takes in a resource. `Ok(None)`: it is what is held already.
    fn take(&mut self, kind: Kind, name: &Arc<str>, resource: Resource) -> Result<Option<News>, String> {
        let Some(any) = resource.resource else {
            // A heartbeat: it prolongs a ttl, which we do not honour.
            return if self.held.is_some() { Ok(None) } else { Err("it is empty".to_owned()) };
        };
        let digest = digest(&any);
        let version = |text: String| Version {
            text: if text.len() > MAX_VERSION { String::new() } else { text },
            digest,
        };
        if self.held.as_ref().is_some_and(|held| held.digest == digest) {
            self.held = Some(version(resource.version));
            return Ok(None);
        }
        let piece = decode::decode(kind, name, &any).map_err(|rejection| rejection.to_string())?;
        self.held = Some(version(resource.version));
        self.known = true;
        Ok(Some(News::Here(piece)))
    }

    /// When an answer that is owed is given up. What was known once is never given up.
    fn expires(&self, kind: Kind) -> Option<Instant> {
        match self.awaited_since {
            Some(since) if !self.known && kind != Kind::Listener => Some(since + UNANSWERED),
            _ => None,
        }
    }
}

/// The resources of a response that cannot be used.
#[derive(Debug, Default)]
struct Refusals {
    message: String,
    more: usize,
}

impl Refusals {
    fn add(&mut self, name: &str, reason: &str) {
        if self.message.len() >= MAX_NACK {
            self.more += 1;
            return;
        }
        if !self.message.is_empty() {
            self.message.push_str("; ");
        }
        self.message.push_str(&shortened(&format!("{name}: {reason}"), MAX_NACK / 4));
    }

    fn message(self) -> Option<Arc<str>> {
        match (self.message.is_empty(), self.more) {
            (true, _) => None,
            (false, 0) => Some(self.message.into()),
            (false, more) => Some(format!("{}; and {more} more", self.message).into()),
        }
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().find(|(at, _)| *at >= most) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
    }
}

fn resource_name(resource: &Resource) -> &str {
    match &resource.resource_name {
        Some(name) if resource.name.is_empty() => &name.name,
        _ => &resource.name,
    }
}

fn digest(any: &Any) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&any.type_url, &any.value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
