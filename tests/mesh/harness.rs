//! The backends of the harness do what their behaviour says.

use std::net::SocketAddr;

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Call, Http1, Http2, call};
use fairlead_tests::load::{Summary, burst};

async fn backend(behaviour: Behaviour) -> Backend {
    Backend::start("one", SocketAddr::from(([127, 0, 0, 1], 0)), behaviour).await
}

#[tokio::test]
async fn answers_say_what_arrived_over_both_protocols() {
    let one = backend(Behaviour::Ok).await;
    let post = Call::post("/a?b=c", "body").header("x-id", "7").trailer("x-end", "yes");
    let mut connection = Http1::connect(one.address).await.unwrap();
    let old = connection.call(&post).await.unwrap().json();
    let new = Http2::connect(one.address).await.unwrap().call(&post).await.unwrap().json();
    for (answer, version) in [(old, "1.1"), (new, "2")] {
        assert_eq!(answer["method"], "POST");
        assert_eq!(answer["path"], "/a?b=c");
        assert_eq!(answer["body"], "body");
        assert_eq!(answer["version"], version);
        assert!(answer["headers"].as_array().unwrap().iter().any(|one| one[0] == "x-end" && one[1] == "yes"));
    }
    assert_eq!(one.processed("7"), 2);
    assert_eq!((one.accepted(), one.total()), (2, 2));
}

#[tokio::test]
async fn resets_come_where_they_are_asked_for() {
    let one = backend(Behaviour::ResetOnAccept).await;
    call(one.address, &Call::get("/")).await.unwrap_err();
    assert_eq!(one.total(), 0);

    for behaviour in [Behaviour::ResetBeforeHead, Behaviour::ResetAfterHead, Behaviour::ResetInBody] {
        one.set(behaviour.clone());
        let before = one.total();
        call(one.address, &Call::get("/")).await.unwrap_err();
        Http2::connect(one.address).await.unwrap().call(&Call::get("/")).await.unwrap_err();
        assert_eq!(one.total(), before + 2, "{behaviour:?}");
    }

    one.set(Behaviour::Then(vec![Behaviour::Ok, Behaviour::CloseReused, Behaviour::Ok]));
    let mut connection = Http1::connect(one.address).await.unwrap();
    let before = one.total();
    connection.call(&Call::get("/")).await.unwrap();
    connection.call(&Call::get("/")).await.unwrap_err();
    assert_eq!(one.total(), before + 1);
}

#[tokio::test]
async fn refused_streams_are_not_processed() {
    let one = backend(Behaviour::RefuseStream).await;
    let refused = Http2::connect(one.address).await.unwrap().call(&Call::post("/", "x")).await.unwrap_err();
    let reason = refused.downcast::<h2::Error>().unwrap().reason();
    assert_eq!(reason, Some(h2::Reason::REFUSED_STREAM));

    one.set(Behaviour::GoAway);
    Http2::connect(one.address).await.unwrap().call(&Call::post("/", "x")).await.unwrap_err();
    assert_eq!(one.total(), 0);

    one.set(Behaviour::GoAwayAfter);
    Http2::connect(one.address).await.unwrap().call(&Call::post("/", "x")).await.unwrap();
    assert_eq!(one.total(), 1);
}

#[tokio::test]
async fn a_stall_ends_when_it_is_released() {
    let one = backend(Behaviour::Stall).await;
    let waiting = tokio::spawn(burst(one.address, 3, 3, |_| Call::get("/")));
    fairlead_tests::until::holds("three wait", || async { one.total() == 3 }).await;
    one.release();
    let summary = Summary::of(waiting.await.unwrap());
    assert_eq!((summary.calls, summary.status(200)), (3, 3));
    assert_eq!(one.most_open(), 3);
}
