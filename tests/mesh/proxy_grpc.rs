//! gRPC through two sidecars: the caller's and the callee's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use fairlead_tests::client::{self, Http1};
use fairlead_tests::rpc::{Application, Client, prefixed};
use fairlead_tests::until::{eventually, holds};
use fairlead_tests::world::{Sidecar, SidecarFlags, World};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const ROUTE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: product, namespace: shop}
spec:
  parentRefs: [{name: product}]
  loadBalancer: {type: RoundRobin}
  rules:
  - backendRefs: [{name: product, port: 9000}]
    retry: {attempts: 1, backoff: 1ms}
";

/// Letters of one to four bytes.
const MESSAGE: &str = "Bücher, 製品, продукт, 🚢 and \u{0} too";

/// `shop/product` with instances behind sidecars of their own, and the sidecar of its caller.
struct Product {
    world: World,
    applications: Vec<Application>,
    endpoints: Vec<Sidecar>,
    caller: Sidecar,
    address: SocketAddr,
}

async fn product(instances: usize) -> Product {
    let mut world = World::new();
    world.service("shop/product", 9000, "grpc");
    let hosts: Vec<IpAddr> = (0..instances).map(|_| world.host()).collect();
    world.ready_endpoints("shop/product", &hosts);
    world.apply("route", ROUTE);
    world.start_operator().await;
    let (mut applications, mut endpoints) = (Vec::new(), Vec::new());
    for (number, host) in hosts.into_iter().enumerate() {
        let (listen, application) = (SocketAddr::new(host, 9000), SocketAddr::new(host, 19000));
        applications.push(Application::start(&format!("product-{number}"), application).await);
        let flags = SidecarFlags::serving(&format!("shop/product-{number}"), listen, application);
        endpoints.push(world.sidecar(&flags).await);
    }
    let caller = world.sidecar(&SidecarFlags::calling("shop/order-0", &["shop/product:9000"])).await;
    let address = caller.upstream("shop/product:9000").await;
    Product { world, applications, endpoints, caller, address }
}

/// The application `order`: for each GET /orders it asks `product`, all over one connection.
async fn order(address: SocketAddr, product: Client) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let product = product.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let product = product.clone();
                async move { Ok::<_, Infallible>(orders(&request, &product).await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

async fn orders(request: &Request<Incoming>, product: &Client) -> Response<Full<Bytes>> {
    assert_eq!(request.uri().path(), "/orders");
    let reply = product.call("Get", "1S", MESSAGE.as_bytes()).await.unwrap();
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    assert_eq!(reply.trailers["x-end"], reply.backend().as_str());
    let answer = Response::builder().header("x-backend", reply.backend());
    answer.body(Full::new(reply.messages[0].slice(5..))).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_orders_over_http_ask_product_over_grpc() {
    let mut product = product(3).await;
    let host = product.world.host();
    product.world.service("shop/order", 8080, "http");
    product.world.ready_endpoints("shop/order", &[host]);
    let (listen, application) = (SocketAddr::new(host, 8080), SocketAddr::new(host, 18080));
    order(application, Client::connect(product.address).await.unwrap()).await;
    let _order = product.world.sidecar(&SidecarFlags::serving("shop/order-0", listen, application)).await;
    let user = product.world.sidecar(&SidecarFlags::calling("shop/user", &["shop/order:8080"])).await;

    let mut connection = Http1::connect(user.upstream("shop/order:8080").await).await.unwrap();
    let mut by_backend = BTreeMap::<String, usize>::new();
    for _ in 0..30 {
        let answer = connection.call(&client::Call::get("/orders")).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, MESSAGE));
        *by_backend.entry(answer.backend().to_owned()).or_default() += 1;
    }
    // One connection of the caller, and yet each call is balanced by itself.
    assert_eq!(by_backend.values().copied().collect::<Vec<_>>(), [10, 10, 10], "{by_backend:?}");
    for application in &product.applications {
        let received = application.received();
        assert_eq!(received.len(), 10);
        for call in received {
            assert_eq!(call.bytes, prefixed(MESSAGE.as_bytes()), "identical, with the prefix");
            assert_eq!(call.headers["grpc-timeout"], "1S");
            assert_eq!(call.headers["te"], "trailers");
            assert_eq!(call.headers["content-type"], "application/grpc+proto");
            let own: Vec<_> =
                call.headers.keys().filter(|name| name.as_str().starts_with("x-fairlead")).collect();
            assert!(own.is_empty(), "{own:?}");
        }
        assert_eq!(application.accepted(), 1, "one connection to the application");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_come_as_the_application_sends_them() {
    let product = product(1).await;
    let client = Client::connect(product.address).await.unwrap();
    let failed = client.call("Fail", "", b"x").await.unwrap();
    assert_eq!((failed.status, failed.code(), failed.trailers_only), (200, Some(5), false));
    assert_eq!(failed.trailers["grpc-message"], "said%20so");
    assert!(!failed.headers.contains_key("grpc-status"));

    let refused = client.call("Refuse", "", b"x").await.unwrap();
    assert_eq!((refused.status, refused.code(), refused.trailers_only), (200, Some(7), true));
    assert_eq!(refused.trailers["x-end"], "product-0");

    let empty = client.call("Get", "", b"").await.unwrap();
    assert_eq!((empty.code(), &empty.messages[..]), (Some(0), &[prefixed(b"")][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_as_fast_as_its_reader() {
    const MESSAGES: usize = 512;
    const SIZE: usize = 64 * 1024;
    // Windows and buffers of two sidecars, four of 256 KiB each and then some; not the whole stream.
    const HELD: usize = 4 * 1024 * 1024;
    let product = product(1).await;
    let application = &product.applications[0];
    let client = Client::connect(product.address).await.unwrap();
    let mut watch = client.begin("Watch", "").await.unwrap();
    watch.send(format!("{MESSAGES} {SIZE}").as_bytes()).await.unwrap();
    watch.finish().unwrap();
    watch.head().await.unwrap();

    // Nobody reads: the application comes to a halt.
    let halted = std::cell::Cell::new((0, 0));
    holds("the application has to wait", || async {
        let (sent, same) = halted.get();
        let now = application.sent();
        halted.set((now, if now == sent && now > 0 { same + 1 } else { 0 }));
        same > 40
    })
    .await;
    let (held, _) = halted.get();
    println!("a reader that does not read lets {held} of {} bytes go", MESSAGES * (SIZE + 5));
    assert!(held < HELD, "{held}");

    // Others on the same connection do not wait for it.
    let other = client.call("Get", "1S", MESSAGE.as_bytes()).await.unwrap();
    assert_eq!((other.code(), &other.messages[..]), (Some(0), &[prefixed(MESSAGE.as_bytes())][..]));

    let reply = watch.end().await.unwrap();
    assert_eq!((reply.messages.len(), reply.code()), (MESSAGES, Some(0)));
    assert!(reply.messages.iter().all(|message| message.len() == SIZE + 5));
    assert_eq!(application.sent(), MESSAGES * (SIZE + 5));
}

/// Readers that stand still share a connection to the endpoint with everybody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stand_still_stop_nobody_else() {
    const STALLED: usize = 8;
    let product = product(1).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let client = Client::connect(product.address).await.unwrap();
        let mut watch = client.begin("Watch", "").await.unwrap();
        watch.send(b"64 65536").await.unwrap();
        watch.finish().unwrap();
        watch.head().await.unwrap();
        stalled.push(watch);
    }
    let halted = std::cell::Cell::new((0, 0));
    holds("the applications have to wait", || async {
        let (sent, same) = halted.get();
        let now = product.applications[0].sent();
        halted.set((now, if now == sent && now > 0 { same + 1 } else { 0 }));
        same > 40
    })
    .await;
    let client = Client::connect(product.address).await.unwrap();
    let reply = client.call("Get", "1S", MESSAGE.as_bytes()).await.unwrap();
    assert_eq!(reply.code(), Some(0), "{reply:?}");
    for watch in stalled {
        let reply = watch.end().await.unwrap();
        assert_eq!((reply.messages.len(), reply.code()), (64, Some(0)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_talk_in_turn() {
    let product = product(1).await;
    let client = Client::connect(product.address).await.unwrap();
    let mut chat = client.begin("Chat", "").await.unwrap();
    for number in 0..100 {
        let message = format!("{MESSAGE} {number}");
        chat.send(message.as_bytes()).await.unwrap();
        // The answer to this one before the next is sent: nothing waits in between.
        assert_eq!(chat.next().await.unwrap().unwrap(), prefixed(message.as_bytes()));
    }
    // And one that is larger than any window.
    let large = "x".repeat(3 * 1024 * 1024);
    chat.send(large.as_bytes()).await.unwrap();
    assert_eq!(chat.next().await.unwrap().unwrap(), prefixed(large.as_bytes()));
    chat.finish().unwrap();
    let reply = chat.end().await.unwrap();
    assert_eq!((reply.code(), reply.messages.len()), (Some(0), 0));
    assert_eq!(reply.trailers["x-end"], "product-0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_hears_that_its_caller_gave_up() {
    let product = product(1).await;
    let client = Client::connect(product.address).await.unwrap();
    let mut call = client.begin("Hang", "1S").await.unwrap();
    call.send(b"x").await.unwrap();
    call.finish().unwrap();
    holds("the call has arrived", || async { product.applications[0].hanging() == 1 }).await;
    call.cancel();
    let took = holds("it was cancelled", || async { product.applications[0].cancelled() == 1 }).await;
    println!("cancelled {took:?} after the caller");
    assert_eq!(client.call("Get", "1S", b"x").await.unwrap().code(), Some(0), "the connection lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_endpoint_it_is_unavailable() {
    let mut product = product(1).await;
    let client = Client::connect(product.address).await.unwrap();
    assert_eq!(client.call("Get", "1S", b"x").await.unwrap().code(), Some(0));

    let unavailable = || async {
        let reply = client.call("Get", "1S", b"x").await.unwrap();
        assert_eq!(reply.status, 200);
        (reply.code() == Some(14)).then_some(reply)
    };
    // Its application is down.
    let application = product.applications.remove(0);
    let address = application.address;
    application.stop().await;
    let (reply, _) = eventually("the application is known to be down", unavailable).await;
    assert!(reply.trailers_only, "{reply:?}");
    assert_eq!(reply.headers["content-type"], "application/grpc");
    assert!(!reply.headers.contains_key("x-fairlead-unprocessed"));
    let _back = Application::start("product-0", address).await;
    eventually("it is back", || async {
        (client.call("Get", "1S", b"x").await.unwrap().code() == Some(0)).then_some(())
    })
    .await;

    // Its sidecar is gone, too.
    product.endpoints.clear();
    let (reply, _) = eventually("the endpoint is gone", unavailable).await;
    assert!(reply.trailers_only, "{reply:?}");

    // There is no endpoint at all.
    product.world.ready_endpoints("shop/product", &[]);
    holds("no endpoint is left", || async {
        let page = product.caller.page("/clusters").await;
        page["shop/product:9000"]["endpoints"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    let reply = client.call("Get", "1S", b"x").await.unwrap();
    assert_eq!((reply.status, reply.code(), reply.trailers_only), (200, Some(14), true));
    assert!(reply.headers["grpc-message"].to_str().unwrap().contains("no endpoint"), "{reply:?}");
}
