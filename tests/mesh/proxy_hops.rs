//! A calls B, B calls C: what holds for the first call holds for the second, as far as the application of B
//! copies the headers of its trace.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{self, Call};
use fairlead_tests::sidecar::Sidecar;
use fairlead_tests::until::holds;
use fairlead_tests::world::{SidecarFlags, World};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

/// The application of B: calls C for each call, copies `traceparent` and the status.
struct Middle {
    calls: AtomicUsize,
    done: AtomicUsize,
    /// So many calls are answered 503 without calling C.
    refuses: usize,
    c: OnceCell<SocketAddr>,
}

impl Middle {
    fn new(refuses: usize) -> Arc<Self> {
        Arc::new(Self { calls: AtomicUsize::new(0), done: AtomicUsize::new(0), refuses, c: OnceCell::new() })
    }

    async fn serve(self: Arc<Self>, address: SocketAddr) -> JoinHandle<()> {
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let middle = Arc::clone(&self);
                let service = service_fn(move |request| Arc::clone(&middle).answer(request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        })
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        for only_sidecars in ["x-fairlead-deadline", "x-fairlead-attempt", "x-fairlead-target"] {
            assert!(!request.headers().contains_key(only_sidecars));
        }
        let status = if number < self.refuses {
            503
        } else {
            let mut call = Call::get("/");
            if let Some(trace) = request.headers().get("traceparent") {
                call = call.header("traceparent", trace.to_str().unwrap());
            }
            // In a task of its own: it goes on when our caller has left.
            let (middle, c) = (Arc::clone(&self), *self.c.get().expect("the test has said where C is"));
            let calling = tokio::spawn(async move {
                let answer = client::call(c, &call).await.unwrap();
                assert_eq!(answer.header("x-fairlead-no-retry"), None, "only sidecars say it to each other");
                middle.done.fetch_add(1, Ordering::SeqCst);
                answer.status
            });
            calling.await.unwrap()
        };
        Ok(Response::builder().status(status).body(Full::default()).unwrap())
    }
}

fn route(service: &str, rule: &str) -> String {
    format!(
        "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {{name: {service}, namespace: shop}}
spec:
  parentRefs: [{{name: {service}}}]
  retryConstraint: {{budget: {{percent: 100, interval: 10s}}, minRetryRate: {{count: 100, interval: 1s}}}}
  rules:
  - backendRefs: [{{name: {service}, port: 9080}}]
    {rule}
"
    )
}

struct Chain {
    _world: World,
    middle: Arc<Middle>,
    c: Backend,
    a: SocketAddr,
    _sidecars: [Sidecar; 2],
}

/// A's caller at `a`, the sidecar of B on both sides of its application, C a plain backend.
async fn chain(refuses: usize, a_to_b: &str, b_to_c: &str, behaviour: Behaviour) -> Chain {
    let mut world = World::new();
    world.service("shop/b", 9080, "http");
    let c = world.backends("shop/c", 9080, "http", 1).await.remove(0);
    c.set(behaviour);
    let host = world.host();
    world.ready_endpoints("shop/b", &[host]);
    world.apply("b", &route("b", a_to_b));
    world.apply("c", &route("c", b_to_c));
    world.start_operator().await;
    let (listen, application) = (SocketAddr::new(host, 9080), SocketAddr::new(host, 19080));
    let middle = Middle::new(refuses);
    Arc::clone(&middle).serve(application).await;
    let mut flags = SidecarFlags::serving("shop/b-0", listen, application);
    flags.upstreams = vec!["shop/c:9080".to_owned()];
    let of_b = world.sidecar(&flags).await;
    middle.c.set(of_b.upstream("shop/c:9080").await).unwrap();
    let of_a = world.sidecar(&SidecarFlags::calling("shop/a-0", &["shop/b:9080"])).await;
    let a = of_a.upstream("shop/b:9080").await;
    Chain { _world: world, middle, c, a, _sidecars: [of_a, of_b] }
}

fn traced() -> Call {
    Call::get("/").header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
}

const RETRY_503: &str = "retry: {attempts: 2, codes: [503], backoff: 1ms}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_at_two_hops_do_not_multiply() {
    let chain = chain(0, RETRY_503, RETRY_503, Behaviour::Status(503)).await;
    let answer = client::call(chain.a, &traced()).await.unwrap();
    assert_eq!((answer.status, answer.header("x-fairlead-no-retry")), (503, None));
    assert_eq!((chain.middle.calls.load(Ordering::SeqCst), chain.c.total()), (1, 3));
    // An application that copies nothing is not protected.
    assert_eq!(client::get(chain.a, "/").await.unwrap().status, 503);
    assert_eq!((chain.middle.calls.load(Ordering::SeqCst), chain.c.total()), (1 + 3, 3 + 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_retried_below_a_retry() {
    let chain = chain(1, RETRY_503, RETRY_503, Behaviour::Status(503)).await;
    assert_eq!(client::call(chain.a, &traced()).await.unwrap().status, 503);
    // Refused by B itself, then two retries, each of which calls C once.
    assert_eq!((chain.middle.calls.load(Ordering::SeqCst), chain.c.total()), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attempt_begins_when_nobody_waits_any_more() {
    let short = "timeouts: {request: 500ms}";
    let long = "timeouts: {request: 10s, backendRequest: 300ms}
    retry: {attempts: 5, conditions: [Timeout], backoff: 1ms}";
    let chain = chain(0, short, long, Behaviour::Stall).await;
    assert_eq!(client::call(chain.a, &traced()).await.unwrap().status, 504);
    holds("B gives up as well", || async { chain.middle.done.load(Ordering::SeqCst) == 1 }).await;
    assert!(chain.c.total() <= 2, "{} attempts of 300 ms within 500 ms", chain.c.total());
}
