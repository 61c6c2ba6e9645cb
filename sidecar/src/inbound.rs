//! A call to this pod: held to the limits of what was called, then handed to the application.
//!
//! ```text
//! serve: identify -> rate limit -> connection to the application -> send
//! ```
//!
//! Between two sidecars a connect failure would be invisible, for this one accepts. So the application's
//! connection comes first, and what was not handed over is said to be so ([`Unprocessed`]): the caller's
//! sidecar then treats this endpoint as one that it could not connect to, and may send the request elsewhere,
//! whatever its method.
//!
//! What kubelet asks ([`Probe`](crate::cli::Probe)) is answered as without us: no limit holds it, and draining
//! does not show in its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use tokio::net::TcpStream;

use crate::body::Body;
use crate::drain::Phase;
use crate::exchange::watched::{Held, Times, Watched};
use crate::exchange::{Exchange, own_answer};
use crate::failure::{Failure, Kind};
use crate::http1;
use crate::matcher::is_grpc;
use crate::metrics::{Direction, Handles, Metrics};
use crate::pool::admission::Want;
use crate::pool::{Asker, Http1, Lease, Pool, PoolSettings, Slot, Stream, http2};
use crate::proxy::{Caller, Proxy};
use crate::rate_limit::{Decision, Quota};
use crate::said::Said;

/// How long a connection to the application is kept: most servers close idle ones, and a request that crosses
/// with that close would be lost.
const KEPT: Duration = Duration::from_secs(1);

/// The application is on this machine, or next door: it accepts at once, or not at all.
const CONNECT: Duration = Duration::from_secs(1);

/// How often a kept connection may turn out to be closed.
const STALE_CONNECTIONS: usize = 4;

/// An endpoint of this pod.
#[derive(Debug)]
pub struct Endpoint {
    /// In log and metric: where callers come.
    pub name: Arc<str>,
    /// Where callers come.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
    /// Connections to the application.
    pub pool: Pool,
    settings: PoolSettings,
    handles: Arc<Handles>,
}

/// The application has not seen the request.
#[derive(Debug)]
pub struct Unprocessed {
    /// Why.
    pub reason: String,
}

/// Marks the answer to a probe.
#[derive(Debug, Clone, Copy)]
pub struct ToProbe;

impl Endpoint {
    /// An application and its address for callers.
    pub fn new(name: Arc<str>, listen: SocketAddr, application: SocketAddr, metrics: &Metrics) -> Self {
        let handles = metrics.handles(Direction::Inbound, &name, &Arc::from("-"));
        let settings = PoolSettings {
            max_connections: None,
            max_pending_requests: None,
            pending_timeout: CONNECT,
            max_requests: None,
            max_requests_per_connection: None,
            connect_timeout: CONNECT,
            idle_timeout: Some(KEPT),
        };
        Self { name, listen, application, pool: Pool::default(), settings, handles }
    }

    /// Closes the connections to the application that were kept for long enough.
    pub fn expire(&self) {
        self.pool.expire(self.settings.idle_timeout);
    }

    /// Who is on the way to the application: at its own address, and past the redirection.
    fn asker(worker: usize) -> Asker {
        Asker { worker, pod: &[] }
    }

    /// A connection to the application, for bytes.
    pub async fn dial(&self, worker: usize) -> Result<(TcpStream, Slot), Failure> {
        let ask = Self::asker(worker).ask(self.application, Want::Fresh);
        let Lease::Slot(slot) = self.pool.admit(&self.settings, ask).await? else {
            return Err(Failure::local(Kind::Connect, "not a new connection"));
        };
        self.pool.open_bytes(&self.settings, slot, ask).await
    }
}

/// Holds a request to its limits and hands it to the application.
pub async fn serve(
    proxy: &Arc<Proxy>,
    endpoint: &Endpoint,
    caller: Caller,
    request: Request<Body>,
) -> Result<Response<Body>, Unprocessed> {
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(proxy, Arc::clone(&endpoint.handles), caller, &parts);
    let said = Said::take(&mut parts.headers);
    let inside = proxy.hops.enter(&parts.headers, &said, exchange.started());
    let target = said.target.as_ref().and_then(|target| target.to_str().ok());
    let probe = proxy.is_probe(endpoint.application.port(), parts.uri.path());
    let mut quota = None;
    if let Some(inbound) = proxy.inbound(endpoint.listen).filter(|_| !probe) {
        match inbound.limits.check(exchange.started(), target, &parts, caller.peer.ip()) {
            Decision::Admit(left) => quota = left,
            Decision::Refuse(refusal) => {
                let reason = format!("over the limit {} of {}", refusal.limit, refusal.policy);
                exchange.failed(&Failure::local(Kind::RateLimited, reason));
                let response = refusal.into_response().map(Body::from);
                exchange.answered(response.status(), response.headers());
                return Ok(
                    response.map(|body| Watched::watch(body, exchange, Held::default(), Times::default()))
                );
            }
        }
    }
    exchange.attempt(endpoint.application);
    let sent = hand_over(proxy, endpoint, caller, &parts, body).await;
    http1::recycle(parts);
    exchange.attempted(exchange.started());
    let (mut response, mut held) = match sent {
        Ok((response, stream)) => (response, Held { stream, ..Held::default() }),
        Err(Refused::Unprocessed(failure)) => {
            exchange.failed(&failure);
            exchange.answered(failure.status(), &http::HeaderMap::new());
            let now = exchange.seen();
            exchange.end(now, 0);
            return Err(Unprocessed { reason: failure.reason });
        }
        Err(Refused::Failed(failure, grpc)) => {
            exchange.failed(&failure);
            (own_answer(&failure, grpc), Held::default())
        }
    };
    let headers = response.headers_mut();
    Said::take(headers);
    if let Some(inside) = inside {
        inside.mark(headers);
        held.inside = Some(inside);
    }
    if let Some(quota) = quota {
        Quota::apply(&quota, headers);
    }
    if probe {
        response.extensions_mut().insert(ToProbe);
    }
    exchange.answered(response.status(), response.headers());
    Ok(response.map(|body| Watched::watch(body, exchange, held, Times::default())))
}

/// Why there is no answer of the application.
enum Refused {
    /// It has not seen the request.
    Unprocessed(Failure),
    /// It may have; the caller speaks gRPC, or not.
    Failed(Failure, bool),
}

/// Sends the request to the application, in the protocol of the caller.
async fn hand_over(
    proxy: &Proxy,
    endpoint: &Endpoint,
    caller: Caller,
    parts: &Parts,
    body: Body,
) -> Result<(Response<Body>, Option<Stream>), Refused> {
    let grpc = is_grpc(&parts.headers);
    let failed = |failure: Failure| {
        let unprocessed = failure.at == crate::failure::At::Upstream && failure.provably_unprocessed()
            || failure.kind == Kind::Overflow;
        if unprocessed { Refused::Unprocessed(failure) } else { Refused::Failed(failure, grpc) }
    };
    let mut body = Some(body);
    for _ in 0..STALE_CONNECTIONS {
        match connection(proxy, endpoint, caller).await.map_err(failed)? {
            Connection::Http1(connection) => {
                // Asks the kernel: a byte that is written to a connection that the application has closed
                // could not be taken back.
                if !connection.is_reusable_now() {
                    continue;
                }
                let again =
                    body.as_ref().is_some_and(http_body::Body::is_end_stream) && parts.method.is_idempotent();
                match connection.send_parts(parts, body.take().unwrap_or_default()).await {
                    Ok(response) => return Ok((response, None)),
                    // It closed the connection at this very moment (RFC 9110, 9.2.2).
                    Err(error) if error.reused && again => body = Some(Body::Empty),
                    Err(error) => return Err(failed(error.into_failure())),
                }
            }
            Connection::Http2(mut stream) => {
                let request = Request::from_parts(parts.clone(), body.take().unwrap_or_default());
                // Boxed: it would make room for itself in the future of every HTTP/1.1 request.
                match Box::pin(stream.handle.sender.try_send_request(request)).await {
                    Ok(response) => return Ok((response.map(Body::from), Some(stream))),
                    Err(mut error) => match error.take_message() {
                        None => return Err(failed(http2::failure(error.error()))),
                        Some(unsent) => body = Some(unsent.into_body()),
                    },
                }
            }
        }
    }
    let reason = format!("{} closes every connection", endpoint.application);
    Err(failed(Failure::upstream(Kind::Connect, false, reason)))
}

enum Connection {
    Http1(crate::http1::client::Connection),
    Http2(Stream),
}

/// A connection to the application. While the pod drains each request has its own: an application that shuts
/// down closes kept ones at any moment.
async fn connection(proxy: &Proxy, endpoint: &Endpoint, caller: Caller) -> Result<Connection, Failure> {
    let draining = proxy.drain.phase() >= Phase::Draining;
    let want = match (caller.http2, draining) {
        (true, _) => Want::Shared,
        (false, true) => Want::Fresh,
        (false, false) => Want::Exclusive,
    };
    let ask = Endpoint::asker(proxy.worker).ask(endpoint.application, want);
    match endpoint.pool.admit(&endpoint.settings, ask).await? {
        Lease::Http1(_, Http1(connection)) => Ok(Connection::Http1(connection)),
        Lease::Stream(stream) => Ok(Connection::Http2(stream)),
        Lease::Slot(slot) if caller.http2 => {
            // Rare beside the requests that a connection carries, and large: boxed.
            Box::pin(endpoint.pool.open_http2(&endpoint.settings, slot, ask)).await.map(Connection::Http2)
        }
        Lease::Slot(slot) => {
            let opened = Box::pin(endpoint.pool.open_http1(&endpoint.settings, slot, ask)).await;
            let Http1(mut connection) = opened?;
            if draining {
                connection.last();
            }
            Ok(Connection::Http1(connection))
        }
    }
}
