//! Pods of labelled namespaces that are not as the mesh needs them: found here, for the webhook may have been away,
//! or the label is younger than the pod. Each gets an event that says what to do, and counts in a metric.
//!
//! ```text
//! Pods, Namespaces ──> book (pure) ── due ──> events (events.k8s.io)
//! streams ─────────────┘         └── counts ──> metric
//! ```
//!
//! One replica does this, the holder of the Lease. An event's name follows from what it says, so another holder, or
//! a restarted one, says nothing twice.

pub mod book;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::book::{Book, Saying};
use crate::metrics::Metrics;
use crate::watch::Change;

/// Changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_secs(1);
/// Time alone makes a pod missed, too: its sidecar started and was not heard of.
const TICK: Duration = Duration::from_secs(10);

/// What there is to know besides Pods and Namespaces.
pub struct Surroundings {
    /// The image that is injected now.
    pub image: String,
    /// Our own namespace, whose pods are never injected.
    pub namespace: String,
    /// The name of this replica.
    pub replica: String,
    /// Whether this replica holds the Lease.
    pub leading: Box<dyn Fn() -> bool + Send + Sync>,
    /// The sidecars (`shop/reviews-1`) that have a stream at any replica; none: that is not known now.
    pub connected: Box<dyn Fn() -> Option<BTreeSet<Arc<str>>> + Send + Sync>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Surroundings").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// Reports missed pods until nobody tells of pods any more.
pub async fn run(
    client: Client,
    mut changes: mpsc::UnboundedReceiver<Change>,
    surroundings: Surroundings,
    metrics: Arc<Metrics>,
) {
    let mut book = Book::new(&surroundings.image, &surroundings.namespace);
    // What the rate leaves over is said in the next round.
    let mut complete = true;
    loop {
        if complete {
            match tokio::time::timeout(TICK, changes.recv()).await {
                Ok(Some(change)) => book.take(change),
                Ok(None) => return,
                Err(_) => {}
            }
        }
        tokio::time::sleep(TOGETHER).await;
        while let Ok(change) = changes.try_recv() {
            book.take(change);
        }
        complete = if (surroundings.leading)() {
            say_what_is_due(&client, &mut book, &surroundings, &metrics).await
        } else {
            metrics.missed_pods([]);
            book.start_again();
            true
        };
    }
}

/// Says what may be said now. False: something is left.
async fn say_what_is_due(
    client: &Client,
    book: &mut Book,
    surroundings: &Surroundings,
    metrics: &Metrics,
) -> bool {
    let connected = (surroundings.connected)();
    let due = book.due(connected.as_ref(), Instant::now());
    metrics.missed_pods(due.counts.into_iter().map(|(reason, count)| (reason.label(), count)));
    let sent = due.sayings.iter().map(|saying| send(client, saying, &surroundings.replica));
    for (saying, sent) in due.sayings.iter().zip(futures::future::join_all(sent).await) {
        match sent {
            Ok(()) => tracing::info!(pod = %saying.pod, reason = saying.reason.event(), "pod reported"),
            // It was said before, or the pod's namespace is going.
            Err(kube::Error::Api(response)) if [409, 404].contains(&response.code) => {}
            Err(kube::Error::Api(response)) if response.reason == "NamespaceTerminating" => {}
            Err(error) => {
                tracing::warn!(pod = %saying.pod, %error, "an event could not be written; will be tried again");
                book.failed(saying, Instant::now());
            }
        }
    }
    due.complete
}

async fn send(client: &Client, saying: &Saying, replica: &str) -> Result<(), kube::Error> {
    let event = event(saying, replica, Timestamp::now());
    Api::<Event>::namespaced(client.clone(), &saying.pod.namespace)
        .create(&PostParams::default(), &event)
        .await
        .map(drop)
}

/// The event as the API server keeps it, for an hour.
fn event(saying: &Saying, replica: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(saying.name()),
            namespace: Some(saying.pod.namespace.to_string()),
            ..ObjectMeta::default()
        },
        action: Some("Inject".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(saying.text.clone()),
        reason: Some(saying.reason.event().to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(saying.pod.name.to_string()),
            namespace: Some(saying.pod.namespace.to_string()),
            uid: saying.uid.as_deref().map(str::to_owned),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("fairlead.dev/operator".to_owned()),
        reporting_instance: Some(replica.to_owned()),
        type_: Some(if saying.reason.is_harmless() { "Normal" } else { "Warning" }.to_owned()),
        ..Event::default()
    }
}
