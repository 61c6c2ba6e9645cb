//! An application that calls: plain HTTP/1.1 to whatever listens for the service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A call that takes longer has failed; one takes under a millisecond.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A caller with one connection, opened again when it was closed.
#[derive(Debug)]
pub struct Caller {
    /// Where its calls go.
    pub address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
    driver: JoinSet<()>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, without the newline at the end.
    pub body: String,
}

impl Answer {
    /// A header that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.parse().ok()
    }
}

impl Caller {
    /// One that calls there.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None, driver: JoinSet::new() }
    }

    /// GET.
    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.call(Method::GET, path, None).await
    }

    /// Any call, with one header if wanted; a POST has a small body.
    pub async fn call(&mut self, method: Method, path: &str, header: Option<(&str, &str)>) -> Result<Answer> {
        let body = if method == Method::POST { "a review" } else { "" };
        let mut request = Request::builder().method(method).uri(path).header("host", "reviews");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(body))?;
        timeout(CALL_LIMIT, self.send(request)).await.context("no answer in time")?
    }

    /// Calls so often with GET and counts who answered; what is not 200 counts under its status.
    pub async fn count(&mut self, path: &str, calls: u32) -> Result<BTreeMap<String, u32>> {
        let mut counts = BTreeMap::new();
        for _ in 0..calls {
            let answer = self.get(path).await?;
            let who =
                if answer.status == StatusCode::OK { answer.body } else { answer.status.as_str().to_owned() };
            *counts.entry(who).or_default() += 1;
        }
        Ok(counts)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        if self.connection.as_mut().is_none_or(|open| open.is_closed()) {
            let stream = TcpStream::connect(self.address).await.with_context(|| self.address.to_string())?;
            stream.set_nodelay(true)?;
            let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
            self.driver.shutdown().await;
            self.driver.spawn(async {
                // Its errors arrive at the call, too.
                let _ = connection.await;
            });
            self.connection = Some(send);
        }
        let connection = self.connection.as_mut().context("just opened")?;
        connection.ready().await?;
        let (parts, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).trim_end().to_owned();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

/// A page of an admin port.
pub async fn page(address: SocketAddr, path: &str) -> Result<Value> {
    let answer = Caller::new(address).get(path).await?;
    serde_json::from_str(&answer.body).with_context(|| format!("{address}{path}: {}", answer.body))
}

/// Whether a page answers 200.
pub async fn fine(address: SocketAddr, path: &str) -> bool {
    Caller::new(address).get(path).await.is_ok_and(|answer| answer.status == StatusCode::OK)
}
