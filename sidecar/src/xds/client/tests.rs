//! The client against a server that answers, dies, lies and sends rubbish, over a real socket.

mod tls;

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use futures::stream::BoxStream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status};

use super::*;
use crate::config::Destination;
use crate::xds::dial::{CONNECT_TIMEOUT, PING_INTERVAL, PING_TIMEOUT};
use crate::xds::testing::{
    cluster, endpoints, forward, listener, resource, response, route, routes, wrapped,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream that a client has opened.
struct Opened {
    authorization: Option<String>,
    requests: mpsc::UnboundedReceiver<DeltaDiscoveryRequest>,
    responses: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
    /// The client's own number of the stream.
    number: f64,
}

impl Opened {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = tokio::time::timeout(PATIENCE, self.requests.recv()).await;
        let request = request.expect("a request in time").expect("a request");
        self.number = request.node.as_ref().map_or(self.number, stream_number);
        request
    }

    /// The next request that asks for names, past acknowledgements.
    async fn asked(&mut self) -> (String, Vec<String>) {
        loop {
            let request = self.request().await;
            if request.response_nonce.is_empty() {
                return (request.type_url, request.resource_names_subscribe);
            }
        }
    }

    async fn acknowledged(&mut self) -> DeltaDiscoveryRequest {
        loop {
            let request = self.request().await;
            if !request.response_nonce.is_empty() {
                return request;
            }
        }
    }

    fn send(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).unwrap();
    }

    /// Answers for `shop/a:80` until all of it is delivered.
    async fn serve(&mut self, ports: &[u32]) {
        for index in 0..4 {
            let (type_url, names) = self.asked().await;
            assert_eq!(names, ["shop/a:80"], "{type_url}");
            let kind = crate::xds::decode::kind(&type_url).unwrap();
            self.send(response(kind, &index.to_string(), vec![whole(kind, ports)], &[]));
        }
    }
}

/// The resource `shop/a:80` of each kind.
fn whole(kind: Kind, ports: &[u32]) -> envoy_types::pb::envoy::service::discovery::v3::Resource {
    use envoy_types::pb::envoy::config::route::v3::route::Action;
    let name = "shop/a:80";
    match kind {
        Kind::Listener => resource(name, "l1", listener(name, name)),
        Kind::Route => resource(name, "r1", routes(name, vec![route(Action::Route(forward(name)))])),
        Kind::Cluster => resource(name, "c1", cluster(name)),
        Kind::Endpoints => resource(name, &format!("e{ports:?}"), endpoints(name, ports)),
    }
}

#[derive(Clone)]
struct Server(mpsc::UnboundedSender<Opened>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<tonic::Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<tonic::Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (forward, requests) = mpsc::unbounded_channel();
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        let (responses, sent) = mpsc::unbounded_channel();
        let mut incoming = request.into_inner();
        start(async move {
            while let Ok(Some(request)) = incoming.message().await {
                if forward.send(request).is_err() {
                    return;
                }
            }
        });
        self.0
            .send(Opened { authorization, requests, responses, number: 0.0 })
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(sent))))
    }
}

#[expect(clippy::disallowed_methods, reason = "a task of a test")]
fn start(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// A server that hands every stream to the test, on a thread of its own. Killed when dropped, with all its
/// connections.
struct Running {
    address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Opened>,
    alive: Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

impl Running {
    fn at(address: &str) -> Self {
        Self::with(address, |listener, server| Box::pin(serve(listener, server)))
    }

    fn with(
        address: &str,
        serve: impl FnOnce(TcpListener, Server) -> Pin<Box<dyn Future<Output = ()>>> + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, streams) = mpsc::unbounded_channel();
        let (alive, dropped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(TcpListener::from_std(listener).unwrap(), Server(opened)) => {}
                    _ = dropped => {}
                }
            });
        });
        Self { address, streams, alive: Some((alive, thread)) }
    }

    fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    async fn stream(&mut self) -> Opened {
        tokio::time::timeout(PATIENCE, self.streams.recv())
            .await
            .expect("a stream in time")
            .expect("a stream")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (alive, thread) = self.alive.take().unwrap();
        drop(alive);
        thread.join().unwrap();
    }
}

async fn serve(listener: TcpListener, server: Server) {
    while let Ok((connection, _)) = listener.accept().await {
        start(talk(connection, server.clone()));
    }
}

async fn talk(connection: impl AsyncRead + AsyncWrite + Unpin, server: Server) {
    let service = AggregatedDiscoveryServiceServer::new(server);
    let answer = hyper::service::service_fn(move |request| service.clone().call(request));
    let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = http2.serve_connection(TokioIo::new(connection), answer).await;
}

/// A client that runs, with what a test looks at.
struct Proxy {
    handle: Handle,
    config: Arc<ArcSwap<ProxyConfig>>,
    retired: mpsc::UnboundedReceiver<Retired>,
    task: JoinHandle<()>,
}

impl Proxy {
    fn of(address: SocketAddr) -> Self {
        Self::with(format!("http://{address}").parse().unwrap())
    }

    fn with(operator: Operator) -> Self {
        let config = Arc::new(ArcSwap::from_pointee(ProxyConfig::default()));
        let options = Options { operator, pod: "shop/frontend-1".to_owned() };
        let (client, handle, retired) = Client::new(options, Arc::clone(&config));
        let task = start(client.run());
        Self { handle, config, retired, task }
    }

    async fn until(&self, what: impl Fn(&State) -> bool) -> State {
        let mut watch = self.handle.watch();
        let seen = tokio::time::timeout(PATIENCE, watch.wait_for(|state| what(state))).await;
        seen.unwrap_or_else(|_| panic!("not in time: {:?}", self.handle.state())).unwrap().clone()
    }

    fn ports(&self) -> Vec<u16> {
        let config = self.config.load();
        match config.destinations.get("shop/a:80").map(AsRef::as_ref) {
            Some(Destination::Known(service)) => {
                let cluster = service.clusters[0].as_ref().unwrap();
                cluster.endpoints.iter().map(|endpoint| endpoint.address().port()).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn asks_until_all_is_there_and_puts_it_in_force_before_it_acknowledges() {
    let mut server = Running::start();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    let first = stream.request().await;
    let node = first.node.unwrap();
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("shop/frontend-1", "shop"));
    assert_eq!(first.resource_names_subscribe, ["shop/a:80"]);
    stream.send(response(Kind::Listener, "0", vec![whole(Kind::Listener, &[])], &[]));
    for kind in [Kind::Route, Kind::Cluster] {
        stream.asked().await;
        stream.send(response(kind, "1", vec![whole(kind, &[])], &[]));
    }
    stream.asked().await;
    assert!(!proxy.handle.state().in_force("shop/a:80"));
    stream.send(response(Kind::Endpoints, "last", vec![whole(Kind::Endpoints, &[1, 2])], &[]));
    while stream.acknowledged().await.response_nonce != "last" {}
    assert_eq!(proxy.ports(), [1, 2], "in force before it was acknowledged");
    let state = proxy.until(|state| state.in_force("shop/a:80")).await;
    assert!(state.connected && state.updated.is_some());
    assert_eq!((state.responses, state.nacks, state.failures), (4, 0, 0));
}

#[tokio::test]
async fn a_change_of_endpoints_is_put_in_force_and_what_left_is_told() {
    let mut server = Running::start();
    let mut proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1, 2]).await;
    proxy.until(|state| state.in_force("shop/a:80")).await;
    stream.send(response(Kind::Endpoints, "9", vec![whole(Kind::Endpoints, &[2, 3])], &[]));
    let retired = tokio::time::timeout(PATIENCE, proxy.retired.recv()).await.unwrap().unwrap();
    assert_eq!(retired.addresses, [SocketAddr::from(([10, 0, 0, 1], 1))]);
    assert_eq!(proxy.ports(), [2, 3]);
}

/// What the operator reads of the node.
fn stream_number(node: &Node) -> f64 {
    let ours = node.metadata.as_ref().unwrap().fields["fairlead.dev"].kind.clone().unwrap();
    let value::Kind::StructValue(ours) = ours else { panic!("{ours:?}") };
    let number = ours.fields["stream"].kind.clone().unwrap();
    let value::Kind::NumberValue(number) = number else { panic!("{number:?}") };
    number
}

#[test]
fn stream_numbers_grow_also_when_the_clock_does_not() {
    let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
    assert_eq!(number(0, at(1_000)), 1_000);
    assert_eq!(number(1_000, at(1_000)), 1_001);
    assert_eq!(number(1_001, at(900)), 1_002);
    assert_eq!(number(1_002, at(5_000)), 5_000);
    assert_eq!(number(3, UNIX_EPOCH - Duration::from_secs(1)), 4);
}

#[tokio::test]
async fn a_server_that_dies_takes_nothing_away_and_is_told_on_return_what_is_held() {
    let mut server = Running::start();
    let address = server.address;
    let proxy = Proxy::of(address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1]).await;
    let earlier = stream.number;
    proxy.until(|state| state.in_force("shop/a:80")).await;

    drop(server);
    let state = proxy.until(|state| !state.connected && state.failures > 0).await;
    assert!(state.in_force("shop/a:80") && state.last_failure.is_some());
    assert_eq!(proxy.ports(), [1]);

    let mut server = Running::at(&address.to_string());
    let mut stream = server.stream().await;
    let mut versions = std::collections::BTreeMap::new();
    for _ in 0..4 {
        let request = stream.request().await;
        assert_eq!(request.resource_names_subscribe, ["shop/a:80"]);
        versions.extend(request.initial_resource_versions.into_values().map(|version| (version, ())));
    }
    assert_eq!(versions.into_keys().collect::<Vec<_>>(), ["c1", "e[1]", "l1", "r1"]);
    assert!(stream.number > earlier && earlier > 0.0, "{} {earlier}", stream.number);
    let state = proxy.until(|state| state.connected).await;
    assert!(state.in_force("shop/a:80"));

    // A server that comes back empty-handed says so by name, or takes nothing away.
    stream.send(response(Kind::Endpoints, "1", vec![whole(Kind::Endpoints, &[5])], &[]));
    stream.acknowledged().await;
    assert_eq!(proxy.ports(), [5]);
}

#[tokio::test]
async fn a_refused_resource_is_named_and_the_last_good_one_stays() {
    let mut server = Running::start();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1]).await;
    proxy.until(|state| state.in_force("shop/a:80")).await;

    let bad = resource("shop/a:80", "e2", endpoints("shop/a:80", &[70_000]));
    stream.send(response(Kind::Endpoints, "bad", vec![bad], &[]));
    let nack = loop {
        let answer = stream.acknowledged().await;
        if answer.response_nonce == "bad" {
            break answer.error_detail.unwrap().message;
        }
    };
    assert!(nack.starts_with("shop/a:80: endpoints[0].lb_endpoints[0]: port_value 70000"), "{nack}");
    let state = proxy.until(|state| state.nacks == 1).await;
    assert_eq!(state.last_nack.as_deref(), Some(nack.as_str()));
    assert!(state.in_force("shop/a:80"));
    assert_eq!(proxy.ports(), [1]);
}

#[tokio::test]
async fn names_come_and_go_at_run_time() {
    let mut server = Running::start();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1]).await;
    proxy.until(|state| state.in_force("shop/a:80")).await;

    proxy.handle.subscribe("10.96.0.1:80");
    proxy.handle.subscribe("10.96.0.1:80");
    assert_eq!(stream.asked().await.1, ["10.96.0.1:80"]);
    stream.send(response(Kind::Listener, "7", vec![], &["10.96.0.1:80"]));
    proxy.until(|state| state.listeners.get("10.96.0.1:80") == Some(&Known::Absent)).await;
    assert!(matches!(proxy.config.load().destinations["10.96.0.1:80"].as_ref(), Destination::Unknown));

    proxy.handle.unsubscribe("shop/a:80");
    proxy.until(|state| !state.listeners.contains_key("shop/a:80")).await;
    let mut taken_back = Vec::new();
    while taken_back.len() < 4 {
        let request = stream.request().await;
        taken_back.extend(request.resource_names_unsubscribe);
    }
    assert_eq!(taken_back, ["shop/a:80"; 4]);
    assert!(!proxy.config.load().destinations.contains_key("shop/a:80"));
}

#[tokio::test]
async fn a_server_that_sends_rubbish_loses_nothing_of_ours() {
    let mut server = Running::start();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1]).await;
    proxy.until(|state| state.in_force("shop/a:80")).await;

    let garbage = |kind| envoy_types::pb::google::protobuf::Any {
        type_url: crate::xds::decode::type_url(kind).to_owned(),
        value: vec![0xff; 1000],
    };
    for kind in Kind::ALL {
        stream.send(response(kind, "x", vec![wrapped("shop/a:80", "x", garbage(kind))], &["stranger"]));
    }
    stream.send(DeltaDiscoveryResponse {
        type_url: "nonsense".to_owned(),
        ..DeltaDiscoveryResponse::default()
    });
    stream.send(DeltaDiscoveryResponse::default());
    let state = proxy.until(|state| state.nacks == 4 && state.meaningless == 2).await;
    assert!(state.in_force("shop/a:80"));

    stream.responses.send(Err(Status::internal("I am not well"))).unwrap();
    let state = proxy.until(|state| state.failures == 1).await;
    assert!(state.last_failure.unwrap().contains("I am not well"));
    assert_eq!(proxy.ports(), [1]);
    let mut stream = server.stream().await;
    stream.serve(&[2]).await;
    proxy.until(|state| state.responses == 12).await;
    assert_eq!(proxy.ports(), [2]);
}

#[tokio::test]
async fn a_response_over_the_limit_ends_the_stream_and_nothing_else() {
    let mut server = Running::start();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1]).await;
    proxy.until(|state| state.in_force("shop/a:80")).await;
    let mut giant = response(Kind::Endpoints, "x", vec![], &[]);
    giant.system_version_info = "x".repeat(MAX_RESPONSE);
    stream.send(giant);
    let state = proxy.until(|state| state.failures == 1).await;
    assert!(state.last_failure.unwrap().contains("decoded message length too large"));
    assert_eq!(proxy.ports(), [1]);
    server.stream().await;
}

/// A server that answers every connection with these bytes.
async fn blunt(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    start(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.write_all(answer).await;
            let mut buffer = [0; 1024];
            while !answer.is_empty() && matches!(connection.read(&mut buffer).await, Ok(count) if count > 0) {
            }
        }
    });
    address
}

#[tokio::test]
async fn what_is_no_xds_server_at_all_is_tried_again() {
    for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0xff; 100], b"SSH-2.0-OpenSSH_9.9\r\n"] {
        let proxy = Proxy::of(blunt(answer).await);
        proxy.handle.subscribe("shop/a:80");
        proxy.until(|state| state.failures >= 2).await;
        let waits = Known::Awaited("waits for the listener shop/a:80".to_owned());
        assert_eq!(proxy.handle.state().listeners["shop/a:80"], waits);
    }
}

/// It takes the connection and then says nothing: the pings find it out.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::of(listener.local_addr().unwrap());
    proxy.handle.subscribe("shop/a:80");
    let mut connections = vec![listener.accept().await.unwrap().0];
    let begin = tokio::time::Instant::now();
    let state = proxy.until(|state| state.failures == 1).await;
    assert!(begin.elapsed() <= PING_INTERVAL + PING_TIMEOUT + CONNECT_TIMEOUT, "{state:?}");
    connections.push(listener.accept().await.unwrap().0);
}

#[tokio::test]
async fn a_stream_that_is_refused_is_tried_again() {
    let mut server = Running::start();
    server.streams.close();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let state = proxy.until(|state| state.failures >= 3).await;
    assert!(state.last_failure.unwrap().contains("the test is over"));
}

#[tokio::test]
async fn names_that_are_dropped_while_there_is_no_server_leave_the_configuration() {
    let mut server = Running::start();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1]).await;
    proxy.until(|state| state.in_force("shop/a:80")).await;
    drop(server);
    proxy.until(|state| !state.connected).await;
    proxy.handle.unsubscribe("shop/a:80");
    proxy.until(|state| state.listeners.is_empty()).await;
    assert!(proxy.config.load().destinations.is_empty());
}

#[tokio::test]
async fn ends_when_nobody_needs_it() {
    let server = Running::start();
    let mut proxy = Proxy::of(server.address);
    let (orphan, _) = watch::channel(BTreeSet::new());
    proxy.handle.wanted = orphan;
    tokio::time::timeout(PATIENCE, &mut proxy.task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_silent_server_does_not_answer_is_given_up_after_a_while() {
    let config = Arc::new(ArcSwap::from_pointee(ProxyConfig::default()));
    let options = Options { operator: "http://127.0.0.1:1".parse().unwrap(), pod: "shop/a".to_owned() };
    let (mut client, _handle, _retired) = Client::new(options, Arc::clone(&config));
    client.subscription.opened(node("shop/a", 1));
    client.assembler.want(&BTreeSet::from(["shop/a:80".into()]));
    client.subscription.want(Kind::Listener, BTreeSet::from(["shop/a:80".into()]));
    while client.subscription.request(now()).is_some() {}
    client.receive(response(Kind::Listener, "1", vec![whole(Kind::Listener, &[])], &[]));
    while client.subscription.request(now()).is_some() {}
    let begin = tokio::time::Instant::now();
    until(client.subscription.next_expiry()).await;
    assert_eq!(begin.elapsed().as_secs(), 15);
    client.give_up();
    let config = config.load();
    let Destination::Known(service) = config.destinations["shop/a:80"].as_ref() else { panic!() };
    assert!(service.routes.as_ref().unwrap().virtual_hosts.is_empty());
}

#[tokio::test]
async fn who_is_asked_to_come_again_comes_and_has_not_failed() {
    let mut server = Running::start();
    let proxy = Proxy::of(server.address);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    stream.serve(&[1]).await;
    proxy.until(|state| state.in_force("shop/a:80")).await;

    stream.responses.send(Err(Status::unavailable("your token expires; come again"))).unwrap();
    let mut stream = server.stream().await;
    assert_eq!(stream.request().await.initial_resource_versions.len(), 1);
    let state = proxy.until(|state| state.connected).await;
    assert_eq!((state.failures, state.last_failure), (0, None));
    assert!(state.listeners["shop/a:80"] == Known::InForce);
    assert_eq!(proxy.ports(), [1]);
}

#[test]
fn a_server_that_asks_too_often_is_no_better_than_one_that_fails() {
    let mut backoff = Backoff::default();
    let mut now = tokio::time::Instant::now().into_std();
    backoff.next(now, 1.0);
    backoff.connected(now);
    assert_eq!(backoff.asked(now, 1.0), None, "it has answered nothing");
    backoff.responded = true;
    assert_eq!(backoff.asked(now, 1.0), Some(COME_AGAIN));
    assert_eq!(backoff.failures, 0);
    backoff.connected(now);
    backoff.responded = true;
    assert_eq!(backoff.asked(now, 1.0), None, "it has just asked");
    now += COME_AGAIN_APART;
    assert_eq!(backoff.asked(now, 0.5), Some(COME_AGAIN / 2));
    backoff.connected(now);
    assert_eq!(backoff.asked(now + MAX_BACKOFF, 0.0), Some(Duration::ZERO), "there was nothing to answer");
}

#[test]
fn waits_grow_with_full_jitter_and_start_again_after_a_connection_that_lasted() {
    let mut backoff = Backoff::default();
    let now = tokio::time::Instant::now().into_std();
    let most: Vec<_> = (0..9).map(|_| backoff.next(now, 1.0).as_millis()).collect();
    assert_eq!(most, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
    assert_eq!(backoff.next(now, 0.0), Duration::ZERO);
    assert_eq!(backoff.next(now, 0.5), Duration::from_secs(5));

    backoff.connected(now);
    assert_eq!(backoff.next(now + Duration::from_secs(9), 1.0), MAX_BACKOFF, "it did not last");
    backoff.connected(now);
    assert_eq!(backoff.next(now + Duration::from_secs(10), 1.0), FIRST_BACKOFF);
    for _ in 0..100 {
        assert!(backoff.next(now, 1.0) <= MAX_BACKOFF);
    }
}
