//! Who may have a stream, and for how long.
//!
//! A client is the pod of its token: it names itself so, comes from one of that pod's addresses, and gets
//! that pod's inbound listeners. A token that another pod has stolen fails at the address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::identity::{Caller, Identities, Unknown};
use crate::model::{ObjectKey, Pod};
use crate::xds::hub::Hub;

/// How long a stream lives, give or take a fifth: streams that end and are opened again spread over the
/// replicas that there are now.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// Streams of one pod: a sidecar has one, and for a moment two. Each may ask for 10,000 names.
pub(super) const STREAMS_A_POD: usize = 8;

/// The shortest life of a stream, and so of a connection: then the client is told to open another one for
/// what comes next.
pub(super) const SHORTEST_LIFE: Duration = Duration::from_secs(24 * 60);

/// A client whose token is good.
#[derive(Clone, Debug)]
pub(super) struct Client {
    caller: Arc<Caller>,
    key: ObjectKey,
    uid: Arc<str>,
    peer: IpAddr,
    /// `NAMESPACE/POD`.
    pub(super) node: Arc<str>,
}

impl Client {
    /// Finds out who it is.
    pub(super) async fn identify(
        identities: &Identities,
        metadata: &MetadataMap,
        peer: SocketAddr,
        now: Timestamp,
    ) -> Result<Self, Status> {
        let authorization = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let caller = identities.identify(authorization, now).await.map_err(|unknown| match unknown {
            Unknown::Unavailable(_) => Status::unavailable(unknown.to_string()),
            _ => Status::unauthenticated(unknown.to_string()),
        })?;
        let Some(pod) = &caller.pod else {
            return Err(Status::permission_denied(
                "the token was made for no pod; use one that the kubelet projects into the pod",
            ));
        };
        let key = ObjectKey::new(caller.namespace.clone(), pod.name.clone());
        let (node, uid) = (key.to_string().into(), pod.uid.clone());
        Ok(Self { caller, key, uid, peer: peer.ip().to_canonical(), node })
    }

    /// Refuses a client that calls itself something else.
    pub(super) fn check_node(&self, node: &str) -> Result<(), Status> {
        if node == &*self.node {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "node.id is {node:?}, but the token is that of the pod {}; a pod can only ask for itself",
            self.node
        )))
    }

    /// Refuses a client that comes from where its pod is not, as far as that is known.
    pub(super) fn check_address(&self, hub: &Hub) -> Result<(), Status> {
        let Some(pod) = self.pod(hub) else { return Ok(()) };
        if is_over(&pod) {
            return Err(Status::permission_denied(format!("the pod {} has ended", self.node)));
        }
        // A pod on the node's network shares its addresses with others, and leaves by any of them.
        if pod.host_network || pod.addresses.is_empty() || pod.addresses.contains(&self.peer) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "the token is that of the pod {}, which does not have the address {}; a token is good from its own pod only, and no proxy or address translation may lie between",
            self.node, self.peer
        )))
    }

    /// The addresses whose inbound listeners it may have.
    pub(super) fn own(&self, hub: &Hub) -> Vec<IpAddr> {
        self.pod(hub).filter(|pod| !is_over(pod)).map(|pod| pod.addresses.clone()).unwrap_or_default()
    }

    /// How long its stream lives; `dice` is between 0 and 1.
    pub(super) fn lifetime(&self, now: Timestamp, dice: f64) -> Duration {
        let token = self.caller.expires.duration_since(now).try_into().unwrap_or(Duration::ZERO);
        LIFE.mul_f64(0.8 + 0.4 * dice).min(token)
    }

    /// Its pod as it is watched; not an earlier or later one of the same name.
    fn pod(&self, hub: &Hub) -> Option<Arc<Pod>> {
        hub.pod(&self.key).filter(|pod| pod.uid.as_ref() == Some(&self.uid))
    }
}

/// Its address may be another pod's already.
fn is_over(pod: &Pod) -> bool {
    matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_at_different_times_and_never_after_the_token() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let lifetime = |left: Duration, dice: f64| {
            let caller = Caller {
                namespace: "shop".into(),
                service_account: "default".into(),
                pod: None,
                expires: now + left,
            };
            let client = Client {
                caller: Arc::new(caller),
                key: ObjectKey::new("shop", "reviews-1"),
                uid: "u".into(),
                peer: IpAddr::from([10, 0, 0, 1]),
                node: "shop/reviews-1".into(),
            };
            client.lifetime(now, dice)
        };
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        assert_eq!(lifetime(minutes(60), 0.0), minutes(24));
        assert_eq!(lifetime(minutes(60), 0.5), minutes(30));
        assert_eq!(lifetime(minutes(60), 1.0), minutes(36));
        assert_eq!(lifetime(minutes(10), 1.0), minutes(10));
    }
}
