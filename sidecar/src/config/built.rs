//! Clusters with the endpoints that they were built from, and what goes out of service with a change.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Retired;
use crate::cluster::{Cluster, ClusterSettings, EndpointSettings, EndpointSource};

/// A cluster with the endpoints that it was built from.
#[derive(Debug, Clone)]
pub(super) struct Built {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// As received.
    pub endpoints: Arc<[EndpointSettings]>,
}

impl Built {
    /// Builds a cluster on the live state of the one before; that one itself, when nothing has changed.
    pub fn new(
        settings: Arc<ClusterSettings>,
        endpoints: Arc<[EndpointSettings]>,
        previous: Option<&Self>,
    ) -> Self {
        if let Some(previous) = previous
            && previous.cluster.settings == settings
            && previous.endpoints == endpoints
        {
            return previous.clone();
        }
        let cluster = Cluster::new(settings, &endpoints, previous.map(|previous| previous.cluster.as_ref()));
        Self { cluster: Arc::new(cluster), endpoints }
    }

    /// The name of the endpoints' resource; none when they are in the cluster itself.
    pub fn endpoints_name(&self) -> Option<&Arc<str>> {
        eds_name(&self.cluster.settings)
    }
}

/// The name of the endpoints' resource; none when they are in the cluster itself.
pub(super) fn eds_name(settings: &ClusterSettings) -> Option<&Arc<str>> {
    match &settings.endpoints {
        EndpointSource::Eds(name) => Some(name),
        EndpointSource::Inline(_) => None,
    }
}

/// Whether these are the same clusters, not only equal ones.
pub(super) fn same_clusters(
    old: &HashMap<Arc<str>, Option<Built>>,
    new: &HashMap<Arc<str>, Option<Built>>,
) -> bool {
    let at = |built: &Option<Built>| built.as_ref().map(|built| Arc::as_ptr(&built.cluster));
    old.len() == new.len()
        && new.iter().all(|(name, new)| old.get(name).is_some_and(|old| at(old) == at(new)))
}

/// The endpoints that were in force and are no more.
pub(super) fn retired(before: &HashMap<Arc<str>, Built>, after: &HashMap<Arc<str>, Built>) -> Vec<Retired> {
    let mut all = Vec::new();
    for (name, old) in before {
        let new = after.get(name);
        if new.is_some_and(|new| Arc::ptr_eq(&new.endpoints, &old.endpoints)) {
            continue;
        }
        let there = new.iter().flat_map(|new| new.endpoints.iter());
        let there: HashSet<SocketAddr> = there.map(|endpoint| endpoint.address).collect();
        let addresses = old.endpoints.iter().map(|endpoint| endpoint.address);
        let addresses: Vec<SocketAddr> = addresses.filter(|address| !there.contains(address)).collect();
        if !addresses.is_empty() {
            all.push(Retired { cluster: Arc::clone(&new.unwrap_or(old).cluster), addresses });
        }
    }
    all
}
