//! The Kubernetes API: one watch a kind. What is kept of an object is decided when it arrives; the
//! rest, `managedFields` first, is never stored.
//!
//! A watch that fails is started again with growing delays, and what it told before stays: objects
//! go when the API server says so, or when a complete new list does not have them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fairlead_crds::{OutlierDetection, RateLimitPolicy, ServiceRoute, Status};
use futures::StreamExt;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use super::narrow::{self, PodObject};
use super::{Change, Declared, Event, Fault, GRANT_GROUP, GRANT_VERSIONS, Typed};
use crate::metrics::Metrics;
use crate::model::{EndpointSlice, Kind, ObjectKey, ObjectRef, ReferenceGrant, Service};

/// A kind that does not exist is asked for again after so long. Who installs it writes objects of it later
/// still, and what was allowed without stays allowed for that time.
const MISSING: Duration = Duration::from_secs(30);

/// No API server is known.
#[derive(Debug, thiserror::Error)]
#[error(
    "no Kubernetes API: {0}; run in a cluster, set KUBECONFIG, or give --source DIR to read objects from files"
)]
pub struct NoCluster(String);

/// A client for the API server of the cluster, or of KUBECONFIG.
pub async fn client() -> Result<Client, NoCluster> {
    // Its words have those of its causes in them: as a cause it would say them again.
    Client::try_default().await.map_err(|error| NoCluster(error.to_string()))
}

/// Objects that the API server gives at once: a page of Pods is some megabytes, which are read and then let go.
const PAGE: u32 = 100;

/// Tells `events` what the API server has, until nobody listens.
pub async fn run(client: Client, events: mpsc::Sender<Event>, metrics: Arc<Metrics>) {
    // All watches in one: large, and made once.
    Box::pin(follow_all(client, events, metrics, MISSING)).await;
}

async fn follow_all(client: Client, events: mpsc::Sender<Event>, metrics: Arc<Metrics>, missing: Duration) {
    let teller = Teller { events, metrics, faults: Arc::default(), unread: Arc::new(AtomicUsize::new(8)) };
    let grants = grant_apis(&client);
    tokio::join!(
        teller.follow("Service", Api::<core::Service>::all(client.clone()), |service| {
            let service = Service::from_api(&service)?;
            Some(Change::Service(service.key.clone(), Some(Arc::new(service))))
        }),
        teller.follow("EndpointSlice", Api::<discovery::EndpointSlice>::all(client.clone()), |slice| {
            let slice = EndpointSlice::from_api(&slice)?;
            Some(Change::EndpointSlice(slice.key.clone(), Some(Arc::new(slice))))
        }),
        teller.follow_optional("ReferenceGrant", &grants, missing, |grant| {
            let key = narrow::key(&grant.metadata)?;
            let spec = grant.data.get("spec").unwrap_or(&Value::Null);
            // One that cannot be read allows nothing.
            let grant = ReferenceGrant::from_spec(spec).unwrap_or_default();
            Some(Change::ReferenceGrant(key, Some(Arc::new(grant))))
        }),
        teller.follow("Pod", Api::<PodObject>::all(client.clone()), |pod| {
            Some(Change::Pod(narrow::key(&pod.metadata)?, Some(Arc::new(narrow::pod(&pod)))))
        }),
        teller.follow("Namespace", Api::<core::Namespace>::all(client.clone()), |namespace| {
            let narrow = narrow::namespace(&namespace.metadata);
            Some(Change::Namespace(namespace.metadata.name?.into(), Some(Arc::new(narrow))))
        }),
        teller.follow("ServiceRoute", declared_api::<ServiceRoute>(&client), |object| {
            declared(Kind::ServiceRoute, object, |object| typed(object, Typed::ServiceRoute))
        }),
        teller.follow("OutlierDetection", declared_api::<OutlierDetection>(&client), |object| {
            declared(Kind::OutlierDetection, object, |object| typed(object, Typed::OutlierDetection))
        }),
        teller.follow("RateLimitPolicy", declared_api::<RateLimitPolicy>(&client), |object| {
            declared(Kind::RateLimitPolicy, object, |object| typed(object, Typed::RateLimitPolicy))
        }),
    );
}

/// Our kinds are read untyped first: an object that does not fit, stored when the CRD was another,
/// must not stop the watch of all the others.
fn declared_api<K: Resource<DynamicType = ()>>(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &kube::core::ApiResource::erase::<K>(&()))
}

/// ReferenceGrant, in each version that it may be served in.
fn grant_apis(client: &Client) -> [Api<DynamicObject>; GRANT_VERSIONS.len()] {
    GRANT_VERSIONS.map(|version| {
        let kind = GroupVersionKind::gvk(GRANT_GROUP, version, "ReferenceGrant");
        Api::all_with(
            client.clone(),
            &kube::core::ApiResource::from_gvk_with_plural(&kind, "referencegrants"),
        )
    })
}

fn declared(kind: Kind, object: DynamicObject, typed: fn(Value) -> Result<Typed, String>) -> Option<Change> {
    let key = ObjectKey::new(object.metadata.namespace.as_deref()?, object.metadata.name.as_deref()?);
    let generation = object.metadata.generation.unwrap_or_default();
    let mut written = serde_json::to_value(object).ok()?;
    let fields = written.as_object_mut()?;
    let status: Option<Status> =
        fields.remove("status").and_then(|status| serde_json::from_value(status).ok());
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    let content = typed(written.clone()).map_err(|error| vec![error]);
    let status = status.unwrap_or_default();
    let declared = Declared { generation, content, written: Arc::new(written), status };
    Some(Change::Declared(ObjectRef::new(kind, key), Some(Arc::new(declared))))
}

fn typed<K: DeserializeOwned>(object: Value, wrap: fn(Arc<K>) -> Typed) -> Result<Typed, String> {
    match serde_json::from_value(object) {
        Ok(object) => Ok(wrap(Arc::new(object))),
        Err(error) => {
            Err(format!("{error}; the CRD in the cluster is not the one of this operator, apply it again"))
        }
    }
}

/// What all watches share.
#[derive(Clone)]
struct Teller {
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
    /// Kinds that cannot be watched now.
    faults: Arc<Mutex<BTreeMap<&'static str, Fault>>>,
    /// Kinds whose first list is not complete.
    unread: Arc<AtomicUsize>,
}

impl Teller {
    /// Follows one kind. An object that `read` finds nothing in counts as absent.
    async fn follow<K>(&self, kind: &'static str, api: Api<K>, read: impl Fn(K) -> Option<Change>)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut list = List::default();
        let config = watcher::Config::default().page_size(PAGE);
        let mut stream = watcher(api, config).default_backoff().boxed();
        while let Some(event) = stream.next().await {
            let told = match event {
                Err(error) => {
                    self.failed(kind, &error).await;
                    Ok(())
                }
                Ok(event) => self.take(kind, &mut list, event, &read).await,
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// Follows a kind that need not exist, in the first of its versions that is served. That there is none
    /// is an answer too: it is complete, and asked for again after a while.
    async fn follow_optional(
        &self,
        kind: &'static str,
        versions: &[Api<DynamicObject>],
        again: Duration,
        read: impl Fn(DynamicObject) -> Option<Change>,
    ) {
        let mut list = List::default();
        let mut exists = false;
        loop {
            for api in versions {
                let mut stream = watcher(api.clone(), watcher::Config::default()).default_backoff().boxed();
                while let Some(event) = stream.next().await {
                    let told = match event {
                        Err(error) if is_missing(&error) => break,
                        Err(error) => {
                            self.failed(kind, &error).await;
                            Ok(())
                        }
                        Ok(event) => {
                            if matches!(event, watcher::Event::InitDone)
                                && !std::mem::replace(&mut exists, true)
                            {
                                list.note(Change::HasGrants(true));
                            }
                            self.take(kind, &mut list, event, &read).await
                        }
                    };
                    if told.is_err() {
                        return;
                    }
                }
            }
            list.begin();
            if std::mem::take(&mut exists) {
                list.note(Change::HasGrants(false));
            }
            if self.take(kind, &mut list, watcher::Event::InitDone, &read).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(again) => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// Takes in what a watch says. An error: nobody listens.
    async fn take<K: Resource>(
        &self,
        kind: &'static str,
        list: &mut List,
        event: watcher::Event<K>,
        read: &impl Fn(K) -> Option<Change>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let (changes, complete) = match event {
            watcher::Event::Init => {
                list.begin();
                return Ok(());
            }
            watcher::Event::InitApply(object) => {
                list.listed(name(&object), read(object));
                return Ok(());
            }
            watcher::Event::InitDone => (list.end(), true),
            watcher::Event::Apply(object) => (list.put(name(&object), read(object)), false),
            watcher::Event::Delete(object) => (list.put(name(&object), None), false),
        };
        self.works(kind).await;
        if !changes.is_empty() {
            self.events.send(Event::Changes(changes)).await?;
        }
        if complete && !std::mem::replace(&mut list.complete, true) {
            tracing::info!(kind, objects = list.known.len(), "first list is complete");
            if self.unread.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.events.send(Event::Synced).await?;
            }
        }
        Ok(())
    }

    async fn failed(&self, kind: &'static str, error: &watcher::Error) {
        self.metrics.watch_failed();
        tracing::debug!(kind, %error, "watch failed and starts again");
        let message = if is_missing(error) {
            "the API server does not know this kind; apply Fairlead's CustomResourceDefinitions".to_owned()
        } else {
            format!("cannot be watched now, what was told before stays in force: {error}")
        };
        self.fault(kind, Some(Fault { place: kind.to_owned(), line: None, message })).await;
    }

    async fn works(&self, kind: &'static str) {
        self.fault(kind, None).await;
    }

    async fn fault(&self, kind: &'static str, fault: Option<Fault>) {
        let faults = {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            if faults.get(kind) == fault.as_ref() {
                return;
            }
            match fault {
                Some(fault) => {
                    tracing::warn!(%fault, "source");
                    faults.insert(kind, fault);
                }
                None => {
                    tracing::info!(kind, "can be watched again");
                    faults.remove(kind);
                }
            }
            faults.values().cloned().collect()
        };
        // Nobody listening is noticed where changes are sent.
        let _ = self.events.send(Event::Faults(faults)).await;
    }
}

/// Whether the API server says that there is no such kind.
fn is_missing(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(response)) if response.code == 404)
}

fn name<K: Resource>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// The objects of one kind by name, each with the change that takes it away.
#[derive(Default)]
struct List {
    known: BTreeMap<String, Change>,
    /// A new list that is not complete yet.
    next: Option<(BTreeMap<String, Change>, Vec<Change>)>,
    /// Whether there ever was a complete one.
    complete: bool,
}

impl List {
    fn begin(&mut self) {
        self.next = Some(Default::default());
    }

    fn listed(&mut self, name: String, change: Option<Change>) {
        let (known, changes) = self.next.get_or_insert_default();
        if let Some(change) = change {
            known.insert(name, change.removal());
            changes.push(change);
        }
    }

    /// Something to say with the new list.
    fn note(&mut self, change: Change) {
        self.next.get_or_insert_default().1.push(change);
    }

    /// The new list is complete: it counts as a whole.
    fn end(&mut self) -> Vec<Change> {
        let (known, mut changes) = self.next.take().unwrap_or_default();
        let before = std::mem::replace(&mut self.known, known);
        changes.extend(
            before.into_iter().filter(|(name, _)| !self.known.contains_key(name)).map(|(_, gone)| gone),
        );
        changes
    }

    fn put(&mut self, name: String, change: Option<Change>) -> Vec<Change> {
        match change {
            Some(change) => {
                self.known.insert(name, change.removal());
                vec![change]
            }
            None => self.known.remove(&name).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
