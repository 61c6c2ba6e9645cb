//! More connections than a sidecar is made for: what they cost, that the others are served, and that it passes.

use std::net::{IpAddr, SocketAddr};

use fairlead_tests::backend::Behaviour;
use fairlead_tests::client::{Answer, Call, Http1, call};
use fairlead_tests::load::{Summary, burst};
use fairlead_tests::until::holds;
use fairlead_tests::world::{Sidecar, SidecarFlags, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

const PORT: &str = "shop/reviews:9080";

/// Callers that say nothing.
const SILENT: usize = 9_000;

/// Callers that stop in the middle of a head.
const HALF: usize = 1_000;

/// Of which a sidecar gives callers three quarters.
const FILES: u64 = 14_000;

/// For all that is not a connection.
const SLACK_KIB: u64 = 8 * 1024;

fn allow_files(count: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < count) {
        let raised = Rlimit { current: Some(count), maximum };
        setrlimit(Resource::Nofile, raised).expect("the hard limit of open files is high enough");
    }
}

/// From an address of its own, so that one address does not run out of ports.
async fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    socket.connect(address).await.unwrap()
}

async fn open(sidecar: &Sidecar) -> Option<f64> {
    sidecar.metric("fairlead_connections{direction=\"outbound\"}").await
}

async fn all_answered(address: SocketAddr) {
    let summary = Summary::of(burst(address, 100, 4, |_| Call::get("/")).await);
    assert_eq!(summary.status(200), 100, "{:?}", summary.failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_callers_cost_little_and_the_next_ten_thousand_nothing() {
    allow_files(FILES);
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 1).await;
    backends[0].set(Behaviour::Text("ok".into()));
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &[PORT])).await;
    let address = sidecar.upstream(PORT).await;
    all_answered(address).await;
    let before = sidecar.program.resident_kib();

    let sources: Vec<IpAddr> = (0..4).map(|_| world.host()).collect();
    let mut most = Vec::new();
    for wave in 1..=4 {
        let mut callers = Vec::new();
        for number in 0..SILENT {
            callers.push(connect_from(sources[number % sources.len()], address).await);
        }
        holds("all are accepted", || async { open(&sidecar).await >= Some(9_000.0) }).await;
        let silent = sidecar.program.resident_kib();
        if wave > 1 {
            for number in 0..HALF {
                let mut caller = connect_from(sources[number % sources.len()], address).await;
                caller.write_all(b"GET /half HTTP/1.1\r\nhost: reviews\r\nx-half: ").await.unwrap();
                callers.push(caller);
            }
        }
        all_answered(address).await;
        drop(callers);
        holds("all have left", || async { open(&sidecar).await == Some(0.0) }).await;
        all_answered(address).await;
        let after = sidecar.program.resident_kib();
        most.push(sidecar.program.most_resident_kib());
        println!(
            "wave {wave}, KiB: {before} before, {silent} with {SILENT} silent, {after} after; most {most:?}"
        );
        if wave == 1 {
            assert!(silent - before <= SILENT as u64 * 6 + SLACK_KIB, "{before} {silent}");
        }
    }
    assert!(most[1] - most[0] <= HALF as u64 * 24 + SLACK_KIB, "{most:?}");
    // The allocator may keep what it has, for the next crowd; but nothing is lost.
    assert!(most[3] <= most[1] + (most[1] - before) / 2, "{before} {most:?}");
}

/// Sends a call and waits for what comes of it.
fn begin(mut caller: Http1) -> JoinHandle<(Http1, Answer)> {
    tokio::spawn(async move {
        let answer = caller.call(&Call::get("/")).await.unwrap();
        (caller, answer)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_may_take_three_of_four_files_and_when_none_is_left_those_who_are_in_go_on() {
    let mut world = World::new();
    let backends = world.backends("shop/reviews", 9080, "http", 1).await;
    backends[0].set(Behaviour::Stall);
    world.start_operator().await;
    let sidecar = world.sidecar(&SidecarFlags::calling("shop/frontend", &[PORT]).files(128)).await;
    let address = sidecar.upstream(PORT).await;
    let ready = || async { call(sidecar.ready, &Call::get("/ready")).await.is_ok_and(|it| it.status == 200) };

    let mut callers = Vec::new();
    for _ in 0..96 {
        callers.push(Http1::connect(address).await.unwrap());
    }
    holds("all are in", || async { open(&sidecar).await == Some(96.0) }).await;
    for _ in 0..32 {
        if let Ok(mut caller) = Http1::connect(address).await {
            caller.closed().await.unwrap();
        }
    }
    let surplus = "fairlead_connections_accepted_total{direction=\"outbound\",protocol=\"surplus\"}";
    assert_eq!(sidecar.metric(surplus).await, Some(32.0));
    assert!(ready().await, "our own pages are reached");

    // Each call needs one more file, and there are less than as many as callers.
    let mut calls: Vec<_> = callers.into_iter().map(begin).collect();
    holds("each is with the backend or refused", || async {
        calls.iter().filter(|call| call.is_finished()).count() + backends[0].total() == 96
    })
    .await;
    let (refused, carried): (Vec<_>, Vec<_>) = calls.drain(..).partition(JoinHandle::is_finished);
    println!("{} calls found no file, {} are carried", refused.len(), carried.len());
    assert!(!refused.is_empty() && !carried.is_empty());
    let mut callers = Vec::new();
    for call in refused {
        let (caller, answer) = call.await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.text().starts_with("UO: "), "{}", answer.text());
        callers.push(caller);
    }
    backends[0].release();
    for call in carried {
        let (caller, answer) = call.await.unwrap();
        assert_eq!(answer.status, 200);
        callers.push(caller);
    }
    // The connections to the backend were kept, and who was refused is served over them.
    backends[0].set(Behaviour::Text("ok".into()));
    for caller in &mut callers {
        assert_eq!(caller.call(&Call::get("/")).await.unwrap().status, 200);
    }
    drop(callers);
    holds("callers are taken in again", || async { call(address, &Call::get("/")).await.is_ok() }).await;
    holds("our own pages are reached again", ready).await;
}
