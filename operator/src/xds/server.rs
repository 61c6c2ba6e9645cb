//! `envoy.service.discovery.v3.AggregatedDiscoveryService` over gRPC: the sockets around the
//! session.
//!
//! A stream is no task: it is the response body, polled by its HTTP/2 connection when the client
//! has room. So a slow client costs one response in memory and delays nobody, and a stream that is
//! dropped takes its entry in the registry with it.
//!
//! With a guard, everything is TLS and a stream begins with the question whose token it carries.

mod admission;
mod codec;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Request, Status, Streaming};

use self::admission::{Client, SHORTEST_LIFE, STREAMS_A_POD};
use super::hub::Hub;
use super::registry::{Ending, Mailbox, StreamId};
use super::session::{Limits, Protocol, Refusal, Response, Session};
use super::snapshot::ResourceKind;
use super::view::View;
use crate::identity::Identities;
use crate::metrics::Metrics;
use crate::tls::accept::{Bounds, Guest, connections};

/// Streams that are served at the same time; one more is told to go elsewhere.
const STREAMS: usize = 10_000;
/// Streams on one connection. A sidecar or Envoy needs one; gRPC's clients open one for each Service that
/// they call, on one connection, and a call whose stream is over the limit waits without a word.
const STREAMS_A_CONNECTION: u32 = 1_000;
/// A request of 10,000 names of 100 bytes with their versions is 1.2 MB.
const REQUEST_BYTES: usize = 4 << 20;
/// A dead peer is noticed within a minute, also where it never closes.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Listeners and routes wait this long at most for a client to take new clusters, and clusters as
/// long for it to let go of routes. Many round trips; little for a person who waits.
const HOLD: Duration = Duration::from_secs(2);

/// What stands before a port that asks who its clients are.
#[derive(Clone, Debug)]
pub struct Guard {
    /// For the handshake.
    pub tls: Arc<ServerConfig>,
    /// For the tokens.
    pub identities: Arc<Identities>,
}

/// Serves xDS on `listener`, and `beside` it other gRPC services, which ask themselves who calls, until
/// `shutdown` is true. Then every stream ends with `UNAVAILABLE`, which tells clients to keep what they have and
/// to connect again.
pub async fn serve(
    listener: TcpListener,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    beside: Routes,
    guard: Option<Guard>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (tls, identities) = guard.map(|guard| (guard.tls, guard.identities)).unzip();
    let bounds = if identities.is_some() { Bounds::default() } else { Bounds::anonymous() };
    let mut server = tonic::transport::Server::builder();
    if identities.is_some() {
        server = server.max_connection_age(SHORTEST_LIFE);
    }
    let service = Ads { hub, metrics, identities, shutdown: shutdown.clone() };
    server
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_A_CONNECTION)
        .add_routes(beside.add_service(service))
        .serve_with_incoming_shutdown(connections(listener, tls, bounds), async move {
            // An error means that the sender is gone, and the process with it.
            let _ = shutdown.wait_for(|stop| *stop).await;
        })
        .await
}

/// The gRPC service.
#[derive(Clone, Debug)]
struct Ads {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    /// `None`: nobody is asked who he is.
    identities: Option<Arc<Identities>>,
    shutdown: watch::Receiver<bool>,
}

impl NamedService for Ads {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<tonic::body::Body>> for Ads {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let ads = self.clone();
        match request.uri().path().rsplit('/').next() {
            Some("DeltaAggregatedResources") => {
                Box::pin(async move { Ok(ads.stream::<DeltaDiscoveryRequest>(request).await) })
            }
            Some("StreamAggregatedResources") => {
                Box::pin(async move { Ok(ads.stream::<DiscoveryRequest>(request).await) })
            }
            _ => Box::pin(ready(Ok(Status::unimplemented(
                "only DeltaAggregatedResources and StreamAggregatedResources are served",
            )
            .into_http()))),
        }
    }
}

impl Ads {
    async fn stream<R: DiscoveryMessage>(
        self,
        request: http::Request<tonic::body::Body>,
    ) -> http::Response<tonic::body::Body> {
        match self.open::<R>(request).await {
            // Boxed: the stream is moved in and out of each wait.
            Ok(stream) => codec::responses(Box::pin(futures::stream::unfold(
                Box::new(stream),
                |mut stream| async move {
                    let next = stream.next().await?;
                    Some((next, stream))
                },
            ))),
            Err(status) => status.into_http(),
        }
    }

    async fn open<R: DiscoveryMessage>(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> Result<Stream<R>, Status> {
        let request = codec::requests::<R>(request, REQUEST_BYTES)?;
        let guest = request.extensions().get::<Guest>().cloned();
        let client = self.identify(&request, guest.as_ref()).await?;
        let peer = guest.map(|guest| guest.peer);
        Stream::open(self, peer, client, request.into_inner())
    }

    /// Who asks, where somebody wants to know.
    async fn identify<R>(
        &self,
        request: &Request<R>,
        guest: Option<&Guest>,
    ) -> Result<Option<Client>, Status> {
        let Some(identities) = &self.identities else { return Ok(None) };
        let Some(guest) = guest else {
            return Err(Status::internal("a connection without an address"));
        };
        let client = Client::identify(identities, request.metadata(), guest.peer, Timestamp::now()).await;
        let client = client.and_then(|client| client.check_address(&self.hub).map(|()| client));
        match client {
            Ok(client) => {
                guest.introduce();
                Ok(Some(client))
            }
            Err(status) => {
                self.metrics.unidentified(reason(status.code()));
                tracing::warn!(peer = %guest.peer, reason = status.message(), "client is not identified");
                Err(status)
            }
        }
    }
}

/// A request of one of the two protocols.
trait DiscoveryMessage: prost::Message + Default + Send + 'static {
    const PROTOCOL: Protocol;
    fn give_to(self, session: &mut Session) -> Result<(), Refusal>;
}

impl DiscoveryMessage for DeltaDiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::Delta;
    fn give_to(self, session: &mut Session) -> Result<(), Refusal> {
        session.delta(self)
    }
}

impl DiscoveryMessage for DiscoveryRequest {
    const PROTOCOL: Protocol = Protocol::State;
    fn give_to(self, session: &mut Session) -> Result<(), Refusal> {
        session.state(self)
    }
}

/// One open stream.
struct Stream<R> {
    id: StreamId,
    session: Session,
    /// Whose it is; `None`: nobody was asked.
    client: Option<Client>,
    /// When it has lived long enough.
    end: Option<Instant>,
    mailbox: Arc<Mailbox>,
    requests: Streaming<R>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    shutdown: watch::Receiver<bool>,
    /// When what waits is let go.
    hold: Option<Instant>,
    /// Nothing more comes.
    over: bool,
    ending: Ending,
}

/// What a stream waits for.
enum Event<R> {
    Request(Result<Option<R>, Status>),
    Changed,
    HeldLongEnough,
    LivedLongEnough,
    Shutdown,
}

impl<R: DiscoveryMessage> Stream<R> {
    fn open(
        ads: &Ads,
        peer: Option<SocketAddr>,
        client: Option<Client>,
        requests: Streaming<R>,
    ) -> Result<Self, Status> {
        let mut registry = ads.hub.registry();
        if registry.open_streams() >= STREAMS {
            return Err(Status::resource_exhausted(format!(
                "this replica serves {STREAMS} streams already; connect to another one"
            )));
        }
        if let Some(client) = &client
            && registry.streams_of(&client.node) >= STREAMS_A_POD
        {
            return Err(Status::resource_exhausted(format!(
                "the pod {} has {STREAMS_A_POD} streams already; close one",
                client.node
            )));
        }
        let (id, mailbox) =
            registry.open(R::PROTOCOL, peer, client.as_ref().map(|client| client.node.clone()));
        let lifetime = client.as_ref().map(|client| client.lifetime(Timestamp::now(), fastrand::f64()));
        ads.metrics.stream_opened(R::PROTOCOL.as_str());
        Ok(Self {
            id,
            session: Session::new(R::PROTOCOL, Limits::default()),
            client,
            end: lifetime.map(|lifetime| Instant::now() + lifetime),
            mailbox,
            requests,
            hub: ads.hub.clone(),
            metrics: ads.metrics.clone(),
            shutdown: ads.shutdown.clone(),
            hold: None,
            over: false,
            ending: Ending::Lost,
        })
    }

    /// The next message for the client.
    async fn next(&mut self) -> Option<Result<Response, Status>> {
        while !self.over {
            if let Some(response) = self.respond() {
                return Some(Ok(response));
            }
            match self.wait().await {
                Event::Request(Ok(Some(request))) => {
                    if let Err(status) = self.take(request) {
                        return Some(Err(self.refuse(status)));
                    }
                }
                Event::Request(Ok(None)) => {
                    self.ending = Ending::Closed;
                    self.over = true;
                }
                Event::Request(Err(status)) => return self.fail(&status).map(Err),
                Event::Changed => {}
                Event::HeldLongEnough => {
                    tracing::debug!(
                        stream = self.id,
                        node = self.node(),
                        "client does not answer; sending what waited for it"
                    );
                    self.session.release();
                }
                Event::LivedLongEnough => {
                    self.over = true;
                    return Some(Err(Status::unavailable(
                        "the stream has lived as long as it may; keep your config and connect again, with the token as it is now",
                    )));
                }
                Event::Shutdown => {
                    self.over = true;
                    return Some(Err(Status::unavailable(
                        "the operator is shutting down; keep your config and connect again",
                    )));
                }
            }
        }
        None
    }

    /// A response, if one may go out now.
    fn respond(&mut self) -> Option<Response> {
        for (kind, name) in self.mailbox.take() {
            self.session.changed(kind, &name);
        }
        let own = self.client.as_ref().map(|client| client.own(&self.hub));
        let response = self.session.next(&View { snapshot: self.hub.snapshot(), own });
        self.report();
        self.hold = match (&self.hold, self.session.holds()) {
            (_, false) => None,
            (Some(since), true) => Some(*since),
            (None, true) => Some(Instant::now() + HOLD),
        };
        if let Some(response) = &response {
            self.metrics.pushed(short(response.type_url()), response.len());
        }
        response
    }

    async fn wait(&mut self) -> Event<R> {
        let (held, end) = (self.hold, self.end);
        let event = tokio::select! {
            request = self.requests.message() => Event::Request(request),
            () = self.mailbox.rings() => Event::Changed,
            () = sleep_until(held) => Event::HeldLongEnough,
            () = sleep_until(end) => Event::LivedLongEnough,
            _ = self.shutdown.wait_for(|stop| *stop) => Event::Shutdown,
        };
        if matches!(event, Event::HeldLongEnough) {
            self.hold = None;
        }
        event
    }

    fn take(&mut self, request: R) -> Result<(), Status> {
        let named = self.session.node().is_some();
        request
            .give_to(&mut self.session)
            .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        if let Some(client) = &self.client {
            client.check_node(self.node())?;
            // Again each time: at first the pod's addresses may not have been known.
            client.check_address(&self.hub)?;
        }
        if let Some(node) = self.session.node().filter(|_| !named) {
            tracing::info!(stream = self.id, %node, protocol = R::PROTOCOL.as_str(), "client connected");
            self.hub.registry().name(self.id, node, self.session.number(), Instant::now());
        }
        // Before the snapshot is looked at, see hub.rs.
        self.report();
        Ok(())
    }

    /// Tells the registry, and through it status, what happened.
    fn report(&mut self) {
        let changes = self.session.take_changes();
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            if let super::session::Change::Nacked(kind, name, _, message) = change {
                self.metrics.nacked(short(kind.type_url()));
                tracing::warn!(stream = self.id, node = self.node(), resource = %name, kind = ?kind, %message, "client refused a resource");
            }
        }
        self.hub.registry().apply(self.id, changes);
        self.hub.notify();
    }

    fn refuse(&mut self, status: Status) -> Status {
        self.over = true;
        self.ending = Ending::Closed;
        self.metrics.refused();
        if status.code() == Code::PermissionDenied {
            self.metrics.unidentified(reason(status.code()));
        }
        let pod = self.client.as_ref().map(|client| &*client.node);
        tracing::warn!(
            stream = self.id,
            node = self.node(),
            pod,
            reason = status.message(),
            "client refused"
        );
        status
    }

    /// The client sent what cannot be read, or its connection broke.
    fn fail(&mut self, status: &Status) -> Option<Status> {
        self.over = true;
        match status.code() {
            Code::Internal => Some(self.refuse(Status::invalid_argument(format!(
                "the request cannot be read: {}",
                status.message()
            )))),
            Code::OutOfRange | Code::ResourceExhausted => Some(self.refuse(Status::invalid_argument(
                format!("a request may have {REQUEST_BYTES} bytes at most: {}", status.message()),
            ))),
            _ => None,
        }
    }

    fn node(&self) -> &str {
        self.session.node().map_or("", |node| node)
    }
}

impl<R> Drop for Stream<R> {
    fn drop(&mut self) {
        let node = self.session.node().map_or("", |node| node);
        tracing::info!(stream = self.id, node, ending = ?self.ending, "client disconnected");
        self.hub.registry().close(self.id, self.ending, Instant::now());
        self.metrics.stream_closed(self.session.protocol().as_str());
        self.hub.notify();
    }
}

/// Until then; for ever without a time.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Why a client is not let in, as a label.
fn reason(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "token",
        Code::PermissionDenied => "pod",
        _ => "unavailable",
    }
}

/// A type as a label: `cds` and so on.
fn short(type_url: &str) -> &'static str {
    match ResourceKind::from_type_url(type_url) {
        Some(ResourceKind::Listener) => "lds",
        Some(ResourceKind::Route) => "rds",
        Some(ResourceKind::Cluster) => "cds",
        Some(ResourceKind::Endpoints) => "eds",
        None => "other",
    }
}

#[cfg(test)]
mod tests;
