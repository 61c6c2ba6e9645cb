//! The webhook: the API server shows every new pod of a labelled namespace, and gets the sidecar as a patch. It has
//! no side effects, so every replica serves it, and a dry run is like any other.
//!
//! ```text
//! TCP ── TLS ── head ── body (small, in time) ── review (pure) ── answer
//! ```
//!
//! Its port is open to the whole cluster, as a webhook's must be, so whoever calls is a stranger: connections, their
//! share of one address, the bytes in memory and the time are bounded, and a body that is too large is not read.

pub mod review;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::server::Connected;

use crate::inject::Settings;
use crate::metrics::Metrics;
use crate::tls::accept::{Bounds, Connection, connections};

/// Where the API server calls.
const PATH: &str = "/inject";
/// The API server takes objects of at most 3 MiB; its JSON is a little longer than what it was sent.
const LARGEST: u64 = 4 << 20;
/// Bodies in memory at a time, of all connections; as JSON values they are some times larger.
const IN_FLIGHT: usize = 16 << 20;
/// The API server waits for 5 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two calls on a connection that is kept, and for the head of the next.
const IDLE: Duration = Duration::from_secs(60);
/// The API server opens one connection for each call that runs, and keeps some; a stranger cannot take them all.
const BOUNDS: Bounds = Bounds {
    connections: 512,
    connections_a_peer: 128,
    handshakes: 128,
    handshake: PATIENCE,
    introduction: PATIENCE,
};

/// What a connection needs.
#[derive(Debug)]
struct Webhook {
    settings: Settings,
    metrics: Arc<Metrics>,
    in_flight: Arc<Semaphore>,
}

/// Serves the webhook until `shutdown`; what is being answered then is answered.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    settings: Settings,
    metrics: Arc<Metrics>,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let webhook = Arc::new(Webhook { settings, metrics, in_flight: Arc::new(Semaphore::new(IN_FLIGHT)) });
    let mut conversations = JoinSet::new();
    {
        let mut arriving = pin!(connections(listener, Some(tls), BOUNDS));
        loop {
            tokio::select! {
                Some(connection) = arriving.next() => {
                    conversations.spawn(converse(connection?, webhook.clone(), shutdown.clone()));
                }
                Some(_) = conversations.join_next() => {}
                () = over(&mut shutdown) => break,
            }
        }
    }
    let all = async { while conversations.join_next().await.is_some() {} };
    // Whoever is not done by then has long been given up by the API server.
    let _ = timeout(PATIENCE, all).await;
    Ok(())
}

/// One connection, to its end.
async fn converse(connection: Connection, webhook: Arc<Webhook>, mut shutdown: watch::Receiver<bool>) {
    let guest = connection.connect_info();
    let service = service_fn(|request| {
        guest.introduce();
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(webhook.answer(request).await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(connection), service);
    let mut http = pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = over(&mut shutdown) => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %guest.peer, %error, "a connection to the webhook broke");
    }
}

/// Waits for the end of the process.
async fn over(shutdown: &mut watch::Receiver<bool>) {
    // Who could say so and is gone has ended, too.
    let _ = shutdown.wait_for(|over| *over).await;
}

impl Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return refuse(StatusCode::NOT_FOUND, "the webhook is at POST /inject\n");
        }
        if request.method() != Method::POST {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "the webhook takes POST\n");
        }
        let body = match timeout(PATIENCE, self.read(request.into_body())).await {
            Ok(Ok(body)) => body,
            Ok(Err(status)) => return refuse(status, "this is no AdmissionReview of a pod\n"),
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time\n"),
        };
        match review::answer(&body.bytes, &self.settings) {
            Ok((answer, result)) => {
                self.metrics.injected(result);
                let mut response = Response::new(Full::new(answer.into()));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(nonsense) => {
                self.metrics.injected(review::UNREADABLE);
                let mut response = refuse(StatusCode::BAD_REQUEST, "");
                *response.body_mut() = Full::new(format!("{nonsense}\n").into());
                response
            }
        }
    }

    /// Reads a body that is not too large; while it is held, others have less room.
    async fn read(&self, mut body: Incoming) -> Result<Held, StatusCode> {
        use hyper::body::Body;

        if body.size_hint().lower() > LARGEST {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let mut held = Held { bytes: Vec::new(), _room: Vec::new() };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
            let Ok(data) = frame.into_data() else { continue };
            let size = u32::try_from(data.len()).map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
            if (held.bytes.len() + data.len()) as u64 > LARGEST {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            let room = self.in_flight.clone().acquire_many_owned(size).await;
            held._room.push(room.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?);
            held.bytes.extend_from_slice(&data);
        }
        Ok(held)
    }
}

/// A body, and the room that it takes.
struct Held {
    bytes: Vec<u8>,
    _room: Vec<OwnedSemaphorePermit>,
}

/// An answer after which the connection ends: what it still sends is not read.
fn refuse(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests;
