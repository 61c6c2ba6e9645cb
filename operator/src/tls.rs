//! What our TLS ports present: one certificate for all of them, replaced while they run.
//!
//! ```text
//! Secret or folder ──> Serving ──> every handshake from then on
//! ```

pub mod accept;
pub mod connect;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificate and key that are presented now.
#[derive(Debug)]
pub struct Serving {
    leaf: ArcSwap<CertifiedKey>,
}

/// A certificate that cannot be served. Says nothing of the key's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

impl Serving {
    /// Presents this one.
    #[must_use]
    pub fn new(leaf: CertifiedKey) -> Arc<Self> {
        Arc::new(Self { leaf: ArcSwap::from_pointee(leaf) })
    }

    /// Presents another one from the next handshake on. Says whether it is another.
    pub fn replace(&self, leaf: CertifiedKey) -> bool {
        let another = self.leaf.load().cert != leaf.cert;
        if another {
            self.leaf.store(Arc::new(leaf));
        }
        another
    }

    /// The settings of a port that speaks these protocols (ALPN), the preferred one first.
    #[must_use]
    pub fn config(self: &Arc<Self>, protocols: &[&str]) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the cipher suites of TLS 1.2 and 1.3");
        let mut config = config.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.leaf.load_full())
    }
}

/// The one cryptography that is used.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A certificate chain and its key, both PEM. They must belong together.
pub fn certified_key(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, Unusable> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| Unusable(format!("tls.crt is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err(Unusable("tls.crt has no certificate".into()));
    }
    // What is wrong inside a key is not told: the message might repeat a part of it.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| Unusable("tls.key is no private key in PEM".into()))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| Unusable(format!("tls.key and tls.crt cannot be used together: {error}")))
}
