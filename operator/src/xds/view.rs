//! What one client may have of a snapshot. An identified client gets the inbound listeners of its own pod and
//! of no other; everything else is the same for all.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::name::INBOUND;
use super::session::Catalog;
use super::snapshot::{Resource, ResourceKind, Snapshot};

/// A snapshot through the eyes of one client.
#[derive(Debug)]
pub struct View {
    /// What there is.
    pub snapshot: Arc<Snapshot>,
    /// The addresses of the client's pod; `None`: nobody is asked who he is.
    pub own: Option<Vec<IpAddr>>,
}

impl Catalog for View {
    fn get(&self, kind: ResourceKind, name: &str) -> Option<Arc<Resource>> {
        let allowed = match (&self.own, own_address(kind, name)) {
            (Some(own), Some(address)) => own.contains(&address),
            (Some(_), None) => !is_own(kind, name),
            (None, _) => true,
        };
        if allowed { self.snapshot.get(kind, name) } else { None }
    }

    fn names(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        self.snapshot.names(kind)
    }
}

/// Whether only one pod may have what has this name.
#[must_use]
pub fn is_own(kind: ResourceKind, name: &str) -> bool {
    kind == ResourceKind::Listener && name.starts_with(INBOUND)
}

/// The address of that pod.
fn own_address(kind: ResourceKind, name: &str) -> Option<IpAddr> {
    let address = name.strip_prefix(INBOUND).filter(|_| kind == ResourceKind::Listener)?;
    Some(address.parse::<SocketAddr>().ok()?.ip())
}
