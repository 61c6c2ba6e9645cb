//! Who is there: the pods that a sidecar may speak for, and the replicas of the operator that clients may
//! connect to. Status asks it whom to wait for.
//!
//! ```text
//! Pod ───────────> running ──> is it worth waiting for a client that was lost?
//! EndpointSlice ─> replicas ─> whose report is needed?
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::slice::EndpointCondition;
use crate::model::{EndpointSlice, ObjectKey, Pod};

/// The name of the operator's Service, one in a cluster.
const OPERATOR: &str = "fairlead-operator";

/// Who is there now. The publisher writes it, status reads it.
#[derive(Debug)]
pub struct Presence {
    /// The operator's own Service.
    service: ObjectKey,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// `NAMESPACE/POD`, which is the sidecar's node id, of every pod that has not ended and is not about to.
    running: HashSet<Box<str>>,
    /// Pods that were deleted since the last look.
    deleted: Vec<Box<str>>,
    /// The pods that are ready replicas of the operator, by the slice that says so.
    replicas: BTreeMap<ObjectKey, BTreeSet<Arc<str>>>,
}

impl Presence {
    /// Nobody is known yet; the operator itself runs in this namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { service: ObjectKey::new(namespace, OPERATOR), now: Mutex::default() }
    }

    /// Whether a pod of that name (`NAMESPACE/POD`) runs and is to go on.
    #[must_use]
    pub fn is_running(&self, pod: &str) -> bool {
        self.now().running.contains(pod)
    }

    /// The pods (`NAMESPACE/POD`) that are gone since the last call.
    pub fn take_deleted(&self) -> Vec<Box<str>> {
        std::mem::take(&mut self.now().deleted)
    }

    /// The replicas of the operator that are ready, by the names of their pods.
    #[must_use]
    pub fn replicas(&self) -> BTreeSet<Arc<str>> {
        self.now().replicas.values().flatten().cloned().collect()
    }

    /// Notes a pod as it is now.
    pub fn pod(&self, key: &ObjectKey, pod: Option<&Pod>) {
        let name = key.to_string().into_boxed_str();
        let mut now = self.now();
        let ended = |pod: &Pod| matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed"));
        match pod {
            Some(pod) if !pod.terminating && !ended(pod) => drop(now.running.insert(name)),
            Some(_) => drop(now.running.remove(&name)),
            None => {
                now.running.remove(&name);
                now.deleted.push(name);
            }
        }
    }

    /// Notes an EndpointSlice as it is now; of interest are the operator's own.
    pub fn slice(&self, key: &ObjectKey, slice: Option<&EndpointSlice>) {
        let Some(slice) = slice.filter(|slice| slice.service == self.service) else {
            self.now().replicas.remove(key);
            return;
        };
        let ready = slice.endpoints.iter().filter(|it| it.condition == EndpointCondition::Ready);
        let pods = ready.filter_map(|endpoint| endpoint.pod.clone()).collect();
        self.now().replicas.insert(key.clone(), pods);
    }

    /// Nothing in it is ever half written, so a panic elsewhere does no harm.
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: &str, endpoints: &[(&str, bool)]) -> EndpointSlice {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(pod, ready)| {
                json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready},
                       "targetRef": {"kind": "Pod", "name": pod}})
            })
            .collect();
        let object = json!({
            "metadata": {"name": name, "namespace": "fairlead-system",
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints,
        });
        EndpointSlice::from_api(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn ready_endpoints_of_our_own_service_are_the_replicas() {
        let presence = Presence::new("fairlead-system");
        let put = |name: &str, service: &str, endpoints: &[(&str, bool)]| {
            let slice = slice(name, service, endpoints);
            presence.slice(&slice.key, Some(&slice));
            presence.replicas().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(put("v4", "fairlead-operator", &[("a", true), ("b", false)]), ["a"]);
        assert_eq!(put("v6", "fairlead-operator", &[("a", true), ("b", true)]), ["a", "b"]);
        assert_eq!(put("other", "reviews", &[("c", true)]), ["a", "b"]);
        presence.slice(&ObjectKey::new("fairlead-system", "v6"), None);
        assert_eq!(presence.replicas(), ["a".into()].into());
    }

    #[test]
    fn pods_that_end_are_not_waited_for() {
        let presence = Presence::new("fairlead-system");
        let key = ObjectKey::new("shop", "job-1");
        let pod = |phase: &str, terminating| Pod { phase: Some(phase.into()), terminating, ..Pod::default() };
        presence.pod(&key, Some(&pod("Running", false)));
        assert!(presence.is_running("shop/job-1"));
        for leaving in [pod("Running", true), pod("Succeeded", false), pod("Failed", false)] {
            presence.pod(&key, Some(&leaving));
            assert!(!presence.is_running("shop/job-1"));
        }
        assert_eq!(presence.take_deleted().len(), 0);
        presence.pod(&key, None);
        assert_eq!(presence.take_deleted(), ["shop/job-1".into()]);
        assert_eq!(presence.take_deleted().len(), 0);
    }
}
