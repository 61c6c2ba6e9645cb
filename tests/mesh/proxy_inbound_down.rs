//! An endpoint whose sidecar accepts and whose application is down: for callers as if nobody had accepted.

use std::net::SocketAddr;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Answer, Call, Http1, Http2};
use fairlead_tests::until::holds;
use fairlead_tests::world::{Sidecar, SidecarFlags, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const UNPROCESSED: &str = "x-fairlead-unprocessed";

/// Retries after what the rule calls a connect failure, and nothing else.
const ROUTE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  loadBalancer: {type: RoundRobin}
  retryConstraint: {budget: {percent: 100, interval: 10s}}
  rules:
  - matches: [{path: {value: /once}}]
    backendRefs: [{name: reviews, port: 9080}]
    retry: {attempts: 0}
  - backendRefs: [{name: reviews, port: 9080}]
    retry: {attempts: 2, conditions: [ConnectFailure], backoff: 1ms}
";

const EJECTION: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: OutlierDetection
metadata: {name: reviews, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: reviews}]
  consecutiveErrors: 3
  errors: [ConnectFailure]
  ejection: {baseTime: 1h, maxTime: 1h, maxPercent: 50}
";

/// Two endpoints, each behind a sidecar; only the first has its application.
struct Reviews {
    world: World,
    application: Backend,
    _endpoints: Vec<Sidecar>,
    caller: Sidecar,
    address: SocketAddr,
    /// The endpoint that has none.
    down: SocketAddr,
}

async fn reviews(protocol: &str, policies: &str) -> Reviews {
    let mut world = World::new();
    world.service("shop/reviews", 9080, protocol);
    let (up, down) = (world.host(), world.host());
    let application = Backend::start("up", SocketAddr::new(up, 19080), Behaviour::Ok).await;
    world.ready_endpoints("shop/reviews", &[up, down]);
    world.apply("policies", policies);
    world.start_operator().await;
    let mut endpoints = Vec::new();
    for host in [up, down] {
        let flags = SidecarFlags::serving(
            "shop/reviews-0",
            SocketAddr::new(host, 9080),
            SocketAddr::new(host, 19080),
        );
        endpoints.push(world.sidecar(&flags).await);
    }
    let caller = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = caller.upstream("shop/reviews:9080").await;
    let down = SocketAddr::new(down, 9080);
    Reviews { world, application, _endpoints: endpoints, caller, address, down }
}

/// A caller over either protocol.
enum Caller {
    One(Http1),
    Two(Http2),
}

impl Caller {
    async fn connect(protocol: &str, address: SocketAddr) -> Self {
        match protocol {
            "http" => Self::One(Http1::connect(address).await.unwrap()),
            _ => Self::Two(Http2::connect(address).await.unwrap()),
        }
    }

    async fn call(&mut self, call: &Call) -> Answer {
        match self {
            Self::One(connection) => connection.call(call).await.unwrap(),
            Self::Two(connection) => connection.call(call).await.unwrap(),
        }
    }
}

fn post(path: &str, number: usize) -> Call {
    Call::post(path, format!("review {number}")).header("x-id", &number.to_string())
}

#[tokio::test]
async fn a_post_over_http1_is_sent_elsewhere_and_processed_once() {
    sent_elsewhere("http").await;
}

#[tokio::test]
async fn a_post_over_http2_is_sent_elsewhere_and_processed_once() {
    sent_elsewhere("h2c").await;
}

async fn sent_elsewhere(protocol: &str) {
    let reviews = reviews(protocol, ROUTE).await;
    let mut caller = Caller::connect(protocol, reviews.address).await;
    for number in 0..20 {
        let answer = caller.call(&post("/", number)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["body"], format!("review {number}"));
        assert_eq!(answer.header(UNPROCESSED), None);
    }
    let processed = reviews.application.processed_ids();
    assert!(processed.len() == 20 && processed.values().all(|times| *times == 1), "{processed:?}");

    // Without retries callers hear of it, in our words and without the sidecars' word.
    let mut refused = 0;
    for number in 20..30 {
        let answer = caller.call(&post("/once", number)).await;
        assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
        assert_eq!(answer.header(UNPROCESSED), None);
        refused += usize::from(answer.status == 503);
    }
    assert_eq!(refused, 5);
    assert_eq!(reviews.application.total(), 25);
}

#[tokio::test]
async fn it_counts_for_ejection_over_http1() {
    ejected("http").await;
}

#[tokio::test]
async fn it_counts_for_ejection_over_http2() {
    ejected("h2c").await;
}

async fn ejected(protocol: &str) {
    let reviews = reviews(protocol, &format!("{ROUTE}---{EJECTION}")).await;
    let mut caller = Caller::connect(protocol, reviews.address).await;
    for number in 0..20 {
        assert_eq!(caller.call(&post("/", number)).await.status, 200);
    }
    let page = reviews.caller.page("/clusters").await;
    let endpoints = page["shop/reviews:9080"]["endpoints"].as_array().unwrap().clone();
    assert_eq!(endpoints.len(), 2);
    for endpoint in endpoints {
        let wanted = if endpoint["address"] == reviews.down.to_string() { "ejected" } else { "in" };
        assert_eq!(endpoint["state"], wanted, "{endpoint}");
    }
    // Nobody meets it any more.
    for number in 20..40 {
        assert_eq!(caller.call(&post("/once", number)).await.status, 200);
    }
    assert_eq!(page["shop/reviews:9080"]["ejections"]["ejected"], 1);
}

#[tokio::test]
async fn an_application_that_comes_back_is_called_again() {
    let reviews = reviews("http", ROUTE).await;
    let mut caller = Caller::connect("http", reviews.address).await;
    assert_eq!(caller.call(&post("/", 0)).await.status, 200);
    let back = SocketAddr::new(reviews.down.ip(), 19080);
    let back = Backend::start("back", back, Behaviour::Ok).await;
    let mut number = 0;
    while back.total() == 0 {
        number += 1;
        assert!(number < 10, "round robin leads to it at every second call");
        assert_eq!(caller.call(&post("/once", number)).await.status, 200);
    }
    drop(reviews.world);
}

/// Answers 503 with the word that only sidecars may say, and keeps what it was sent.
async fn liar(address: SocketAddr) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let listener = TcpListener::bind(address).await.unwrap();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"body")
                && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0)
            {}
            let answer = format!(
                "HTTP/1.1 503 Busy\r\n{UNPROCESSED}: a lie\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"
            );
            let _ = tell.send(String::from_utf8_lossy(&request).to_ascii_lowercase());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    told
}

#[tokio::test]
async fn the_word_of_the_sidecars_is_no_applications_word() {
    let mut world = World::new();
    world.service("shop/reviews", 9080, "http");
    let hosts = [world.host(), world.host()];
    world.ready_endpoints("shop/reviews", &hosts);
    world.apply("route", ROUTE);
    world.start_operator().await;
    let (mut told, mut endpoints) = (Vec::new(), Vec::new());
    for host in hosts {
        let (listen, application) = (SocketAddr::new(host, 9080), SocketAddr::new(host, 19080));
        told.push(liar(application).await);
        endpoints.push(world.sidecar(&SidecarFlags::serving("shop/reviews-0", listen, application)).await);
    }
    let caller = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = caller.upstream("shop/reviews:9080").await;

    let call = Call::post("/", "body")
        .header(UNPROCESSED, "a lie of the caller")
        .header("x-fairlead-target", "a/b:1");
    let answer = fairlead_tests::client::call(address, &call).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"), "the application's own answer");
    assert_eq!(answer.header(UNPROCESSED), None);
    // It was processed, so nobody else got it.
    let mut requests = Vec::new();
    for told in &mut told {
        while let Ok(request) = told.try_recv() {
            requests.push(request);
        }
    }
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(!requests[0].contains("x-fairlead"), "{}", requests[0]);
    holds("nothing is in flight", || async {
        caller.page("/clusters").await["shop/reviews:9080"]["pool"]["requests"] == 0
    })
    .await;
}
