use std::collections::BTreeSet;

use tokio::sync::watch;

use super::*;
use crate::config::{Inbound, Protocol, Service};
use crate::rate_limit::{InboundSettings, RateLimiter};
use crate::xds::client::State;

/// A server that a test plays.
struct Server {
    state: watch::Sender<State>,
    wanted: watch::Sender<BTreeSet<Arc<str>>>,
    config: Arc<ArcSwap<ProxyConfig>>,
}

impl Server {
    fn new(connected: bool) -> Self {
        let state = watch::Sender::new(State { connected, ..State::default() });
        Self { state, wanted: watch::Sender::default(), config: Arc::default() }
    }

    fn asks(&self, bounds: Bounds) -> OnDemand<u32> {
        let xds = Handle::new(self.wanted.clone(), self.state.subscribe());
        OnDemand::new(xds, Arc::clone(&self.config), Arc::default(), bounds)
    }

    fn asked(&self) -> Vec<String> {
        self.wanted.borrow().iter().map(ToString::to_string).collect()
    }

    fn say(&self, name: &str, destination: Destination) {
        let mut config = ProxyConfig::default();
        config.destinations.clone_from(&self.config.load().destinations);
        config.destinations.insert(name.into(), Arc::new(destination));
        self.config.store(Arc::new(config));
        self.state.send_modify(|state| state.responses += 1);
    }
}

fn bounds(most: usize) -> Bounds {
    Bounds { direction: Direction::Outbound, prefix: "", most, idle: Some(Duration::from_secs(600)) }
}

fn service(name: &str) -> Destination {
    Destination::Known(Service {
        name: name.into(),
        protocol: Protocol::Http,
        routes: None,
        clusters: Vec::new(),
        opaque: None,
    })
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

const ONE: &str = "10.96.3.7:9080";

#[tokio::test(start_paused = true)]
async fn holds_until_the_answer_and_then_never() {
    let server = Server::new(true);
    let asks = server.asks(bounds(9));
    let seat = asks.ask(at(ONE)).unwrap();
    assert_eq!(server.asked(), [ONE]);
    let began = now();
    let answer = async {
        tokio::time::sleep(Duration::from_millis(3)).await;
        server.say("10.0.0.9:1", Destination::Unknown); // Of somebody else.
        tokio::time::sleep(Duration::from_millis(4)).await;
        server.say(ONE, service(ONE));
    };
    let (got, ()) = tokio::join!(asks.answer(&seat, at(ONE)), answer);
    assert_eq!((got, now() - began), (Answer::Known, Duration::from_millis(7)));
    server.state.send_modify(|state| state.connected = false);
    assert_eq!(asks.answer(&seat, at(ONE)).await, Answer::Known, "what is in force stays");
}

#[tokio::test(start_paused = true)]
async fn a_negative_answer_is_kept() {
    let server = Server::new(true);
    let asks = server.asks(bounds(9));
    server.say(ONE, Destination::Unknown);
    for _ in 0..2 {
        let seat = asks.ask(at(ONE)).unwrap();
        assert_eq!(asks.answer(&seat, at(ONE)).await, Answer::Unknown);
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn holds_a_quarter_of_a_second_after_the_question_and_no_longer() {
    let server = Server::new(true);
    let asks = server.asks(bounds(9));
    let began = now();
    let seat = asks.ask(at(ONE)).unwrap();
    assert_eq!(asks.answer(&seat, at(ONE)).await, Answer::NotYet);
    assert_eq!(now() - began, HOLD);
    let again = asks.ask(at(ONE)).unwrap();
    assert_eq!(asks.answer(&again, at(ONE)).await, Answer::NotYet, "whoever comes later is not held again");
    assert_eq!(now() - began, HOLD);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_held_without_a_stream() {
    let server = Server::new(false);
    let asks = server.asks(bounds(9));
    let began = now();
    let seat = asks.ask(at(ONE)).unwrap();
    assert_eq!(asks.answer(&seat, at(ONE)).await, Answer::NoStream);
    server.state.send_modify(|state| state.connected = true);
    let other = asks.ask(at("[fd00::7]:80")).unwrap();
    let lost = async { server.state.send_modify(|state| state.connected = false) };
    let (got, ()) = tokio::join!(asks.answer(&other, at("[fd00::7]:80")), lost);
    assert_eq!(got, Answer::NoStream, "nor when it breaks meanwhile");
    assert_eq!(now() - began, Duration::ZERO);
    assert_eq!(server.asked(), [ONE, "[fd00::7]:80"], "asked all the same");
}

#[tokio::test(start_paused = true)]
async fn what_is_idle_is_asked_for_no_more() {
    let server = Server::new(true);
    let asks = server.asks(bounds(9));
    let busy = asks.ask(at(ONE)).unwrap();
    drop(asks.ask(at("10.0.0.1:1")));
    tokio::time::advance(Duration::from_secs(599)).await;
    asks.expire();
    assert_eq!(server.asked().len(), 2);
    tokio::time::advance(Duration::from_secs(1)).await;
    asks.expire();
    assert_eq!(server.asked(), [ONE], "a connection is open");
    drop(busy);
    tokio::time::advance(Duration::from_secs(599)).await;
    asks.expire();
    assert_eq!(server.asked(), [ONE], "idle since it was closed");
    tokio::time::advance(Duration::from_secs(1)).await;
    asks.expire();
    assert!(server.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_port_scan_pushes_out_what_nobody_uses_and_nothing_else() {
    let server = Server::new(true);
    let asks = server.asks(bounds(4));
    let known = "10.96.0.1:80";
    server.say(known, service(known));
    drop(asks.ask(at(known)));
    let busy = asks.ask(at(ONE)).unwrap();
    for port in 1..=65_535 {
        tokio::time::advance(Duration::from_millis(1)).await;
        drop(asks.ask(SocketAddr::new("192.0.2.1".parse().unwrap(), port)));
    }
    assert_eq!(server.asked(), ["10.96.0.1:80", ONE, "192.0.2.1:65534", "192.0.2.1:65535"]);
    drop(busy);
    let held: Vec<_> = (1..=4).map(|port| asks.ask(SocketAddr::new([10, 0, 0, 1].into(), port))).collect();
    assert!(held.iter().all(Option::is_some));
    assert!(asks.ask(at("10.0.0.1:5")).is_none(), "all is in use");
    assert_eq!(server.asked().len(), 4);
    assert!(asks.ask(at("10.0.0.1:4")).is_some());
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_this_pod() {
    let server = Server::new(true);
    let bounds = Bounds { direction: Direction::Inbound, prefix: "inbound/", most: 9, idle: None };
    let asks = server.asks(bounds);
    let (known, unlisted) = (asks.ask(at(ONE)).unwrap(), asks.ask(at("10.0.0.1:1")).unwrap());
    let foreign = asks.keep(at("172.17.0.1:1")).unwrap();
    assert_eq!(server.asked(), ["inbound/10.0.0.1:1", "inbound/10.96.3.7:9080"]);
    server.say("inbound/10.0.0.1:1", Destination::Unknown);
    let mut config = ProxyConfig::default();
    config.destinations.clone_from(&server.config.load().destinations);
    let limits = Arc::new(RateLimiter::new(InboundSettings::default(), None));
    config.inbound.insert(at(ONE), Arc::new(Inbound { protocol: Protocol::Http, limits }));
    server.config.store(Arc::new(config));
    assert_eq!(asks.answer(&known, at(ONE)).await, Answer::Known);
    assert_eq!(asks.answer(&unlisted, at("10.0.0.1:1")).await, Answer::Unknown);
    assert_eq!(asks.answer(&foreign, at("172.17.0.1:1")).await, Answer::Unknown, "nobody is asked");
    assert_eq!(*known.value(|| 7), 7);
    assert_eq!(*asks.ask(at(ONE)).unwrap().value(|| 8), 7, "made once");
    let mut all = Vec::new();
    asks.each(|value| all.push(**value));
    assert_eq!(all, [7]);
}
