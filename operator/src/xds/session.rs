//! One xDS stream as a state machine without sockets, tasks or clock: requests and the names that
//! changed go in, responses come out. It speaks both protocols, delta and state-of-the-world.
//!
//! ```text
//!  request ──> delta() / sotw() ──┐                        ┌──> next() ──> Response
//!  publish ──> changed(kind, name)┴─> Subscription x 4 ────┤
//!                                     (dirty, in flight)   └──> take_changes() ──> Registry
//! ```
//!
//! Rules that hold for every stream:
//! - at most one response a type is under way; what changes meanwhile is marked dirty and goes out
//!   once, in its latest version, when the client has answered;
//! - make before break: listeners and routes wait until the client has taken clusters and endpoints
//!   that are new to it; clusters and endpoints go only after listeners and routes have let go;
//! - what the client asks for is answered at once, whatever waits;
//! - what a reconnecting delta client says it has is not sent again, and what is gone is removed;
//!   a state-of-the-world client cannot say, and gets everything again in equal versions.
//!
//! The rules are those of Envoy's "xDS REST and gRPC protocol"; gRPC's reading is gRFC A27 and A46.

mod compose;
mod limits;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status as RpcStatus;

pub use self::limits::{Limits, Refusal};
use self::subscription::{Due, Held, Standing, Subscription};
use super::snapshot::{Resource, ResourceKind, Snapshot};
use super::wire::{DeltaResponse, StateResponse};

/// The name that stands for all resources of a type.
const WILDCARD: &str = "*";

/// What a session reads resources from: the snapshot, or in tests a plain map.
pub trait Catalog {
    /// The resource of that name, if there is one.
    fn get(&self, kind: ResourceKind, name: &str) -> Option<Arc<Resource>>;
    /// The names of the resources that a wildcard subscription gets.
    fn names(&self, kind: ResourceKind) -> Vec<Arc<str>>;
}

impl Catalog for Snapshot {
    fn get(&self, kind: ResourceKind, name: &str) -> Option<Arc<Resource>> {
        self.get(kind, name)
    }

    fn names(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        self.names(kind)
    }
}

/// Whether a wildcard subscription gets the resource of this name, should there be one: of
/// listeners only those at an address; the others have to be asked for.
#[must_use]
pub fn wildcard_covers(kind: ResourceKind, name: &str) -> bool {
    kind != ResourceKind::Listener || name.parse::<SocketAddr>().is_ok()
}

/// Which of the two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `DeltaAggregatedResources`.
    Delta,
    /// `StreamAggregatedResources`, state of the world.
    State,
}

/// A response for the client.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// For a delta stream.
    Delta(DeltaResponse),
    /// For a state-of-the-world stream.
    State(StateResponse),
}

impl Protocol {
    /// As in logs, metrics and `/clients`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::State => "sotw",
        }
    }
}

impl Response {
    /// The type of its resources.
    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Self::Delta(response) => &response.type_url,
            Self::State(response) => &response.type_url,
        }
    }

    /// The number of resources in it, removed ones too.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Delta(response) => response.resources.len() + response.removed_resources.len(),
            Self::State(response) => response.resources.len(),
        }
    }

    /// Whether it carries nothing: "there is nothing".
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What others need to know about a stream after it moved; the registry keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The client wants this resource from now on.
    Subscribed(ResourceKind, Arc<str>),
    /// The client wants, or has, it no longer.
    Forgotten(ResourceKind, Arc<str>),
    /// The client wants all resources of the type (or no longer).
    Wildcard(ResourceKind, bool),
    /// The client runs this version; `None`: it knows that there is no such resource.
    Acked(ResourceKind, Arc<str>, Option<Arc<str>>),
    /// The client refused this version and said why.
    Nacked(ResourceKind, Arc<str>, Option<Arc<str>>, Arc<str>),
    /// The clusters of which the client uses all endpoints, because too few are left: all of them, sorted.
    Panicking(Arc<[Arc<str>]>),
    /// The client's pod went to work before we had answered.
    StartedWithoutConfig,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    protocol: Protocol,
    limits: Limits,
    node: Option<Arc<str>>,
    number: Option<u64>,
    panicking: Arc<[Arc<str>]>,
    started_without_config: bool,
    clusters: Subscription,
    endpoints: Subscription,
    listeners: Subscription,
    routes: Subscription,
    nonces: u64,
    changes: Vec<Change>,
}

impl Session {
    /// A stream that has said nothing yet.
    #[must_use]
    pub fn new(protocol: Protocol, limits: Limits) -> Self {
        Self {
            protocol,
            limits,
            node: None,
            number: None,
            panicking: Arc::default(),
            started_without_config: false,
            clusters: Subscription::default(),
            endpoints: Subscription::default(),
            listeners: Subscription::default(),
            routes: Subscription::default(),
            nonces: 0,
            changes: Vec::new(),
        }
    }

    /// Which protocol it speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The id that the client gave itself in its first request.
    #[must_use]
    pub fn node(&self) -> Option<&Arc<str>> {
        self.node.as_ref()
    }

    /// The client's own number of this stream, if it has one.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// Takes one request of a delta stream. A refusal ends the stream.
    pub fn delta(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Refusal> {
        self.identify(request.node.as_ref())?;
        let kind = ResourceKind::from_type_url(&request.type_url)
            .ok_or_else(|| Refusal::unknown_type(&request.type_url))?;
        let names = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
        self.limits.check_names(names.chain(request.initial_resource_versions.keys()))?;
        self.answered(kind, &request.response_nonce, request.error_detail.as_ref());

        let first = !self.subscription(kind).opened;
        let (add, drop) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        let has = request.initial_resource_versions;
        // A first request that names nothing means everything, for the two types that had this
        // before "*" was invented.
        let legacy = first && add.is_empty() && kind.has_legacy_wildcard();
        let keeps = self.peek(kind).wildcard && !drop.iter().any(|name| name == WILDCARD);
        let wildcard = keeps || legacy || add.iter().any(|name| name == WILDCARD);
        self.subscription(kind).opened = true;
        self.set_wildcard(kind, wildcard, first && has.is_empty());

        for name in drop.iter().filter(|name| *name != WILDCARD) {
            self.unsubscribe(kind, name);
        }
        for name in add.into_iter().filter(|name| name != WILDCARD) {
            // The client may have dropped what it asks for again, so it is always sent; but what
            // it has just said to have it has.
            let due = if first && has.contains_key(&name) { Due::Resumed } else { Due::Asked };
            let name: Arc<str> = name.into();
            let subscription = self.subscription(kind);
            subscription.dirty.insert(name.clone(), due);
            if subscription.names.insert(name.clone()) {
                self.changes.push(Change::Subscribed(kind, name));
            }
        }
        if first {
            self.resume(kind, wildcard, has);
        }
        self.check_total()
    }

    /// Takes one request of a state-of-the-world stream. A refusal ends the stream.
    pub fn state(&mut self, request: DiscoveryRequest) -> Result<(), Refusal> {
        self.identify(request.node.as_ref())?;
        let kind = ResourceKind::from_type_url(&request.type_url)
            .ok_or_else(|| Refusal::unknown_type(&request.type_url))?;
        self.limits.check_names(request.resource_names.iter())?;
        let subscription = self.subscription(kind);
        // A request that does not answer the latest response was overtaken by it; the answer to
        // that response carries the client's names again.
        if subscription.opened && request.response_nonce != subscription.last_nonce {
            return Ok(());
        }
        let first = !subscription.opened;
        subscription.opened = true;
        // A reconnecting client's version_info is not trusted to mean that nothing is needed: it is
        // about what the client asked for last, and it may have dropped and asked again since.
        self.answered(kind, &request.response_nonce, request.error_detail.as_ref());

        let subscription = self.subscription(kind);
        subscription.explicit |= !request.resource_names.is_empty();
        let legacy = !subscription.explicit && kind.has_legacy_wildcard();
        let wildcard = legacy || request.resource_names.iter().any(|name| name == WILDCARD);
        let wanted: HashSet<Arc<str>> =
            request.resource_names.into_iter().filter(|name| name != WILDCARD).map(Arc::from).collect();
        self.set_wildcard(kind, wildcard, first);
        let gone: Vec<Arc<str>> = self.peek(kind).names.difference(&wanted).cloned().collect();
        for name in gone {
            self.unsubscribe(kind, &name);
        }
        for name in wanted {
            let subscription = self.subscription(kind);
            if subscription.names.insert(name.clone()) {
                subscription.dirty.insert(name.clone(), Due::Asked);
                self.changes.push(Change::Subscribed(kind, name));
            }
        }
        self.check_total()
    }

    /// Says that a resource may differ from what it was; unknown and unwanted names are ignored.
    pub fn changed(&mut self, kind: ResourceKind, name: &Arc<str>) {
        let subscription = self.subscription(kind);
        if subscription.wildcard || subscription.names.contains(name) {
            subscription.dirty.entry(name.clone()).or_insert(Due::Pushed);
        }
    }

    /// Whether something waits for the client to let go of, or take, something else. The driver
    /// calls [`Session::release`] when that lasts, so that no client blocks itself for good.
    #[must_use]
    pub fn holds(&self) -> bool {
        ResourceKind::ALL.iter().any(|kind| {
            let subscription = self.peek(*kind);
            subscription.in_flight.is_none() && !subscription.dirty.is_empty()
        })
    }

    /// Lets go of whatever waits for its turn.
    pub fn release(&mut self) {
        for kind in ResourceKind::ALL {
            self.subscription(kind).dirty.values_mut().for_each(Due::release);
        }
    }

    /// What happened since the last call, for the registry.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The names under way that the client has not answered yet, a type.
    #[must_use]
    pub fn unanswered(&self, kind: ResourceKind) -> usize {
        self.peek(kind).in_flight.as_ref().map_or(0, |flight| flight.names.len())
    }

    /// The first request says who asks; later ones may repeat it. Our sidecar says in any of them what it
    /// has to report.
    fn identify(&mut self, node: Option<&Node>) -> Result<(), Refusal> {
        if self.node.is_none() {
            self.node = Some(self.limits.check_node(node.map_or("", |node| node.id.as_str()))?);
            self.number = node.and_then(Limits::stream_number);
        }
        let panicking = node.and_then(|node| self.limits.panicking(node));
        if let Some(panicking) = panicking.filter(|names| *names != self.panicking) {
            self.panicking = panicking.clone();
            self.changes.push(Change::Panicking(panicking));
        }
        if !self.started_without_config && node.is_some_and(Limits::started_without_config) {
            self.started_without_config = true;
            self.changes.push(Change::StartedWithoutConfig);
        }
        Ok(())
    }

    /// Takes the answer to a response: an error means that the client refused it.
    fn answered(&mut self, kind: ResourceKind, nonce: &str, error: Option<&RpcStatus>) {
        let subscription = self.subscription(kind);
        let Some(flight) = subscription.in_flight.take_if(|flight| flight.nonce == nonce) else {
            return;
        };
        let message: Option<Arc<str>> = error.map(|error| self.limits.shorten(&error.message).into());
        // Envoy, gRPC (gRFC A46) and the sidecar take the good resources of a response and name
        // the bad ones; a refusal that names none is about all of them.
        let names_some =
            message.as_ref().is_some_and(|text| flight.names.iter().any(|(name, _)| mentions(text, name)));
        for (name, version) in flight.names {
            let subscription = self.subscription(kind);
            let Some(held) = subscription.held.get_mut(&name).filter(|held| held.version == version) else {
                continue; // Unsubscribed meanwhile.
            };
            let refused = message.as_ref().filter(|text| !names_some || mentions(text, &name));
            held.standing = if refused.is_some() { Standing::Nacked } else { Standing::Acked };
            self.changes.push(match refused {
                Some(text) => Change::Nacked(kind, name, version, text.clone()),
                None => Change::Acked(kind, name, version),
            });
        }
    }

    /// Notes what a reconnecting client already has, so that only the difference goes out.
    fn resume(&mut self, kind: ResourceKind, wildcard: bool, has: HashMap<String, String>) {
        for (name, version) in has {
            let subscription = self.subscription(kind);
            if !wildcard && !subscription.names.contains(name.as_str()) {
                continue;
            }
            let (name, version): (Arc<str>, Arc<str>) = (name.into(), version.into());
            subscription.dirty.insert(name.clone(), Due::Resumed);
            subscription.held.insert(name.clone(), Held::acked(Some(version.clone())));
            self.changes.push(Change::Acked(kind, name, Some(version)));
        }
    }

    fn unsubscribe(&mut self, kind: ResourceKind, name: &str) {
        let subscription = self.subscription(kind);
        let Some(name) = subscription.names.take(name) else { return };
        if subscription.wildcard {
            // The wildcard may still cover it; the client waits to hear whether it does.
            subscription.dirty.insert(name, Due::Asked);
        } else {
            subscription.forget(&name);
            self.changes.push(Change::Forgotten(kind, name));
        }
    }

    fn set_wildcard(&mut self, kind: ResourceKind, wildcard: bool, answer: bool) {
        let subscription = self.subscription(kind);
        if subscription.wildcard == wildcard {
            return;
        }
        subscription.wildcard = wildcard;
        let mut forgotten = Vec::new();
        if wildcard {
            subscription.expand = true;
            subscription.reclaim(kind);
            subscription.answer |= answer; // "There is nothing" is an answer too.
        } else {
            subscription.expand = false;
            let names = &subscription.names;
            forgotten = subscription.held.keys().filter(|name| !names.contains(*name)).cloned().collect();
            subscription.dirty.retain(|name, _| names.contains(name));
        }
        self.changes.push(Change::Wildcard(kind, wildcard));
        for name in forgotten {
            self.subscription(kind).forget(&name);
            self.changes.push(Change::Forgotten(kind, name));
        }
    }

    fn check_total(&self) -> Result<(), Refusal> {
        self.limits.check_total(ResourceKind::ALL.iter().map(|kind| self.peek(*kind).names.len()).sum())
    }

    fn subscription(&mut self, kind: ResourceKind) -> &mut Subscription {
        match kind {
            ResourceKind::Cluster => &mut self.clusters,
            ResourceKind::Endpoints => &mut self.endpoints,
            ResourceKind::Listener => &mut self.listeners,
            ResourceKind::Route => &mut self.routes,
        }
    }

    fn peek(&self, kind: ResourceKind) -> &Subscription {
        match kind {
            ResourceKind::Cluster => &self.clusters,
            ResourceKind::Endpoints => &self.endpoints,
            ResourceKind::Listener => &self.listeners,
            ResourceKind::Route => &self.routes,
        }
    }
}

/// Whether a message names this resource, and not only a longer name that contains it.
fn mentions(message: &str, name: &str) -> bool {
    let part_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/' | '_');
    message.match_indices(name).any(|(at, _)| {
        let before = message.get(..at).and_then(|text| text.chars().next_back());
        let after = message.get(at + name.len()..).and_then(|text| text.chars().next());
        // A sentence may end behind a name: "... shop/reviews:9080." is the name and a full stop.
        !before.is_some_and(part_of_a_name) && !after.is_some_and(|c| c != '.' && part_of_a_name(c))
    })
}

/// What the two protocols say about a type.
trait Rules {
    /// Whether an empty first request means "everything".
    fn has_legacy_wildcard(self) -> bool;
    /// Whether a state-of-the-world response carries all resources, so that a missing one is gone.
    fn sends_full_state(self) -> bool;
}

impl Rules for ResourceKind {
    fn has_legacy_wildcard(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster)
    }

    fn sends_full_state(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster)
    }
}
