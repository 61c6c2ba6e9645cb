//! From what a source tells to what is served: keeps the objects, compiles them, publishes the
//! snapshot, and tells status what it came to.
//!
//! A change of endpoints goes out at once and compiles the Services concerned only. A change of
//! configuration waits until nothing more has come for a moment, for people and controllers write
//! several objects at a time, but not for long.

pub mod presence;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::presence::Presence;
use crate::metrics::{Metrics, Scope};
use crate::model::{self, Inputs, ObjectKey, ObjectRef, Problem};
use crate::watch::{Change, Declared, Event, Fault, Typed};
use crate::xds::hub::Hub;
use crate::xds::snapshot::Snapshot;

/// Nothing more has come for so long: the change is complete.
const QUIET: Duration = Duration::from_millis(50);
/// A change is published after so long, whatever still comes.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is served, and what there is to say about it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Published {
    /// What is served.
    pub snapshot: Arc<Snapshot>,
    /// The objects of our kinds that it was compiled from.
    pub declared: Arc<BTreeMap<ObjectRef, Arc<Declared>>>,
    /// What is wrong with them.
    pub problems: Arc<BTreeMap<ObjectRef, Vec<Problem>>>,
    /// What is wrong with the source.
    pub faults: Arc<[Fault]>,
    /// Counts compilations of everything: equal ones differ in endpoints only.
    pub edition: u64,
}

/// The objects, and what of them is not published yet.
#[derive(Debug)]
pub struct Publisher {
    inputs: Inputs,
    published: Published,
    declared: BTreeMap<ObjectRef, Arc<Declared>>,
    faults: Arc<[Fault]>,
    /// When configuration changed first and last since it was compiled.
    config: Option<(Instant, Instant)>,
    /// Services whose endpoints changed.
    endpoints: BTreeSet<ObjectKey>,
    /// Statuses or faults changed, and nothing else.
    notes: bool,
    presence: Arc<Presence>,
    /// Pods that streams have not heard of.
    moved: BTreeSet<ObjectKey>,
    /// Who hears of Pods and Namespaces.
    onlooker: Option<mpsc::UnboundedSender<Change>>,
    metrics: Arc<Metrics>,
}

/// The source ended before it was read once.
#[derive(Debug, thiserror::Error)]
#[error("the source ended before everything was read")]
pub struct Ended;

impl Publisher {
    /// A publisher without objects, which keeps `presence` up to date.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, presence: Arc<Presence>) -> Self {
        let mesh = Arc::new(model::Mesh::default());
        let published = Published {
            snapshot: Arc::new(Snapshot::new(mesh, None)),
            declared: Arc::default(),
            problems: Arc::default(),
            faults: Arc::default(),
            edition: 0,
        };
        Self {
            inputs: Inputs::default(),
            published,
            declared: BTreeMap::new(),
            faults: Arc::default(),
            config: None,
            endpoints: BTreeSet::new(),
            notes: false,
            presence,
            moved: BTreeSet::new(),
            onlooker: None,
            metrics,
        }
    }

    /// Tells every change of a Pod or a Namespace to this one too. It has to keep up.
    pub fn tell(&mut self, onlooker: mpsc::UnboundedSender<Change>) {
        self.onlooker = Some(onlooker);
    }

    /// Waits until the source was read once, and compiles it. Before that nothing may be served: it
    /// would tell clients that everything is gone.
    /// `meanwhile` hears what stands in the way.
    pub async fn first(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        meanwhile: impl Fn(&[Fault]),
    ) -> Result<Published, Ended> {
        loop {
            match events.recv().await.ok_or(Ended)? {
                Event::Synced => break,
                event => self.take(event, Instant::now()),
            }
            meanwhile(&self.faults);
        }
        self.compile_all();
        Ok(self.published.clone())
    }

    /// Publishes changes until the source ends.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        hub: Arc<Hub>,
        published: watch::Sender<Published>,
    ) {
        loop {
            for key in std::mem::take(&mut self.moved) {
                hub.pod_changed(&key, self.inputs.pods.get(&key));
            }
            let due = self.due();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event, Instant::now()),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            while let Ok(event) = events.try_recv() {
                self.take(event, Instant::now());
            }
            let changed;
            (self, changed) = self.compile_due().await;
            if changed {
                let resources = hub.publish(&self.published.snapshot);
                tracing::debug!(resources, edition = self.published.edition, "published");
                published.send_replace(self.published.clone());
            }
        }
    }

    /// When something has to be compiled.
    fn due(&self) -> Option<Instant> {
        let config = self.config.map(|(first, last)| (last + QUIET).min(first + PATIENCE));
        if self.notes || !self.endpoints.is_empty() { Some(Instant::now()) } else { config }
    }

    /// Compiles what is due; a whole mesh where it delays no stream.
    async fn compile_due(mut self) -> (Self, bool) {
        let now = Instant::now();
        let config_is_due =
            self.config.is_some_and(|(first, last)| (last + QUIET).min(first + PATIENCE) <= now);
        if config_is_due {
            match tokio::task::spawn_blocking(move || {
                self.compile_all();
                self
            })
            .await
            {
                Ok(publisher) => (publisher, true),
                Err(error) => match error.try_into_panic() {
                    // A panic in there is a panic here.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is being shut down.
                    Err(_) => std::future::pending().await,
                },
            }
        } else if !self.endpoints.is_empty() {
            self.compile_endpoints();
            (self, true)
        } else if std::mem::take(&mut self.notes) {
            self.note();
            (self, true)
        } else {
            (self, false)
        }
    }

    fn compile_all(&mut self) {
        let start = Instant::now();
        self.config = None;
        self.endpoints.clear();
        let previous = &self.published.snapshot;
        let (mesh, found) = model::recompile(&self.inputs, previous.mesh());
        let mut problems: BTreeMap<ObjectRef, Vec<Problem>> = BTreeMap::new();
        for problem in found {
            problems.entry(problem.object.clone()).or_default().push(problem);
        }
        self.published.snapshot = Arc::new(Snapshot::new(Arc::new(mesh), Some(previous)));
        self.published.problems = Arc::new(problems);
        self.published.edition += 1;
        self.note();
        self.metrics.compiled(Scope::Config, start.elapsed());
        self.count();
    }

    fn compile_endpoints(&mut self) {
        let start = Instant::now();
        let services = std::mem::take(&mut self.endpoints);
        let previous = &self.published.snapshot;
        let mesh = previous.mesh().with_endpoints(&self.inputs, &services);
        self.published.snapshot = Arc::new(Snapshot::new(Arc::new(mesh), Some(previous)));
        if std::mem::take(&mut self.notes) {
            self.published.faults = self.faults.clone();
        }
        self.metrics.compiled(Scope::Endpoints, start.elapsed());
    }

    /// Takes over what needs no compilation. Objects of ours whose compilation is still due are not
    /// published: their generation is not in force yet.
    fn note(&mut self) {
        self.notes = false;
        if self.config.is_none() {
            self.published.declared = Arc::new(self.declared.clone());
        }
        self.published.faults = self.faults.clone();
        self.metrics.source_errors(self.faults.len());
    }

    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Changes(changes) => changes.into_iter().for_each(|change| self.apply(change, now)),
            Event::Faults(faults) => {
                self.faults = faults.into();
                self.notes = true;
            }
            Event::Synced => {}
        }
    }

    fn apply(&mut self, change: Change, now: Instant) {
        // Most updates of a Pod are about what is not read of it.
        if let Change::Pod(key, pod) = &change
            && self.inputs.pods.get(key) == pod.as_ref()
        {
            return;
        }
        if let (Some(onlooker), Change::Pod(..) | Change::Namespace(..)) = (&self.onlooker, &change) {
            // One that is gone has ended the process.
            let _ = onlooker.send(change.clone());
        }
        match change {
            Change::EndpointSlice(key, slice) => {
                self.presence.slice(&key, slice.as_deref());
                let before = match &slice {
                    Some(slice) => self.inputs.endpoint_slices.insert(key, slice.clone()),
                    None => self.inputs.endpoint_slices.remove(&key),
                };
                if before == slice {
                    return;
                }
                self.endpoints.extend(before.into_iter().chain(slice).map(|slice| slice.service.clone()));
            }
            Change::Service(key, service) => {
                let before = match &service {
                    Some(service) => self.inputs.services.insert(key, service.clone()),
                    None => self.inputs.services.remove(&key),
                };
                if before != service {
                    self.config_changed(now);
                }
            }
            Change::ReferenceGrant(key, grant) => {
                let before = match &grant {
                    Some(grant) => {
                        self.inputs.reference_grants.get_or_insert_default().insert(key, grant.clone())
                    }
                    None => self.inputs.reference_grants.as_mut().and_then(|grants| grants.remove(&key)),
                };
                if before != grant {
                    self.config_changed(now);
                }
            }
            Change::HasGrants(exist) => {
                if exist != self.inputs.reference_grants.is_some() {
                    self.inputs.reference_grants = exist.then(BTreeMap::new);
                    self.config_changed(now);
                }
            }
            // Nothing that is compiled depends on these yet.
            Change::Pod(key, pod) => {
                self.presence.pod(&key, pod.as_deref());
                match pod {
                    Some(pod) => drop(self.inputs.pods.insert(key.clone(), pod)),
                    None => drop(self.inputs.pods.remove(&key)),
                }
                self.moved.insert(key);
            }
            Change::Namespace(name, namespace) => match namespace {
                Some(namespace) => drop(self.inputs.namespaces.insert(name, namespace)),
                None => drop(self.inputs.namespaces.remove(&name)),
            },
            Change::Declared(reference, declared) => self.declare(&reference, declared.as_ref(), now),
        }
    }

    fn declare(&mut self, reference: &ObjectRef, declared: Option<&Arc<Declared>>, now: Instant) {
        let before = match declared {
            Some(declared) => self.declared.insert(reference.clone(), declared.clone()),
            None => self.declared.remove(reference),
        };
        if before.zip(declared).is_some_and(|(before, declared)| before.means_the_same_as(declared)) {
            self.notes = true; // A status was written, probably by us.
            return;
        }
        let key = &reference.key;
        self.forget(reference);
        match declared.map(|declared| &declared.content) {
            Some(Ok(Typed::ServiceRoute(object))) => {
                self.inputs.service_routes.insert(key.clone(), object.clone());
            }
            Some(Ok(Typed::OutlierDetection(object))) => {
                self.inputs.outlier_detections.insert(key.clone(), object.clone());
            }
            Some(Ok(Typed::RateLimitPolicy(object))) => {
                self.inputs.rate_limit_policies.insert(key.clone(), object.clone());
            }
            Some(Err(messages)) => {
                self.inputs.invalid.insert(reference.clone(), messages.clone());
            }
            None => {}
        }
        self.config_changed(now);
    }

    fn forget(&mut self, reference: &ObjectRef) {
        let key = &reference.key;
        match reference.kind {
            model::Kind::ServiceRoute => drop(self.inputs.service_routes.remove(key)),
            model::Kind::OutlierDetection => drop(self.inputs.outlier_detections.remove(key)),
            model::Kind::RateLimitPolicy => drop(self.inputs.rate_limit_policies.remove(key)),
        }
        self.inputs.invalid.remove(reference);
    }

    fn config_changed(&mut self, now: Instant) {
        let first = self.config.map_or(now, |(first, _)| first);
        self.config = Some((first, now));
    }

    fn count(&self) {
        let inputs = &self.inputs;
        for (kind, count) in [
            ("Service", inputs.services.len()),
            ("EndpointSlice", inputs.endpoint_slices.len()),
            ("ReferenceGrant", inputs.reference_grants.as_ref().map_or(0, BTreeMap::len)),
            ("Pod", inputs.pods.len()),
            ("Namespace", inputs.namespaces.len()),
            ("ServiceRoute", inputs.service_routes.len()),
            ("OutlierDetection", inputs.outlier_detections.len()),
            ("RateLimitPolicy", inputs.rate_limit_policies.len()),
        ] {
            self.metrics.source_objects(kind, count);
        }
    }
}

#[cfg(test)]
mod tests;
