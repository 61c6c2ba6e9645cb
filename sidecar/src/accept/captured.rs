//! Connections that nftables sent here instead of where they were meant to go.
//!
//! ```text
//! 15001  the application calls --> known Service: outbound
//!                             '--> anything else: passed through
//! 15006  somebody calls the application --> inbound, at the address that was called
//!                                      '--> /ready, /metrics: our own pages
//! ```
//!
//! Who dials these ports himself is closed on: he was not redirected, and would have us call ourselves.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::accept::{Admitted, Connection, Purpose, Seldom, accept_until_closing, original_dst};
use crate::capture::{self, Capture};
use crate::config::{Destination, ProxyConfig, Service};
use crate::inbound::Endpoint;
use crate::metrics::{Direction, Metrics};
use crate::on_demand::{Answer, Bounds, OnDemand, Seat};
use crate::outbound::Upstream;
use crate::passthrough;
use crate::ports::{CHECK_PORT, INBOUND_PORT, OUTBOUND_PORT};
use crate::proxy::Proxy;
use crate::spawn;
use crate::xds::client::Handle;

/// Destinations that are asked for at once. A pod calls tens; with what each leads to, the operator's limit of
/// names a stream is not reached.
const MOST_DESTINATIONS: usize = 1024;

/// Endpoints of this pod: as many as an application listens at ports, and more.
const MOST_ENDPOINTS: usize = 1024;

/// What the application has not called for so long is asked for no more.
const IDLE: Duration = Duration::from_secs(600);

/// Endpoints with a name of their own in the metrics. An application that opens ports as it goes must not make
/// the page longer without end.
const NAMED_ENDPOINTS: usize = 64;

/// That of the others.
const OTHERS: &str = "other";

/// Connections to our own pages that wait to be served.
pub const PAGES_WAITING: usize = 64;

/// Everything that captured connections share; one a process.
#[derive(Debug)]
pub struct Captured {
    /// Of the pod.
    pub addresses: Vec<IpAddr>,
    /// What the application calls.
    pub destinations: OnDemand<Upstream>,
    /// Where it is called.
    pub endpoints: OnDemand<Endpoint>,
    /// What was found out about the rules.
    pub capture: Arc<Capture>,
    /// Ports of our own that are reached through the inbound listener, and who serves them.
    pub pages: Vec<(u16, mpsc::Sender<Visitor>)>,
    named: Mutex<HashSet<SocketAddr>>,
    said: Mutex<Seldom>,
}

/// Somebody who asks for a page of ours, on his way from the worker that accepted him.
#[derive(Debug)]
pub struct Visitor {
    /// His connection, known to no runtime.
    pub stream: std::net::TcpStream,
    /// His address.
    pub peer: SocketAddr,
}

impl Captured {
    /// Of a pod with these addresses.
    pub fn new(
        addresses: Vec<IpAddr>,
        capture: Arc<Capture>,
        pages: Vec<(u16, mpsc::Sender<Visitor>)>,
        (xds, config): (&Handle, &Arc<ArcSwap<ProxyConfig>>),
        metrics: &Arc<Metrics>,
    ) -> Self {
        let destinations =
            Bounds { direction: Direction::Outbound, prefix: "", most: MOST_DESTINATIONS, idle: Some(IDLE) };
        // Not for being idle: the buckets of an hourly limit would go with it.
        let endpoints =
            Bounds { direction: Direction::Inbound, prefix: "inbound/", most: MOST_ENDPOINTS, idle: None };
        Self {
            addresses,
            destinations: OnDemand::new(xds.clone(), Arc::clone(config), Arc::clone(metrics), destinations),
            endpoints: OnDemand::new(xds.clone(), Arc::clone(config), Arc::clone(metrics), endpoints),
            capture,
            pages,
            named: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// Looks after what is kept: unused destinations, old connections to the application.
    pub fn expire(&self) {
        self.destinations.expire();
        self.endpoints.each(|endpoint| endpoint.expire());
    }

    /// Asks for the limits of an endpoint before anybody has called it.
    pub fn expect(&self, address: SocketAddr) {
        drop(self.endpoints.ask(address));
    }

    /// Whether the pod itself is meant.
    fn is_ours(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.contains(&ip)
    }

    fn endpoint(
        &self,
        seat: Option<&Seat<Endpoint>>,
        address: SocketAddr,
        metrics: &Metrics,
    ) -> Arc<Endpoint> {
        let make = || Endpoint::new(self.name(address), address, address, metrics);
        seat.map_or_else(|| Arc::new(make()), |seat| seat.value(make))
    }

    /// Passing through what may be a Service is our own failure; that nothing is known there is none.
    fn say(&self, to: SocketAddr, why: &str) {
        let because = match why {
            "awaited" => "the operator has not said in time what is there",
            "disconnected" => "there is no stream to the operator",
            "full" => "too many destinations are in use",
            _ => return,
        };
        if self.said.lock().unwrap_or_else(PoisonError::into_inner).is_due() {
            tracing::warn!(%to, because, "a connection is passed through, no rule holds for it");
        }
    }

    fn name(&self, address: SocketAddr) -> Arc<str> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < NAMED_ENDPOINTS || named.contains(&address) {
            named.insert(address);
            return address.to_string().into();
        }
        OTHERS.into()
    }
}

/// Accepts what was redirected to this listener, until the listeners are to be closed.
pub async fn listen(proxy: Arc<Proxy>, listener: TcpListener, direction: Direction, captured: Arc<Captured>) {
    accept_until_closing(&proxy, &listener, direction, |stream, peer| {
        let admitted = Admitted::new(&proxy, direction);
        let (proxy, captured) = (Arc::clone(&proxy), Arc::clone(&captured));
        spawn::task(async move {
            let Some(original) = original_dst::of(&stream) else {
                return tracing::debug!(%peer, "somebody dialled a port that is for redirected connections");
            };
            serve(proxy, captured, Caught { stream, peer, original, admitted }, direction).await;
        });
    })
    .await;
}

/// A redirected connection.
pub(super) struct Caught {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub original: SocketAddr,
    pub admitted: Admitted,
}

/// Carries it to where it was meant to go.
pub(super) async fn serve(proxy: Arc<Proxy>, captured: Arc<Captured>, caught: Caught, direction: Direction) {
    match direction {
        Direction::Outbound => outbound(proxy, captured, caught).await,
        Direction::Inbound => inbound(proxy, captured, caught).await,
    }
}

/// A call of the application.
async fn outbound(proxy: Arc<Proxy>, captured: Arc<Captured>, caught: Caught) {
    let Caught { stream, peer, original, admitted } = caught;
    if capture::is_check(original) {
        return captured.capture.arrived(peer);
    }
    if is_listener(original.port()) && captured.is_ours(original.ip()) {
        return tracing::debug!(%original, "the application called our listeners");
    }
    // Boxed: what carries the call does not hold the room that finding it needed.
    match Box::pin(find(&proxy, &captured, original)).await {
        Ok((upstream, seat)) => {
            Connection::admitted(proxy, Purpose::Outbound(upstream), peer, admitted).serve(stream).await;
            drop(seat);
        }
        Err(why) => {
            proxy.metrics.passed_through(why);
            captured.say(original, why);
            Box::pin(passthrough::carry(stream, original, &proxy.metrics)).await;
            drop(admitted);
        }
    }
}

/// The Service port at an address; or why the connection is to be passed through.
async fn find(
    proxy: &Proxy,
    captured: &Captured,
    original: SocketAddr,
) -> Result<(Arc<Upstream>, Seat<Upstream>), &'static str> {
    let seat = captured.destinations.ask(original).ok_or("full")?;
    match captured.destinations.answer(&seat, original).await {
        Answer::Known => {}
        Answer::Unknown => return Err("unknown"),
        Answer::NotYet => return Err("awaited"),
        Answer::NoStream => return Err("disconnected"),
    }
    let name: Arc<str> = original.to_string().into();
    let Some(destination) = proxy.destination(&name) else { return Err("unknown") };
    let Destination::Known(service) = &*destination else { return Err("unknown") };
    let make = || Upstream::captured(Arc::clone(&name), label(service), &proxy.metrics);
    let upstream = seat.value(make);
    Ok((upstream, seat))
}

/// The Service port's name, of which there are fewer than addresses.
fn label(service: &Service) -> Arc<str> {
    let routes = service.routes.as_ref().map(|routes| &routes.name);
    let opaque = service.opaque.as_ref().map(|cluster| &cluster.settings.name);
    Arc::clone(routes.or(opaque).unwrap_or(&service.name))
}

/// A call to the application.
async fn inbound(proxy: Arc<Proxy>, captured: Arc<Captured>, caught: Caught) {
    let Caught { stream, peer, original, admitted } = caught;
    if let Some((_, page)) = captured.pages.iter().find(|(port, _)| *port == original.port()) {
        // Too many at once are closed on; who asks for these pages asks again.
        let visitor = stream.into_std().map(|stream| page.try_send(Visitor { stream, peer }));
        return tracing::trace!(%peer, handed_over = matches!(visitor, Ok(Ok(()))), "a visitor");
    }
    if is_listener(original.port()) {
        return tracing::debug!(%peer, %original, "somebody called our listeners");
    }
    let (endpoint, seat) = Box::pin(called(&proxy, &captured, original)).await;
    Connection::admitted(proxy, Purpose::Inbound(endpoint), peer, admitted).serve(stream).await;
    drop(seat);
}

/// The endpoint that was called, with its limits if there is somebody who knows them.
async fn called(
    proxy: &Proxy,
    captured: &Captured,
    original: SocketAddr,
) -> (Arc<Endpoint>, Option<Seat<Endpoint>>) {
    // Only the pod's own addresses can be an endpoint of anything.
    let known = captured.addresses.contains(&original.ip());
    let seat = if known { captured.endpoints.ask(original) } else { captured.endpoints.keep(original) };
    if let Some(seat) = &seat {
        captured.endpoints.answer(seat, original).await;
    }
    (captured.endpoint(seat.as_ref(), original, &proxy.metrics), seat)
}

/// The ports of redirected connections, and that of the check.
fn is_listener(port: u16) -> bool {
    [OUTBOUND_PORT, INBOUND_PORT, CHECK_PORT].contains(&port)
}
