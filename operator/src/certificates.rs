//! The certificates of our ports, and who must trust them.
//!
//! ```text
//! Secret fairlead-operator-tls ──every replica watches──> Serving (leaf) ──> xDS and webhook ports
//!    ^   │ or: a folder (cert-manager)        └─────────> bundle
//!    │   v                                                  │ the Lease holder distributes
//!  rotation <──────────── carried since <──────────── ConfigMap fairlead-ca in labelled namespaces,
//! (Lease holder)                                      caBundle of the webhook configuration
//! ```
//!
//! Two kinds of clients verify us: sidecars, by the ConfigMap that is mounted beside their token, and the API
//! server, by `caBundle`. Both get the same bundle.

pub mod authority;
pub mod distribute;
pub mod folder;
pub mod keeper;
pub mod peers;
pub mod rotation;
mod kept;
mod spread;
mod validity;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use self::authority::Bundle;
use crate::tls::Serving;

/// The Service that our ports stand behind.
const SERVICE: &str = "fairlead-operator";

/// What is served, and what clients must trust to believe it.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// For the ports.
    pub serving: Arc<Serving>,
    /// For [`distribute`].
    pub bundle: watch::Receiver<Bundle>,
}

/// That everything which should carries this bundle, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The bundle.
    pub bundle: Bundle,
    /// Since when.
    pub since: Timestamp,
}

/// The names that clients call us by.
#[must_use]
pub fn names(namespace: &str) -> Vec<String> {
    ["svc", "svc.cluster.local"].map(|domain| format!("{SERVICE}.{namespace}.{domain}")).into()
}

#[cfg(test)]
mod tests;
