//! The servers. The HTTP one is a good citizen of Kubernetes: on SIGTERM it goes on for a while, because
//! callers learn late, before it stops accepting, finishes what is in flight and exits.

use std::convert::Infallible;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use fairlead_tests::rpc;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use super::bytes::Sum;

/// HTTP/1.1 until `linger` milliseconds after SIGTERM.
pub async fn http(address: &str, linger: u64, answer: &str) -> anyhow::Result<()> {
    let name = super::name()?;
    let (status, body) = match answer.split_once(':') {
        Some(("text", text)) => (200, text.to_owned()),
        Some(("status", status)) => (status.parse()?, String::new()),
        _ => (200, name.clone()),
    };
    let answer = Answer { name, status, body, farewells: AtomicUsize::new(0) };
    let handler = Arc::new(answer);
    until_terminated(address, linger, move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok(handler.to(request).await) }
    })
    .await
}

/// What every request is answered with.
struct Answer {
    name: String,
    status: u16,
    body: String,
    /// Requests for `/farewell`.
    farewells: AtomicUsize,
}

impl Answer {
    /// Reads the request to its end first. `/seen` tells what arrived, whatever the answer is otherwise.
    async fn to(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.headers().contains_key("upgrade") {
            return switch(request);
        }
        let (parts, mut body) = request.into_parts();
        if parts.uri.path() == "/farewell" {
            self.farewells.fetch_add(1, Ordering::SeqCst);
        }
        let (mut sum, mut length) = (Sum::new(), 0);
        // A body that breaks off is a short one.
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                length += data.len();
                sum.write(&data);
            }
        }
        let (status, body) = if parts.uri.path() == "/seen" {
            let headers: Vec<_> = parts
                .headers
                .iter()
                .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
                .collect();
            let seen = json!({"backend": self.name, "method": parts.method.as_str(), "headers": headers,
                "length": length, "sum": sum.finish(), "farewells": self.farewells.load(Ordering::SeqCst)});
            (200, seen.to_string())
        } else {
            (self.status, self.body.clone())
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        if let Ok(name) = self.name.parse() {
            response.headers_mut().insert("x-backend", name);
        }
        response
    }
}

/// Switches protocols, and echoes what comes after.
fn switch(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    for name in ["connection", "upgrade"] {
        if let Some(value) = request.headers().get(name) {
            response.headers_mut().insert(http::HeaderName::from_static(name), value.clone());
        }
    }
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            // A connection that breaks is the caller's to notice.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
        }
    });
    response
}

/// HTTP in front of gRPC: the request's body is the message, one connection carries every call.
pub async fn order(address: &str, product: &str) -> anyhow::Result<()> {
    let product = product.to_owned();
    let connection: Arc<OnceCell<rpc::Client>> = Arc::default();
    until_terminated(address, 0, move |request: Request<Incoming>| {
        let (product, connection) = (product.clone(), Arc::clone(&connection));
        async move {
            let answered = ordered(&product, &connection, request).await;
            let (status, body) =
                answered.map_or_else(|error| (502, format!("{error:#}")), |body| (200, body));
            let mut response = Response::new(Full::from(body));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
            Ok(response)
        }
    })
    .await
}

async fn ordered(
    product: &str,
    connection: &OnceCell<rpc::Client>,
    request: Request<Incoming>,
) -> anyhow::Result<String> {
    let message = request.into_body().collect().await?.to_bytes();
    let open = || async { rpc::Client::connect(resolve(product).await?).await };
    let reply = connection.get_or_try_init(open).await?.call("Get", "1S", &message).await?;
    let same = reply.messages.first().is_some_and(|bytes| bytes.get(5..) == Some(&message[..]));
    Ok(json!({
        "backend": reply.backend(),
        "same": same,
        "status": reply.code(),
        "end": reply.trailers.get("x-end").map(|end| String::from_utf8_lossy(end.as_bytes())),
    })
    .to_string())
}

/// gRPC until SIGTERM.
pub async fn grpc(address: SocketAddr) -> anyhow::Result<()> {
    let application = rpc::Application::start(&super::name()?, address).await;
    super::terminated().await?;
    application.stop().await;
    Ok(())
}

/// Sends every byte back, until SIGTERM.
pub async fn echo(address: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (mut stream, _) = accepted?;
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    // A connection that breaks is the caller's to notice.
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
            ended = super::terminated() => return ended,
        }
    }
}

/// The first address of HOST:PORT.
pub async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    tokio::net::lookup_host(address).await?.next().with_context(|| format!("{address} has no address"))
}

async fn until_terminated<F>(
    address: &str,
    linger: u64,
    handle: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await?;
    let ended = async {
        super::terminated().await?;
        tokio::time::sleep(Duration::from_millis(linger)).await;
        anyhow::Ok(())
    };
    tokio::pin!(ended);
    let (graceful, mut connections) = (GracefulShutdown::new(), JoinSet::new());
    let builder = Builder::new(TokioExecutor::new()).http1_only();
    loop {
        let stream: TcpStream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            over = &mut ended => break over?,
        };
        let service = service_fn(handle.clone());
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        connections.spawn(graceful.watch(connection.into_owned()));
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}
