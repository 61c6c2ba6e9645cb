//! Pods and Namespaces as far as the mesh needs them: read into types that skip the rest, which is
//! most of what an API server sends.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer};

use crate::inject::annotation::PREFIX;
use crate::inject::{MIRROR, PROXY};
use crate::model::{Namespace, ObjectKey, Pod, PodSidecar};

/// A Pod on the wire. Statuses of Pods change all the time, so it counts what is read of one; `managedFields`,
/// a tree with a leaf for every field of the Pod, would be most of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodObject {
    #[serde(deserialize_with = "narrow_metadata")]
    pub(super) metadata: ObjectMeta,
    spec: PodSpec,
    status: Option<PodStatus>,
}

impl kube::Resource for PodObject {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is read of `metadata`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
    deletion_timestamp: Option<Time>,
}

fn narrow_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        annotations: read.annotations,
        deletion_timestamp: read.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

/// What is read of `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    service_account_name: Option<String>,
    host_network: bool,
    init_containers: Option<Vec<Container>>,
    os: Option<Os>,
}

/// What is read of an init container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    image: Option<String>,
}

/// Which system a pod needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Os {
    name: String,
}

/// What is read of `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodAddress>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
}

/// What is read of the status of an init container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    started: Option<bool>,
}

/// One of a Pod's addresses.
#[derive(Clone, Debug, Default, Deserialize)]
struct PodAddress {
    ip: String,
}

/// The narrow Pod.
pub(super) fn pod(object: &PodObject) -> Pod {
    let status = object.status.clone().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = status
        .pod_ips
        .iter()
        .map(|address| &address.ip)
        .chain(&status.pod_ip)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    addresses.dedup();
    if status.pod_ips.len() > 1 {
        addresses.truncate(status.pod_ips.len()); // podIP repeats the first of podIPs.
    }
    let annotations = object.metadata.annotations.iter().flatten();
    let ours = annotations.clone().filter(|(name, _)| name.starts_with(PREFIX));
    let mirror = annotations.clone().any(|(name, _)| name == MIRROR);
    let windows = object.spec.os.as_ref().is_some_and(|os| os.name == "windows");
    let statuses = status.init_container_statuses.iter().flatten();
    let started = statuses.clone().any(|one| one.name == PROXY && one.started == Some(true));
    let sidecar = object.spec.init_containers.iter().flatten().find(|one| one.name == PROXY);
    Pod {
        uid: object.metadata.uid.as_deref().map(Into::into),
        service_account: object.spec.service_account_name.as_deref().map(Into::into),
        host_network: object.spec.host_network,
        addresses,
        phase: status.phase.as_deref().map(Into::into),
        terminating: object.metadata.deletion_timestamp.is_some(),
        annotations: ours.map(|(name, value)| (name.clone(), value.clone())).collect(),
        sidecar: sidecar
            .map(|one| PodSidecar { image: one.image.as_deref().unwrap_or_default().into(), started }),
        cannot_be_injected: windows || mirror,
    }
}

/// The narrow Namespace.
pub(super) fn namespace(metadata: &ObjectMeta) -> Namespace {
    Namespace { labels: metadata.labels.clone().unwrap_or_default() }
}

/// Namespace and name; none without a name.
pub(super) fn key(metadata: &ObjectMeta) -> Option<ObjectKey> {
    Some(ObjectKey::new(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_read_narrowly() {
        let object: PodObject = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "reviews-1", "namespace": "shop", "labels": {"app": "reviews"}, "uid": "u",
                "annotations": {"fairlead.dev/workers": "2", "other.dev/x": "y"},
                "deletionTimestamp": "2026-11-26T00:00:00Z", "resourceVersion": "7",
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]},
            "spec": {"serviceAccountName": "reviews", "containers": [{"name": "app", "image": "x"}],
                "initContainers": [{"name": "fairlead-proxy", "image": "proxy:1"}]},
            "status": {"initContainerStatuses": [{"name": "fairlead-proxy", "started": true}], "phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]},
        }))
        .unwrap();
        let pod = pod(&object);
        assert_eq!(pod.addresses, ["10.244.1.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!(pod.service_account.as_deref(), Some("reviews"));
        assert_eq!(pod.phase.as_deref(), Some("Running"));
        assert!(pod.terminating && !pod.host_network && !pod.cannot_be_injected);
        assert_eq!(object.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!((&object.metadata.managed_fields, &object.metadata.labels), (&None, &None));
        assert_eq!(pod.sidecar, Some(PodSidecar { image: "proxy:1".into(), started: true }));
        assert_eq!(pod.annotations, [("fairlead.dev/workers".to_owned(), "2".to_owned())].into());
        assert_eq!(key(&object.metadata).unwrap().to_string(), "shop/reviews-1");
    }
}
