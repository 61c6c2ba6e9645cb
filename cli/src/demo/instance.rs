//! An instance of a service: answers with its name, counts what it processed, fails when told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A caller that sends this header has its request processed, and the connection closed without an answer.
pub const CRASH: &str = "x-crash";

/// An instance; dropped, it is gone.
#[derive(Debug)]
pub struct Instance {
    /// `reviews-1`.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct State {
    failing: AtomicBool,
    processed: AtomicU32,
}

impl Instance {
    /// Starts one.
    pub async fn start(name: &str, address: SocketAddr) -> Result<Self> {
        let mut instance =
            Self { name: name.into(), address, state: Arc::default(), serving: JoinSet::new() };
        instance.resume().await?;
        Ok(instance)
    }

    /// Answers 503 from now on, or 200 again.
    pub fn fail(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::SeqCst);
    }

    /// Requests that it has read and taken on.
    pub fn processed(&self) -> u32 {
        self.state.processed.load(Ordering::SeqCst)
    }

    /// Closes its port and its connections, as the end of a process does.
    pub async fn stop(&mut self) {
        self.serving.shutdown().await;
    }

    /// Listens again.
    pub async fn resume(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await.with_context(|| self.address.to_string())?;
        let (name, state) = (Arc::clone(&self.name), Arc::clone(&self.state));
        self.serving.spawn(serve(listener, name, state));
        Ok(())
    }
}

async fn serve(listener: TcpListener, name: Arc<str>, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(stream, Arc::clone(&name), Arc::clone(&state)));
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(stream: TcpStream, name: Arc<str>, state: Arc<State>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&name), Arc::clone(&state)));
    // A connection that ends early is the caller's news, not ours.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    name: Arc<str>,
    state: Arc<State>,
) -> io::Result<Response<Full<Bytes>>> {
    let crashes = request.headers().contains_key(CRASH);
    request.into_body().collect().await.map_err(io::Error::other)?;
    state.processed.fetch_add(1, Ordering::SeqCst);
    if crashes {
        return Err(io::Error::other("crashes as told: hyper closes the connection"));
    }
    let mut response = Response::new(Full::from(format!("{name}\n")));
    if state.failing.load(Ordering::SeqCst) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}
