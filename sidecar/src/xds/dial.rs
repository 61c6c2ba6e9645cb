//! One connection to the server: its name is looked up, its certificates and our token are read anew for each.
//!
//! The kubelet replaces both files while we run, and a Service may move; so nothing of them outlives a
//! connection, and nothing has to be watched.

use std::error::Error;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::cli::operator::Operator;

/// A TCP connection, and the TLS on it, are there within milliseconds, or something is wrong. Each address has
/// as long.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The system's resolver asks the next name server after five seconds: this is more than twice that.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(12);

/// Of the HTTP/2 pings: a server that has gone without a word is found out within their sum.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(15);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that stands.
#[derive(Debug)]
pub struct Dialled {
    /// To speak over.
    pub channel: Channel,
    /// The `authorization` of every request on it.
    pub authorization: Option<MetadataValue<Ascii>>,
}

/// Connects. The error says which step failed, and why.
pub async fn dial(operator: Operator) -> Result<Dialled, String> {
    let authorization = operator.token.as_deref().map(authorization).transpose()?;
    let tls = operator.ca.as_deref().map(tls).transpose()?;
    let (host, port) = host_and_port(&operator.uri)?;
    let stream = connect(host, port).await?;
    let channel = match tls {
        None => speak(stream, &operator.uri).await?,
        Some(tls) => {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))?;
            let handshake = tokio::time::timeout(CONNECT_TIMEOUT, tls.connect(name, stream)).await;
            let stream = handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            speak(stream.map_err(|error| format!("TLS with {host}: {error}"))?, &operator.uri).await?
        }
    };
    Ok(Dialled { channel, authorization })
}

/// HTTP/2 over the connection. tonic is told `http`, for TLS is none of its business, and says what is true.
async fn speak<S>(stream: S, uri: &http::Uri) -> Result<Channel, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| in_full(&error))?
        .origin(uri.clone())
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector(Connected(Some(stream))).await.map_err(|error| in_full(&error))
}

/// A name, or an address without brackets.
fn host_and_port(uri: &http::Uri) -> Result<(&str, u16), String> {
    match (uri.host(), uri.port_u16()) {
        (Some(host), Some(port)) => Ok((host.trim_start_matches('[').trim_end_matches(']'), port)),
        _ => Err(format!("{uri} names no host and port")),
    }
}

/// Tries every address of the name, in the resolver's order.
async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let looked_up = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((host, port))).await;
    let addresses: Vec<SocketAddr> = looked_up
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| format!("looking up {host}: {error}"))?
        .collect();
    let mut failures = Vec::new();
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true); // Fails only on a socket that is gone already.
                return Ok(stream);
            }
            Ok(Err(error)) => failures.push(format!("connecting to {address}: {error}")),
            Err(_) => failures.push(format!("connecting to {address}: no answer within {CONNECT_TIMEOUT:?}")),
        }
    }
    if failures.is_empty() { Err(format!("{host} has no address")) } else { Err(failures.join("; ")) }
}

/// Gives tonic the connection that we opened; there is no second one, for the client dials anew.
struct Connected<S>(Option<S>);

impl<S: AsyncRead + AsyncWrite> Service<http::Uri> for Connected<S> {
    type Response = TokioIo<S>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// TLS that trusts whom a certificate of the bundle has signed, and nobody else.
fn tls(bundle: &Path) -> Result<TlsConnector, String> {
    let wrong = |why: String| format!("--operator-ca {}: {why}", bundle.display());
    let pem = std::fs::read(bundle).map_err(|error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection has a config of its own, so that there is nothing to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The token as metadata. It is a secret: marked so, and in no error.
fn authorization(file: &Path) -> Result<MetadataValue<Ascii>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("--operator-token {}: {error}", file.display()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(format!("--operator-token {}: it is empty", file.display()));
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| format!("--operator-token {}: it is not a token", file.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error with what it came from, each said once.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
