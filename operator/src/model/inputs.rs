//! All objects as they are now: what `watch` gives and [`super::compile`] reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_crds::{OutlierDetection, RateLimitPolicy, ServiceRoute};

use super::grant::Grants;
use super::object::{ObjectKey, ObjectRef};
use super::service::Service;
use super::slice::EndpointSlice;

/// All objects as they are now. Plain maps of shared values: a clone copies no object.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Services.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// EndpointSlices, by their own names.
    pub endpoint_slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// ServiceRoutes.
    pub service_routes: BTreeMap<ObjectKey, Arc<ServiceRoute>>,
    /// OutlierDetections.
    pub outlier_detections: BTreeMap<ObjectKey, Arc<OutlierDetection>>,
    /// RateLimitPolicies.
    pub rate_limit_policies: BTreeMap<ObjectKey, Arc<RateLimitPolicy>>,
    /// ReferenceGrants, where that kind exists.
    pub reference_grants: Grants,
    /// Pods.
    pub pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// Namespaces, by name.
    pub namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    /// Objects that the API server would have refused, with its messages (directory source only): they are
    /// not in the maps above, and only their status says that they exist.
    pub invalid: BTreeMap<ObjectRef, Vec<String>>,
}

/// A Pod, as far as the mesh needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its uid: a later Pod may have the same name.
    pub uid: Option<Arc<str>>,
    /// Whom it runs as.
    pub service_account: Option<Arc<str>>,
    /// Whether it has the node's addresses.
    pub host_network: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub phase: Option<Arc<str>>,
    /// Whether it was deleted, and has not ended yet.
    pub terminating: bool,
    /// Its annotations of `fairlead.dev`.
    pub annotations: BTreeMap<String, String>,
    /// Its sidecar; none: it was not injected.
    pub sidecar: Option<PodSidecar>,
    /// It runs on Windows, or the kubelet made it from a file: no sidecar is possible.
    pub cannot_be_injected: bool,
}

/// The sidecar of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodSidecar {
    /// Its image.
    pub image: Arc<str>,
    /// Whether its startup probe has succeeded.
    pub started: bool,
}

/// A Namespace, as far as the mesh needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}
