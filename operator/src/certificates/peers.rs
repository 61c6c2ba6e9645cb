//! How a replica calls another one: it trusts what all clients trust, and says who it is by its own token.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::watch;

use super::authority::Bundle;
use super::names;
use crate::tls::Unusable;
use crate::tls::connect::Connector;

/// What a call needs. Read anew for each: roots and token change.
#[derive(Clone, Debug)]
pub struct Peers {
    bundle: watch::Receiver<Bundle>,
    name: String,
    token: PathBuf,
}

impl Peers {
    /// Replicas in this namespace, and the file with our own token.
    #[must_use]
    pub fn new(bundle: watch::Receiver<Bundle>, namespace: &str, token: PathBuf) -> Self {
        let name = names(namespace).into_iter().next().unwrap_or_default();
        Self { bundle, name, token }
    }

    /// A connection to the replica there.
    pub fn connector(&self, address: SocketAddr) -> Result<Connector, Unusable> {
        Connector::new(address, &self.name, self.bundle.borrow().as_str())
    }

    /// The value of `authorization`.
    pub async fn authorization(&self) -> Result<String, String> {
        let token = tokio::fs::read_to_string(&self.token).await;
        let token = token.map_err(|error| format!("--token {}: {error}", self.token.display()))?;
        Ok(format!("Bearer {}", token.trim()))
    }
}
