//! Calls with TLS, to a server that has to prove its name by a root that the caller was given.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::Uri;

use super::{Unusable, provider};

/// Connects to one address, whatever URI is asked for.
#[derive(Clone)]
pub struct Connector {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Connector {
    /// Trusts the roots of this PEM text and nothing else. The server at `address` must be called `name`.
    pub fn new(address: SocketAddr, name: &str, roots: &str) -> Result<Self, Unusable> {
        let mut trusted = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            let root = root.map_err(|error| Unusable(error.to_string()))?;
            trusted.add(root).map_err(|error| Unusable(error.to_string()))?;
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|error| Unusable(error.to_string()))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Unusable(error.to_string()))?;
        let mut config = config.with_root_certificates(trusted).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { address, name, tls: TlsConnector::from(Arc::new(config)) })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, name, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        })
    }
}
