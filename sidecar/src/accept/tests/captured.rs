use super::world::*;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::accept::Admitted;
use crate::accept::captured::{Captured, Caught, Visitor, serve};
use crate::accept::tests::inbound::limited;
use crate::capture::Capture;
use crate::cli::Probe;
use crate::config::{Destination, Inbound, Protocol, ProxyConfig};
use crate::drain::Phase;
use crate::metrics::Direction;
use crate::proxy::Proxy;
use crate::rate_limit::{InboundSettings, RateLimiter};
use crate::spawn;
use crate::xds::client::{Handle, State};

const VIRTUAL: &str = "10.96.3.7:9080";

/// A pod of which nothing is redirected: the test says where each connection was meant to go.
struct PodOf {
    proxy: Arc<Proxy>,
    captured: Arc<Captured>,
    visitors: mpsc::Receiver<Visitor>,
    wanted: watch::Sender<BTreeSet<Arc<str>>>,
    _state: watch::Sender<State>,
}

impl PodOf {
    /// The operator is there, and has said all that it will.
    fn new(proxy: Arc<Proxy>) -> Self {
        let _state = watch::Sender::new(State { connected: false, ..State::default() });
        let wanted = watch::Sender::default();
        let xds = Handle::new(wanted.clone(), _state.subscribe());
        let (page, visitors) = mpsc::channel(1);
        let addresses = vec!["127.0.0.1".parse().unwrap()];
        let pages = vec![(15021, page)];
        let captured = Captured::new(
            addresses,
            Arc::new(Capture::new(&[])),
            pages,
            (&xds, &proxy.config),
            &proxy.metrics,
        );
        Self { proxy, captured: Arc::new(captured), visitors, wanted, _state }
    }

    fn with(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let mut config = ProxyConfig::default();
        change(&mut config);
        let (mut proxies, _) = World::new(&[]).proxies(1);
        let proxy = proxies.remove(0);
        proxy.config.store(Arc::new(config));
        Self::new(proxy)
    }

    /// Where connections are taken for ones to `original`.
    async fn door(&self, direction: Direction, original: &str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (proxy, captured) = (Arc::clone(&self.proxy), Arc::clone(&self.captured));
        let original = original.parse().unwrap();
        spawn::task(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let admitted = Admitted::new(&proxy, direction);
                let caught = Caught { stream, peer, original, admitted };
                spawn::task(serve(Arc::clone(&proxy), Arc::clone(&captured), caught, direction));
            }
        });
        address
    }

    async fn calls(&self, original: &str) -> SocketAddr {
        self.door(Direction::Outbound, original).await
    }

    fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.proxy.metrics.register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        page
    }
}

#[tokio::test]
async fn a_known_service_is_balanced() {
    let ((one, at_one), (two, at_two)) = (http1(ok).await, http1(ok).await);
    let (mut proxies, _) = World::new(&[one, two]).proxies(1);
    let proxy = proxies.remove(0);
    let mut config = ProxyConfig::default();
    let service = Arc::clone(&proxy.config.load().destinations[NAME]);
    config.destinations.insert(VIRTUAL.into(), service);
    proxy.config.store(Arc::new(config));
    let pod = PodOf::new(proxy);
    let address = pod.calls(VIRTUAL).await;
    for _ in 0..4 {
        let answer = call(address, &get("/")).await;
        assert!(answer.contains("x-fairlead-target: shop/reviews:9080#default"), "{answer}");
    }
    assert!(at_one.load(Ordering::SeqCst) > 0 && at_two.load(Ordering::SeqCst) > 0);
    assert_eq!(pod.wanted.borrow().iter().map(AsRef::as_ref).collect::<Vec<_>>(), [VIRTUAL]);
    let page = pod.metrics();
    assert!(page.contains(r#"service="shop/reviews:9080",rule="shop/reviews#default",code="2xx""#), "{page}");
    assert!(!page.contains(r#"service="10.96"#), "a Service port is one label: {page}");
}

#[tokio::test]
async fn the_unknown_is_passed_through_unaltered() {
    let (echo, _) = backend(|mut stream: TcpStream| async move {
        stream.write_all(b"220 first\r\n").await.unwrap(); // Before a byte of the caller.
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap(); // Until its half-close.
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let pod = PodOf::with(|config| {
        config.destinations.insert(echo.to_string().into(), Arc::new(Destination::Unknown));
    });
    let address = pod.calls(&echo.to_string()).await;
    let mut caller = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 11];
    soon(caller.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 first\r\n");
    // No proxy would let this through that looks at it.
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Fairlead-Target: kept\r\n\r\n";
    caller.write_all(request).await.unwrap();
    caller.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(caller.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, request);
    let page = pod.metrics();
    for line in [
        r#"fairlead_passthrough_connections_total{reason="unknown"} 1"#,
        r#"fairlead_connections_accepted_total{direction="outbound",protocol="passthrough"} 1"#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[tokio::test]
async fn without_an_operator_all_is_passed_through() {
    let (server, _) =
        http1(|request| ok(if request.contains("x-fairlead") { "altered" } else { "as it was" })).await;
    let pod = PodOf::with(|_| {});
    let answer = call(pod.calls(&server.to_string()).await, &get("/")).await;
    assert!(answer.ends_with("as it was"), "{answer}");
    assert!(pod.metrics().contains(r#"fairlead_passthrough_connections_total{reason="disconnected"} 1"#));
}

#[tokio::test]
async fn where_nobody_listens_the_caller_is_reset_and_so_is_who_is_cut_off() {
    let pod = PodOf::with(|_| {});
    let mut caller = TcpStream::connect(pod.calls(&closed().await.to_string()).await).await.unwrap();
    let error = soon(caller.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let (cut, _) = backend(|mut stream: TcpStream| async move {
        stream.read_exact(&mut [0]).await.unwrap();
        crate::opaque::reset(&stream);
    })
    .await;
    let mut caller = TcpStream::connect(pod.calls(&cut.to_string()).await).await.unwrap();
    caller.write_all(b"x").await.unwrap();
    let error = soon(caller.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn nobody_calls_us_through_ourselves() {
    let pod = PodOf::with(|_| {});
    for (direction, original) in [
        (Direction::Outbound, "127.0.0.1:15006"),
        (Direction::Outbound, "127.0.0.1:15001"),
        (Direction::Outbound, "[::1]:15002"),
        (Direction::Inbound, "127.0.0.1:15006"),
        (Direction::Inbound, "127.0.0.1:15001"),
    ] {
        let mut caller = TcpStream::connect(pod.door(direction, original).await).await.unwrap();
        assert_eq!(soon(caller.read(&mut [0])).await.unwrap(), 0, "{direction:?} {original}");
    }
    assert!(pod.wanted.borrow().is_empty());
}

#[tokio::test]
async fn a_service_that_has_gone_is_left() {
    let (endpoint, _) = http1(ok).await;
    let (mut proxies, _) = World::new(&[endpoint]).proxies(1);
    let proxy = proxies.remove(0);
    let service = Arc::clone(&proxy.config.load().destinations[NAME]);
    let mut config = ProxyConfig::default();
    config.destinations.insert(VIRTUAL.into(), service);
    proxy.config.store(Arc::new(config));
    let pod = PodOf::new(proxy);
    let mut caller = TcpStream::connect(pod.calls(VIRTUAL).await).await.unwrap();
    caller.write_all(get("/").as_bytes()).await.unwrap();
    assert!(soon(read_message(&mut caller)).await.unwrap().starts_with("HTTP/1.1 200 "));
    let mut config = ProxyConfig::default();
    config.destinations.insert(VIRTUAL.into(), Arc::new(Destination::Unknown));
    pod.proxy.config.store(Arc::new(config));
    caller.write_all(get("/").as_bytes()).await.unwrap();
    let answer = soon(read_message(&mut caller)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection: close\r\n"), "{answer}");
}

/// A pod whose endpoint has this limit, and where it is called.
async fn serving(application: SocketAddr, limits: InboundSettings, probes: &[Probe]) -> (PodOf, SocketAddr) {
    let mut pod = PodOf::with(|config| {
        let limits = Arc::new(RateLimiter::new(limits, None));
        config.inbound.insert(application, Arc::new(Inbound { protocol: Protocol::Detect, limits }));
    });
    let proxy = Proxy { probes: probes.into(), ..(*pod.proxy).clone() };
    pod.proxy = Arc::new(proxy);
    let address = pod.door(Direction::Inbound, &application.to_string()).await;
    (pod, address)
}

#[tokio::test]
async fn limits_hold_and_probes_are_free_of_them_and_of_draining() {
    let (application, _) = http1(|_| ok("fine")).await;
    let probe = Probe { port: application.port(), path: "/healthz".into() };
    let (pod, address) = serving(application, limited(1), &[probe]).await;
    assert!(call(address, &get("/")).await.starts_with("HTTP/1.1 200 "));
    assert!(call(address, &get("/")).await.starts_with("HTTP/1.1 429 "));
    for _ in 0..3 {
        let answer = call(address, &get("/healthz?full=1")).await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200 ") && !answer.contains("ratelimit"), "{answer}");
    }
    pod.proxy.drain.advance(Phase::Draining);
    let answer = call(address, &get("/healthz")).await;
    assert!(answer.ends_with("fine") && !answer.contains("connection: close"), "{answer}");
    let answer = call(address, &get("/")).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(pod.wanted.borrow().contains(format!("inbound/{application}").as_str()));
}

#[tokio::test]
async fn an_application_that_does_not_listen_resets_who_says_nothing() {
    let (_pod, address) = serving(closed().await, InboundSettings::default(), &[]).await;
    let mut caller = TcpStream::connect(address).await.unwrap();
    let error = soon(caller.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn visitors_of_our_pages_are_handed_over() {
    let mut pod = PodOf::with(|_| {});
    let address = pod.door(Direction::Inbound, "10.0.0.1:15021").await;
    let _caller = TcpStream::connect(address).await.unwrap();
    let visitor = soon(pod.visitors.recv()).await.unwrap();
    assert_eq!(visitor.stream.local_addr().unwrap(), address);
    assert!(pod.wanted.borrow().is_empty());
}
