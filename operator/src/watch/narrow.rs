//! Pods and Namespaces as far as the mesh needs them: read into types that skip the rest, which is
//! most of what an API server sends.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::model::{Namespace, ObjectKey, Pod};

/// A Pod on the wire.
pub(super) type PodObject = kube::core::Object<PodSpec, PodStatus>;

/// What is read of `spec`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    service_account_name: Option<String>,
    host_network: bool,
}

/// What is read of `status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodAddress>,
}

/// One of a Pod's addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    Pod {
        uid: object.metadata.uid.as_deref().map(Into::into),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        service_account: object.spec.service_account_name.as_deref().map(Into::into),
        host_network: object.spec.host_network,
        addresses,
        phase: status.phase.as_deref().map(Into::into),
        terminating: object.metadata.deletion_timestamp.is_some(),
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
            "metadata": {"name": "reviews-1", "namespace": "shop", "labels": {"app": "reviews"}},
            "spec": {"serviceAccountName": "reviews", "containers": [{"name": "app", "image": "x"}]},
            "status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]},
        }))
        .unwrap();
        let pod = pod(&object);
        assert_eq!(pod.addresses, ["10.244.1.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!(pod.service_account.as_deref(), Some("reviews"));
        assert_eq!(pod.phase.as_deref(), Some("Running"));
        assert!(!pod.host_network);
        assert_eq!(key(&object.metadata).unwrap().to_string(), "shop/reviews-1");
    }
}
