//! Backends that do what a test wants, a configuration, a listener, callers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::accept::{self, Purpose};
use crate::cluster::{
    Balance, BudgetSettings, Cluster, ClusterSettings, EndpointSettings, EndpointSource, OutlierError,
    OutlierSettings, PoolSettings, UpstreamProtocol,
};
use crate::config::{Destination, Inbound, Protocol, ProxyConfig, Service};
use crate::drain::Drain;
use crate::inbound::Endpoint;
use crate::metrics::Metrics;
use crate::outbound::Upstream;
use crate::proxy::Proxy;
use crate::rate_limit::{InboundSettings, RateLimiter};
use crate::retry::{Condition, RetryPolicy};
use crate::route::{
    Action, Backend, Backends, HeaderChanges, PathMatcher, Rewrite, Route, RouteMatcher, RouteTable,
    VirtualHost,
};
use crate::spawn;

pub const NAME: &str = "shop/reviews:9080";

/// A test that takes longer has failed.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("took longer than ten seconds")
}

/// What a test sets; the rest is the default.
pub struct World {
    pub endpoints: Vec<SocketAddr>,
    pub upstream: UpstreamProtocol,
    pub protocol: Protocol,
    pub pool: PoolSettings,
    pub outlier: Option<OutlierSettings>,
    pub route: Route,
}

impl World {
    pub fn new(endpoints: &[SocketAddr]) -> Self {
        Self {
            endpoints: endpoints.to_vec(),
            upstream: UpstreamProtocol::Http1,
            protocol: Protocol::Http,
            pool: pool(),
            outlier: None,
            route: route(),
        }
    }

    /// The configuration in force, with a proxy for each worker.
    pub fn proxies(self, workers: usize) -> (Vec<Arc<Proxy>>, Arc<Cluster>) {
        let settings = ClusterSettings {
            name: NAME.into(),
            endpoints: EndpointSource::Eds(NAME.into()),
            balance: Balance::RoundRobin,
            pool: self.pool,
            outlier: self.outlier,
            budget: BudgetSettings { percent: 100.0, min_retries: 1000, ..BudgetSettings::default() },
            protocol: self.upstream,
            panic_threshold: 0.0,
        };
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .map(|address| EndpointSettings { address: *address, weight: 1, zone: "".into(), healthy: true })
            .collect();
        let cluster = Arc::new(Cluster::new(Arc::new(settings), &endpoints, None));
        let host = VirtualHost { domains: vec!["*".into()], routes: vec![self.route] };
        let table = RouteTable::new(NAME.into(), vec![host], vec![NAME.into()], true).unwrap();
        let service = Service {
            name: NAME.into(),
            protocol: self.protocol,
            routes: Some(Arc::new(table)),
            clusters: vec![Some(Arc::clone(&cluster))],
            opaque: Some(Arc::clone(&cluster)),
        };
        let mut config = ProxyConfig::default();
        config.destinations.insert(NAME.into(), Arc::new(Destination::Known(service)));
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (metrics, drain) = (Arc::new(Metrics::default()), Drain::default());
        let proxy =
            |worker| Arc::new(Proxy::new(worker, Arc::clone(&config), Arc::clone(&metrics), drain.clone()));
        ((0..workers).map(proxy).collect(), cluster)
    }

    /// Where callers come.
    pub async fn start(self) -> Started {
        let (proxies, cluster) = self.proxies(1);
        let proxy = Arc::clone(&proxies[0]);
        let upstream = Arc::new(Upstream::new(NAME.into(), &proxy.metrics));
        let address = listen(Arc::clone(&proxy), Purpose::Outbound(upstream)).await;
        Started { address, proxy, cluster }
    }
}

pub struct Started {
    pub address: SocketAddr,
    pub proxy: Arc<Proxy>,
    pub cluster: Arc<Cluster>,
}

impl Started {
    /// The metrics page.
    pub fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.proxy.metrics.register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        page
    }
}

async fn listen(proxy: Arc<Proxy>, purpose: Purpose) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn::task(accept::listen(proxy, listener, purpose));
    address
}

/// An inbound listener in front of `application`.
pub async fn inbound(
    application: SocketAddr,
    protocol: Protocol,
    limits: InboundSettings,
) -> (SocketAddr, Arc<Proxy>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = ProxyConfig::default();
    let limits = Arc::new(RateLimiter::new(limits, None));
    config.inbound.insert(address, Arc::new(Inbound { protocol, limits }));
    let config = Arc::new(ArcSwap::from_pointee(config));
    let proxy = Arc::new(Proxy::new(0, config, Arc::default(), Drain::default()));
    let endpoint = Endpoint::new(address.to_string().into(), address, application, &proxy.metrics);
    spawn::task(accept::listen(Arc::clone(&proxy), listener, Purpose::Inbound(Arc::new(endpoint))));
    (address, proxy)
}

pub fn pool() -> PoolSettings {
    PoolSettings {
        max_connections: None,
        max_pending_requests: None,
        pending_timeout: Duration::from_secs(3),
        max_requests: None,
        max_requests_per_connection: None,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Some(Duration::from_secs(90)),
    }
}

pub fn outlier() -> OutlierSettings {
    OutlierSettings {
        shadow: false,
        consecutive_errors: 1,
        errors: vec![
            OutlierError::GatewayError,
            OutlierError::ConnectFailure,
            OutlierError::Timeout,
            OutlierError::Reset,
        ],
        base_time: Duration::from_secs(30),
        max_time: Duration::from_secs(300),
        max_percent: 100,
        probes: 1,
    }
}

pub fn route() -> Route {
    let backend = Backend {
        cluster: 0,
        weight: 1,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
    };
    Route {
        name: "shop/reviews#default".into(),
        target: Some("shop/reviews:9080#default".parse().unwrap()),
        matcher: RouteMatcher {
            path: PathMatcher::Prefix("/".into()),
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        },
        action: Action::Forward { backends: Backends::new(vec![backend]), rewrite: Rewrite::default() },
        timeout: None,
        per_try_timeout: None,
        idle_timeout: None,
        retry: retry(),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        handles: std::sync::OnceLock::new(),
    }
}

pub fn retry() -> RetryPolicy {
    RetryPolicy {
        attempts: 2,
        conditions: vec![
            Condition::ConnectFailure,
            Condition::RefusedStream,
            Condition::ResetBeforeRequest,
            Condition::ResetOnReuse,
        ],
        codes: Vec::new(),
        grpc_codes: Vec::new(),
        methods: vec![Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(5),
    }
}

/// A port where nobody listens.
pub async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A backend that does what `serve` does with each connection, and counts them.
pub async fn backend<F, S>(serve: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(TcpStream) -> F + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    spawn::task(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            spawn::task(serve(stream));
        }
    });
    (address, accepted)
}

/// An HTTP/1.1 backend that answers each request (its head and body as text) with what `answer` says; an empty
/// answer closes.
pub async fn http1(
    answer: impl Fn(&str) -> String + Clone + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    backend(move |mut stream| {
        let answer = answer.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let answer = answer(&request);
                if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Head and body (by Content-Length only) of a request.
pub async fn read_request(stream: &mut TcpStream) -> Option<String> {
    read_message(stream).await
}

/// Head and body (by Content-Length only) of a message; None when the connection ends before.
pub async fn read_message(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(whole);
            }
        }
        let mut byte = [0; 4096];
        match stream.read(&mut byte).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => text.extend_from_slice(&byte[..read]),
        }
    }
}

/// Sends `request` on a connection of its own and reads the answer.
pub async fn call(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    soon(read_message(&mut stream)).await.expect("no answer")
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: reviews\r\n\r\n")
}

pub fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}
