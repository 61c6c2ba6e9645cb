//! A sidecar that leaves: what is in flight is finished, callers are told to go, nobody new is lost.

use std::net::SocketAddr;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Call, Http1, call, get};
use fairlead_tests::until::{eventually, holds};
use fairlead_tests::world::{SidecarFlags, World};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_sigterm_a_call_in_flight_is_answered_and_nothing_new_is_accepted() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 1).await;
    world.start_operator().await;
    let mut sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"])).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    let mut idle = Http1::connect(address).await.unwrap();
    assert_eq!(idle.call(&Call::get("/")).await.unwrap().status, 200);

    backends[0].set(Behaviour::Stall);
    let in_flight = tokio::spawn(async move { call(address, &Call::post("/slow", "body")).await });
    holds("the call is in flight", || async { backends[0].total() == 2 }).await;
    sidecar.program.signal(rustix::process::Signal::TERM);
    holds("nobody new is accepted", || async { TcpStream::connect(address).await.is_err() }).await;
    idle.closed().await.unwrap();
    assert!(!in_flight.is_finished());
    backends[0].release();
    let answer = in_flight.await.unwrap().unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["body"], "body");
    assert!(sidecar.program.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_drains_callers_are_served_and_told_to_leave() {
    let mut world = World::new();
    world.service("shop/reviews", 9080, "http");
    let host = world.host();
    let (listen, application) = (SocketAddr::new(host, 9080), SocketAddr::new(host, 19080));
    let backend = Backend::start("reviews", application, Behaviour::Ok).await;
    world.ready_endpoints("shop/reviews", &[host]);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::serving("shop/reviews-0", listen, application)).await;
    let mut kept = Http1::connect(listen).await.unwrap();
    assert_eq!(kept.call(&Call::get("/")).await.unwrap().header("connection"), None);

    assert_eq!(call(sidecar.admin, &Call::post("/drain", "")).await.unwrap().status, 200);
    assert_eq!(get(sidecar.ready, "/ready").await.unwrap().status, 503);
    let opened = backend.accepted();
    let answer = kept.call(&Call::get("/")).await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    kept.closed().await.unwrap();
    // Callers learn late: whoever still comes is served, over a connection of its own to the application.
    for _ in 0..3 {
        let answer = get(listen, "/").await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    assert_eq!(backend.accepted(), opened + 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_has_a_line_for_each_request() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 1).await;
    world.apply(
        "route",
        "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - name: all
    matches: [{path: {value: /reviews}}]
    backendRefs: [{name: reviews, port: 9080}]
",
    );
    world.start_operator().await;
    let log = world.logs.join("access.log");
    let mut flags = SidecarFlags::calling("shop/frontend", &["shop/reviews:9080"]);
    flags.more = vec!["--access-log".to_owned(), log.display().to_string()];
    let mut sidecar = world.sidecar(&flags).await;
    let address = sidecar.upstream("shop/reviews:9080").await;
    assert_eq!(call(address, &Call::post("/reviews?x=1", "four")).await.unwrap().status, 200);
    assert_eq!(get(address, "/elsewhere").await.unwrap().status, 404);
    assert!(sidecar.program.terminate().await.success());

    let (lines, _) = eventually("both lines are written", || async {
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() == 2).then_some(lines)
    })
    .await;
    let (carried, refused) = (&lines[0], &lines[1]);
    assert_eq!(carried["method"], "POST");
    assert_eq!(carried["path"], "/reviews?x=1");
    assert_eq!(carried["route"], "shop/reviews#all");
    assert_eq!(carried["endpoint"], backends[0].address.to_string());
    assert_eq!(
        (&carried["status"], &carried["attempts"], &carried["flag"]),
        (&200.into(), &1.into(), &"-".into())
    );
    assert_eq!(carried["bytes_received"], 4);
    assert_eq!((&refused["status"], &refused["flag"]), (&404.into(), &"NR".into()));
}
