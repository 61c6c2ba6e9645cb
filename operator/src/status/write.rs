//! Writes statuses to the Kubernetes API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::{OutlierDetection, RateLimitPolicy, ServiceRoute, Status};
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::Plan;
use super::{Board, Shown};
use crate::leader::Role;
use crate::metrics::{Metrics, StatusWrite};
use crate::model::{Kind, ObjectRef};
use crate::publish::Published;

/// Whose writes these are, in `managedFields`.
const MANAGER: &str = "fairlead-operator";

/// A write that takes longer is given up and made again: none of ours may arrive when another replica holds
/// the Lease, which is 5 s after we gave it up at the earliest.
const WRITE: Duration = Duration::from_secs(4);

/// Writes what the board says, as the plan allows and while this replica is the one that writes, until nobody
/// changes the board any more.
pub async fn run(
    client: Client,
    board: Arc<Board>,
    published: watch::Receiver<Published>,
    role: watch::Receiver<Role>,
    mut changed: watch::Receiver<()>,
    metrics: Arc<Metrics>,
) {
    let mut plan = Plan::new(Instant::now());
    let mut ours = None;
    loop {
        changed.borrow_and_update();
        let Shown { statuses, tenure } = board.shown();
        if ours != tenure {
            // What others wrote meanwhile is in the objects.
            plan = Plan::new(Instant::now());
            ours = tenure;
        }
        let mut again = None;
        if tenure.is_some() && role.borrow().holds() {
            for (object, declared) in published.borrow().declared.iter() {
                plan.found(object, &declared.status);
            }
            plan.retain(|object| statuses.contains_key(object));
            again = write(&client, &mut plan, &statuses, &metrics).await;
        }
        tokio::select! {
            alive = changed.changed() => if alive.is_err() { return },
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
    }
}

async fn write(
    client: &Client,
    plan: &mut Plan,
    wanted: &BTreeMap<ObjectRef, Status>,
    metrics: &Metrics,
) -> Option<Instant> {
    let (due, mut again) = plan.due(wanted, Instant::now());
    let writes =
        due.iter().map(|(object, status)| tokio::time::timeout(WRITE, patch(client, object, status)));
    for ((object, _), result) in due.iter().zip(futures::future::join_all(writes).await) {
        let error = match result {
            Ok(Ok(())) => {
                metrics.status_written(StatusWrite::Written);
                continue;
            }
            // It was deleted meanwhile.
            Ok(Err(kube::Error::Api(response))) if response.code == 404 => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        metrics.status_written(StatusWrite::Failed);
        tracing::warn!(%object, error, "status could not be written; will be tried again");
        plan.failed(object, Instant::now());
        again = Some(Instant::now() + Duration::from_secs(2));
    }
    again
}

async fn patch(client: &Client, object: &ObjectRef, status: &Status) -> Result<(), kube::Error> {
    match object.kind {
        Kind::ServiceRoute => patch_as::<ServiceRoute>(client, object, status).await,
        Kind::OutlierDetection => patch_as::<OutlierDetection>(client, object, status).await,
        Kind::RateLimitPolicy => patch_as::<RateLimitPolicy>(client, object, status).await,
    }
}

async fn patch_as<K>(client: &Client, object: &ObjectRef, status: &Status) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.key.namespace);
    // A merge patch replaces the list of conditions as a whole, so they move together; a rollout
    // without an error takes away an old one.
    let mut value = json!({ "status": status });
    if let Some(rollout) = value.pointer_mut("/status/rollout").and_then(serde_json::Value::as_object_mut) {
        rollout.entry("lastError").or_insert(serde_json::Value::Null);
    }
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_status(&object.key.name, &parameters, &Patch::Merge(value)).await.map(drop)
}
