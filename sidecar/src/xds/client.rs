//! The stream to the xDS server: connects, sends, receives, and starts again for ever.
//!
//! ```text
//! connect --> open, ask for everything --> { names asked for | response | answer overdue } --> ...
//!    ^                                         |
//!    |---- wait, exponential with full jitter <-|  whatever went wrong
//!    '---- wait, shortly                      <-'  the server asks us to come again
//! ```
//!
//! What is in force stays in force whatever happens here: without a server, with one that sends rubbish,
//! with one that comes back empty-handed. An acknowledgement leaves only after what it acknowledges is in
//! force, as far as it is complete.
//!
//! Runs on the thread of the admin port, on a current-thread runtime; the workers see an [`ArcSwap`].

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use envoy_types::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::{Code, Status};

use super::dial::{Dialled, dial};
use super::subscription::{Received, Subscription};
use crate::cli::operator::Operator;
pub use crate::config::Known;
use crate::config::assemble::Assembler;
use crate::config::pieces::Kind;
use crate::config::{ProxyConfig, Retired};

/// A response over this ends the stream: 500,000 endpoints fit.
const MAX_RESPONSE: usize = 64 * 1024 * 1024;

/// Requests that wait for the transport. When they are so many, no response is read until they are sent.
const OUTBOX: usize = 16;

/// How often it is looked what there is to tell the server of ourselves, and so how often it is told at most. A person
/// who reads the condition does not mind.
const LOOK: Duration = Duration::from_secs(2);

/// The first wait is between nothing and this...
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// ...and every later one between nothing and twice as long, up to this: after a restart of the server a
/// thousand proxies are back within it, a hundred a second.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// A server that asks us to come again (our token expires, it restarts, it balances) is left for between nothing
/// and this: those whom it asks at the same time do not come back at the same time.
const COME_AGAIN: Duration = Duration::from_millis(250);

/// One that asks again this soon, or before it has answered anything, is not well: a failure like any other.
const COME_AGAIN_APART: Duration = Duration::from_secs(1);

/// Who asks, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The xDS server.
    pub operator: Operator,
    /// `NAMESPACE/POD`, which is the `node.id`; its namespace is the `node.cluster`.
    pub pod: String,
}

/// The client, before it runs.
#[derive(Debug)]
pub struct Client {
    options: Options,
    config: Arc<ArcSwap<ProxyConfig>>,
    wanted: watch::Receiver<BTreeSet<Arc<str>>>,
    state: watch::Sender<State>,
    retired: mpsc::UnboundedSender<Retired>,
    /// The pod went to work before the server had answered.
    late: Arc<AtomicBool>,
    /// The number of the last stream.
    stream: u64,
    subscription: Subscription,
    assembler: Assembler,
}

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Failed(String),
    /// By the server, who is well: see [`COME_AGAIN`].
    #[error("{0}")]
    Asked(String),
    #[error("nobody needs the client any more")]
    Finished,
}

impl Client {
    /// A client that publishes into `config`, with the handle that steers and watches it, and the endpoints
    /// that it takes out of service as it goes.
    pub fn new(
        options: Options,
        config: Arc<ArcSwap<ProxyConfig>>,
    ) -> (Self, Handle, mpsc::UnboundedReceiver<Retired>) {
        let (wanted, wanted_names) = watch::channel(BTreeSet::new());
        let (state, state_seen) = watch::channel(State::default());
        let (retired, retired_seen) = mpsc::unbounded_channel();
        let handle = Handle::new(wanted, state_seen);
        let subscription = Subscription::default();
        let assembler = Assembler::default();
        let client = Self {
            options,
            config,
            wanted: wanted_names,
            state,
            retired,
            late: Arc::clone(&handle.late),
            stream: 0,
            subscription,
            assembler,
        };
        (client, handle, retired_seen)
    }

    /// Runs for ever, on a current-thread runtime of its own. Ends only when every handle is gone.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        self.ask();
        loop {
            let ended = self.stream(&mut backoff).await;
            self.subscription.closed();
            let (now, random) = (now(), fastrand::f64());
            let (reason, asked) = match ended {
                Ended::Finished => return,
                Ended::Asked(reason) => (reason, backoff.asked(now, random)),
                Ended::Failed(reason) => (reason, None),
            };
            let wait = match asked {
                Some(wait) => self.asked_to_come_again(&reason, wait),
                None => self.failed(reason, backoff.next(now, random)),
            };
            if self.wait(wait).await.is_err() {
                return;
            }
        }
    }

    fn asked_to_come_again(&self, reason: &str, wait: Duration) -> Duration {
        tracing::info!(operator = %self.options.operator.uri, reason, ?wait, "the xds server asks us to come again");
        self.state.send_modify(|state| state.connected = false);
        wait
    }

    fn failed(&self, reason: String, wait: Duration) -> Duration {
        tracing::warn!(operator = %self.options.operator.uri, reason, ?wait, "xds stream ended");
        self.state.send_modify(|state| {
            state.connected = false;
            state.failures += 1;
            state.last_failure = Some(reason.into());
        });
        wait
    }

    /// One stream, from the connection to its end.
    async fn stream(&mut self, backoff: &mut Backoff) -> Ended {
        let (outbox, requests) = mpsc::channel(OUTBOX);
        self.stream = number(self.stream, SystemTime::now());
        self.subscription.opened(node(&self.options.pod, self.stream));
        self.look_at_ourselves();
        let mut responses = Responses::new(self.options.operator.clone(), requests);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let sending = self.subscription.has_request();
            tokio::select! {
                biased;
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.ask(),
                    Err(_) => return Ended::Finished,
                },
                permit = outbox.reserve(), if sending => match permit {
                    Ok(permit) => self.subscription.request(now()).map_or((), |request| permit.send(request)),
                    Err(_) if responses.opening() => return Ended::Failed("the stream did not open".to_owned()),
                    Err(_) => return Ended::Failed("the transport takes no more requests".to_owned()),
                },
                response = responses.next(), if !sending || responses.opening() => match response {
                    Ok(Some(Event::Connected)) => {
                        backoff.connected(now());
                        self.state.send_modify(|state| state.connected = true);
                    }
                    Ok(Some(Event::Response(response))) => {
                        backoff.responded = true;
                        self.receive(response);
                    }
                    Ok(None) => return Ended::Failed("the server ended the stream".to_owned()),
                    Err(ended) => return ended,
                },
                () = until(self.subscription.next_expiry()) => self.give_up(),
                _ = look.tick() => self.look_at_ourselves(),
            }
        }
    }

    /// Notes which clusters use all their endpoints because too few are left, and whether the pod started
    /// without the server.
    fn look_at_ourselves(&mut self) {
        if self.late.load(Ordering::Relaxed) {
            self.subscription.started_without_config();
        }
        let panicking = self.config.load().panicking();
        if self.subscription.panic(panicking.clone()) {
            tracing::warn!(?panicking, "clusters that use ejected endpoints, too few are left, have changed");
        }
    }

    /// Waits before the next stream, and meanwhile still takes out what is asked for no more.
    async fn wait(&mut self, time: Duration) -> Result<(), Ended> {
        let end = tokio::time::Instant::now() + time;
        loop {
            tokio::select! {
                changed = self.wanted.changed() => {
                    changed.map_err(|_| Ended::Finished)?;
                    self.ask();
                }
                () = tokio::time::sleep_until(end) => return Ok(()),
            }
        }
    }

    /// Takes over the names that the proxy asks for.
    fn ask(&mut self) {
        let names = self.wanted.borrow_and_update().clone();
        self.assembler.want(&names);
        self.subscribe(Kind::Listener, names);
        self.put_in_force();
    }

    /// Takes in a response: first it comes into force, then it is acknowledged.
    fn receive(&mut self, response: DeltaDiscoveryResponse) {
        let type_url = response.type_url.clone();
        let Received { updates, nack, meaningful } = self.subscription.receive(response);
        if !meaningful {
            tracing::debug!(type_url, "response to nothing that was asked for");
            self.state.send_modify(|state| state.meaningless += 1);
            return;
        }
        if let Some(nack) = &nack {
            tracing::warn!(type_url, nack = %nack, "configuration refused");
        }
        self.assembler.apply(updates);
        self.put_in_force();
        self.state.send_modify(|state| {
            state.updated = Some(now());
            state.responses += 1;
            if nack.is_some() {
                state.nacks += 1;
                state.last_nack = nack;
            }
        });
    }

    /// Takes what the server owes an answer for as absent.
    fn give_up(&mut self) {
        let updates = self.subscription.expire(now());
        for update in &updates {
            tracing::warn!(kind = %update.kind, name = %update.name, "no answer from the server: taken as absent");
        }
        self.assembler.apply(updates);
        self.put_in_force();
    }

    /// Publishes what is complete, and asks for what it turned out to refer to.
    fn put_in_force(&mut self) {
        if let Some(assembled) = self.assembler.assemble() {
            self.config.store(assembled.config);
            for retired in assembled.retired {
                // Nobody listens when the proxy is ending.
                let _ = self.retired.send(retired);
            }
        }
        if self.assembler.references_followed() {
            for kind in [Kind::Route, Kind::Cluster, Kind::Endpoints] {
                let names = self.assembler.wanted(kind);
                self.subscribe(kind, names);
            }
        }
        let known = self.assembler.known();
        self.state.send_if_modified(|state| {
            let changed = *state.listeners != known;
            if changed {
                state.listeners = Arc::new(known);
            }
            changed
        });
    }

    fn subscribe(&mut self, kind: Kind, names: BTreeSet<Arc<str>>) {
        let left_out = self.subscription.want(kind, names);
        if left_out > 0 {
            tracing::error!(%kind, left_out, "names that are too long or too many are not asked for");
        }
    }
}

/// A stream on its way to being open.
enum Responses {
    Connecting(Pin<Box<dyn Future<Output = Result<Dialled, String>> + Send>>, Requests),
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<DeltaDiscoveryResponse>, Status>> + Send>>),
    Open(Box<Streaming<DeltaDiscoveryResponse>>),
}

type Requests = Option<mpsc::Receiver<DeltaDiscoveryRequest>>;

/// What happens on a stream.
enum Event {
    /// The connection stands. Whether the stream does is known later: some servers say so only with their
    /// first response.
    Connected,
    Response(DeltaDiscoveryResponse),
}

impl Responses {
    fn new(operator: Operator, requests: mpsc::Receiver<DeltaDiscoveryRequest>) -> Self {
        Self::Connecting(Box::pin(dial(operator)), Some(requests))
    }

    fn opening(&self) -> bool {
        !matches!(self, Self::Open(_))
    }

    /// The next event; none at the end. May be dropped at any time without losing one.
    async fn next(&mut self) -> Result<Option<Event>, Ended> {
        loop {
            match self {
                Self::Connecting(connecting, requests) => {
                    let dialled = connecting.await.map_err(Ended::Failed)?;
                    let Some(requests) = requests.take() else { return Ok(None) };
                    *self = Self::Opening(Box::pin(open(dialled, requests)));
                    return Ok(Some(Event::Connected));
                }
                Self::Opening(opening) => {
                    *self = Self::Open(Box::new(opening.await.map_err(Ended::by)?));
                }
                Self::Open(stream) => {
                    let response = stream.message().await.map_err(Ended::by)?;
                    return Ok(response.map(Event::Response));
                }
            }
        }
    }
}

async fn open(
    dialled: Dialled,
    requests: mpsc::Receiver<DeltaDiscoveryRequest>,
) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
    let client = AggregatedDiscoveryServiceClient::new(dialled.channel);
    let mut request = tonic::Request::new(ReceiverStream::new(requests));
    if let Some(authorization) = dialled.authorization {
        request.metadata_mut().insert("authorization", authorization);
    }
    let response = client.max_decoding_message_size(MAX_RESPONSE).delta_aggregated_resources(request).await;
    response.map(tonic::Response::into_inner)
}

impl Ended {
    /// By this status. UNAVAILABLE that has no cause on our side was sent by the server, which therefore lives.
    #[expect(clippy::needless_pass_by_value, reason = "as `map_err` has it")]
    fn by(status: Status) -> Self {
        let sent = std::error::Error::source(&status).is_none();
        let reason = status.to_string();
        if sent && status.code() == Code::Unavailable { Self::Asked(reason) } else { Self::Failed(reason) }
    }
}

/// The number of the next stream: higher than every one before, also those of this pod's sidecar before it was
/// restarted. So the replicas of the operator agree which of two streams is the later, whatever their clocks
/// say. Milliseconds since 1970 are whole numbers in an `f64`, which is what the metadata can carry.
fn number(last: u64, wall: SystemTime) -> u64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(last + 1)
}

/// Who asks. What no other xDS server needs to know stands under our own key.
fn node(pod: &str, stream: u64) -> Node {
    let value = |kind| Value { kind: Some(kind) };
    let ours =
        Struct { fields: [("stream".to_owned(), value(value::Kind::NumberValue(stream as f64)))].into() };
    let metadata = [(super::decode::METADATA.to_owned(), value(value::Kind::StructValue(ours)))].into();
    Node {
        id: pod.to_owned(),
        cluster: pod.split('/').next().unwrap_or_default().to_owned(),
        user_agent_name: "fairlead-proxy".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        )),
        client_features: vec!["envoy.lb.does_not_support_overprovisioning".to_owned()],
        metadata: Some(Struct { fields: metadata }),
        ..Node::default()
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// How long to wait before the next stream: exponential, with full jitter. It starts again from the
/// beginning only after a connection that lasted, so that a server that answers and dies is not hammered.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    connected: Option<Instant>,
    /// Since it connected.
    responded: bool,
    /// When the server last asked us to come again.
    asked: Option<Instant>,
}

impl Backoff {
    fn connected(&mut self, now: Instant) {
        (self.connected, self.responded) = (Some(now), false);
    }

    /// The server asks us to come again. The wait, unless that is to be taken for a failure; if not, what went
    /// wrong before is forgotten.
    fn asked(&mut self, now: Instant, random: f64) -> Option<Duration> {
        let lasted = self.connected.is_some_and(|since| now.duration_since(since) >= MAX_BACKOFF);
        let soon = self.asked.is_some_and(|before| now.duration_since(before) < COME_AGAIN_APART);
        if soon || !(self.responded || lasted) {
            return None;
        }
        *self = Self { asked: Some(now), ..Self::default() };
        Some(COME_AGAIN.mul_f64(random))
    }

    /// The wait, for a random number between 0 and 1.
    fn next(&mut self, now: Instant, random: f64) -> Duration {
        if self.connected.take().is_some_and(|since| now.duration_since(since) >= MAX_BACKOFF) {
            self.failures = 0;
        }
        let most = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(self.failures)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(random)
    }
}

/// Steers and watches the client; cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Handle {
    wanted: watch::Sender<BTreeSet<Arc<str>>>,
    state: watch::Receiver<State>,
    late: Arc<AtomicBool>,
}

impl Handle {
    /// For a client that reads `wanted` and tells of itself in `state`.
    pub(crate) fn new(wanted: watch::Sender<BTreeSet<Arc<str>>>, state: watch::Receiver<State>) -> Self {
        Self { wanted, state, late: Arc::default() }
    }

    /// The pod goes to work before the server has answered; the server is told as soon as it is there.
    pub fn started_without_config(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// Asks for a listener: `shop/reviews:9080`, `10.96.3.7:9080`, `inbound/10.244.1.5:9080`. Asking twice is
    /// asking once.
    pub fn subscribe(&self, name: &str) {
        self.wanted.send_if_modified(|names| !names.contains(name) && names.insert(Arc::from(name)));
    }

    /// Asks no more for a listener: its destination leaves the configuration, with all that only it used.
    pub fn unsubscribe(&self, name: &str) {
        self.wanted.send_if_modified(|names| names.remove(name));
    }

    /// What the client knows now, for the admin page and the metrics.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// To wait for: changes whenever anything in [`State`] does.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

/// What the client knows.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Whether the connection to the server stands.
    pub connected: bool,
    /// When the last response was applied.
    pub updated: Option<Instant>,
    /// Responses applied, whole or in part.
    pub responses: u64,
    /// Responses in which at least one resource was refused.
    pub nacks: u64,
    /// Responses to nothing that was asked for.
    pub meaningless: u64,
    /// Streams that ended, and connections that could not be opened.
    pub failures: u64,
    /// Why the last stream ended.
    pub last_failure: Option<Arc<str>>,
    /// What the last NACK said.
    pub last_nack: Option<Arc<str>>,
    /// Every listener that is asked for.
    pub listeners: Arc<BTreeMap<Arc<str>, Known>>,
}

impl State {
    /// Whether this listener's configuration is in force.
    pub fn in_force(&self, name: &str) -> bool {
        matches!(self.listeners.get(name), Some(Known::InForce))
    }
}

#[cfg(test)]
mod tests;
