//! Certificates that someone else makes: a folder with `tls.crt`, `tls.key` and `ca.crt`, such as
//! cert-manager's Secret when it is mounted.
//!
//! The kubelet replaces the files by one symbolic link, and whoever else writes them may not: what does not
//! fit together is read again a little later, and meanwhile the old certificate is served. The folder is
//! read, not watched, for links that move below a mount are easy to miss.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::authority::Bundle;
use super::{Certificates, validity};
use crate::metrics::Metrics;
use crate::tls::{self, Serving};

/// Three small files; the kubelet itself takes up to two minutes.
const EVERY: Duration = Duration::from_secs(2);

/// The folder, and what was read of it last.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    serving: Arc<Serving>,
    bundle: watch::Sender<Bundle>,
    metrics: Arc<Metrics>,
}

/// What is wrong with the folder.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--certificates {path}: {reason}; it needs tls.crt, tls.key and ca.crt, in PEM", path = path.display())]
pub struct Unusable {
    path: PathBuf,
    reason: String,
}

impl Folder {
    /// Reads the folder, and what there is to serve.
    pub async fn open(path: &Path, metrics: Arc<Metrics>) -> Result<(Self, Certificates), Unusable> {
        let (leaf, roots) = read(path).await?;
        show(&leaf, &roots, &metrics);
        let serving = Serving::new(leaf);
        let (send, bundle) = watch::channel(roots);
        let folder = Self { path: path.to_owned(), serving: serving.clone(), bundle: send, metrics };
        Ok((folder, Certificates { serving, bundle }))
    }

    /// Reads it again and again.
    pub async fn run(self) {
        let mut complained = None;
        loop {
            tokio::time::sleep(EVERY).await;
            match read(&self.path).await {
                Ok((leaf, roots)) => {
                    complained = None;
                    show(&leaf, &roots, &self.metrics);
                    if self.serving.replace(leaf) {
                        tracing::info!(folder = %self.path.display(), "serving a new certificate");
                    }
                    self.bundle.send_if_modified(|bundle| std::mem::replace(bundle, roots.clone()) != roots);
                }
                // Once: it may be half written.
                Err(error) if complained.as_ref() != Some(&error) => {
                    tracing::warn!(%error, "the certificate from before is served on");
                    complained = Some(error);
                }
                Err(_) => {}
            }
        }
    }
}

/// When they end, for who watches over them.
fn show(leaf: &CertifiedKey, roots: &Bundle, metrics: &Metrics) {
    let newest = CertificateDer::from_pem_slice(roots.as_str().as_bytes()).ok();
    let end = |certificate: Option<&CertificateDer<'_>>| Some(validity::of(certificate?)?.1);
    metrics.certificates_end(end(leaf.cert.first()), end(newest.as_ref()));
}

async fn read(path: &Path) -> Result<(CertifiedKey, Bundle), Unusable> {
    let unusable = |reason: String| Unusable { path: path.to_owned(), reason };
    let file = async |name: &str| {
        tokio::fs::read(path.join(name)).await.map_err(|error| unusable(format!("{name}: {error}")))
    };
    let (chain, key, roots) = (file("tls.crt").await?, file("tls.key").await?, file("ca.crt").await?);
    let leaf = tls::certified_key(&chain, &key).map_err(|error| unusable(error.to_string()))?;
    let roots = std::str::from_utf8(&roots).ok().and_then(Bundle::read);
    Ok((leaf, roots.ok_or_else(|| unusable("ca.crt has no certificate".into()))?))
}
