//! Writes the bundle to where clients read it, on the replica that holds the Lease.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;

use super::Carried;
use super::authority::Bundle;
use super::keeper::{MANAGED_BY, MANAGER, pause};
use super::kept::{Kept, follow};
use super::spread::{Copy, Hook, Place, Sight, Spread, Write};
use crate::leader::Role;
use crate::metrics::{Metrics, Outcome};

/// The ConfigMap, and its key, that sidecars mount.
const CONFIG_MAP: &str = "fairlead-ca";
const KEY: &str = "ca.crt";
/// The webhook configuration that verifies us.
const WEBHOOKS: &str = "fairlead-operator";
/// The label of namespaces whose pods get sidecars.
const LABELLED: &str = "fairlead.dev/inject=enabled";
/// Writes at the same time.
const AT_ONCE: usize = 4;

/// Distributes what `bundle` has while we hold the Lease, and says in `carried` since when that is done; on every
/// replica says in `trusted` whether the API server can verify us.
pub async fn run(
    client: Client,
    mut bundle: watch::Receiver<Bundle>,
    mut role: watch::Receiver<Role>,
    carried: watch::Sender<Option<Carried>>,
    trusted: watch::Sender<bool>,
    metrics: Arc<Metrics>,
) {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let labelled = watcher::Config::default().labels(LABELLED);
    let mut namespaces = follow("Namespace", Api::<Namespace>::all(client.clone()), labelled);
    let mut copies = follow("ConfigMap", Api::<ConfigMap>::all(client.clone()), named(CONFIG_MAP));
    let hooks = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let mut hooks = follow("MutatingWebhookConfiguration", hooks, named(WEBHOOKS));
    let mut world = World {
        client,
        namespaces: Kept::default(),
        copies: Kept::default(),
        hooks: Kept::default(),
        metrics,
    };
    let mut spread = Spread::default();
    loop {
        let again = if role.borrow_and_update().holds() {
            let wanted = bundle.borrow_and_update().clone();
            world.round(&mut spread, &wanted).await
        } else {
            spread.reset();
            None
        };
        let now = spread.carried().cloned();
        carried.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
        let now = world.is_trusted(&bundle.borrow());
        trusted.send_if_modified(|known| std::mem::replace(known, now) != now);
        let alive = tokio::select! {
            Some(event) = namespaces.next() => { world.namespaces.take(event, |it| it.metadata.deletion_timestamp.is_some());
                true }
            Some(event) = copies.next() => { world.copies.take(event, read_copy); true }
            Some(event) = hooks.next() => { world.hooks.take(event, read_hook); true }
            alive = bundle.changed() => alive.is_ok(),
            alive = role.changed() => alive.is_ok(),
            () = pause(again) => true,
        };
        if !alive {
            return;
        }
    }
}

/// What the watches see, and what writes to it.
struct World {
    client: Client,
    namespaces: Kept<bool>,
    copies: Kept<Copy>,
    hooks: Kept<Hook>,
    metrics: Arc<Metrics>,
}

impl World {
    /// Whether the webhook configuration, where there is one, carries the bundle.
    fn is_trusted(&self, bundle: &Bundle) -> bool {
        let carries = |hook: &Hook| hook.webhooks.iter().all(|(_, found)| bundle.is_in(found));
        self.hooks.all().is_some_and(|hooks| hooks.get(WEBHOOKS).is_none_or(carries))
    }

    /// Writes what is due; says when to look again.
    async fn round(&mut self, spread: &mut Spread, bundle: &Bundle) -> Option<Timestamp> {
        let sight = Sight {
            namespaces: self.namespaces.all()?,
            copies: self.copies.all()?,
            hook: self.hooks.all()?.get(WEBHOOKS),
        };
        let round = spread.round(sight, bundle, Timestamp::now());
        let world = &*self;
        let writes = round.writes.into_iter().map(|(place, write)| async move {
            let result = world.write(&place, &write, bundle).await;
            (place, result)
        });
        let done: Vec<_> = futures::stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
        for (place, result) in done {
            match (place, result) {
                // What the watch would say a moment later.
                (Place::Namespace(name), Ok(copy)) => self.copies.put(name, copy),
                (Place::Hook, Ok(_)) => {}
                (place, Err(error)) => self.failed(&place, &error),
            }
        }
        round.again
    }

    async fn write(
        &self,
        place: &Place,
        write: &Write,
        bundle: &Bundle,
    ) -> Result<Option<Copy>, kube::Error> {
        let Place::Namespace(namespace) = place else {
            self.put_hook(bundle).await?;
            self.metrics.trust_written(Outcome::Done);
            return Ok(None);
        };
        let copies = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let copy = match write {
            Write::Create => Some(copies.create(&post(), &config_map(bundle)).await?),
            Write::Put => {
                let text = Patch::Merge(json!({ "data": { KEY: bundle.as_str() } }));
                Some(copies.patch(CONFIG_MAP, &patch(), &text).await?)
            }
            Write::Delete(uid) => {
                let preconditions = Preconditions { uid: uid.clone(), ..Preconditions::default() };
                let seen = DeleteParams::default().preconditions(preconditions);
                copies.delete(CONFIG_MAP, &seen).await?;
                None
            }
        };
        self.metrics.trust_written(Outcome::Done);
        tracing::info!(namespace, ?write, "ConfigMap {CONFIG_MAP} is written");
        Ok(copy.map(read_copy))
    }

    async fn put_hook(&self, bundle: &Bundle) -> Result<(), kube::Error> {
        let known = self.hooks.all().and_then(|all| all.get(WEBHOOKS));
        let names = known.into_iter().flat_map(|hook| hook.webhooks.iter().map(|(name, _)| name));
        let text = ByteString(bundle.as_str().into());
        let webhooks: Vec<_> =
            names.map(|name| json!({ "name": name, "clientConfig": { "caBundle": text } })).collect();
        let hooks = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        // A strategic merge goes by the webhooks' names and leaves everything else as it is.
        let webhooks = Patch::Strategic(json!({ "webhooks": webhooks }));
        hooks.patch(WEBHOOKS, &patch(), &webhooks).await?;
        tracing::info!("the webhook configuration has the current roots");
        Ok(())
    }

    /// What goes away by itself makes no noise: the namespace is being deleted or gone, or somebody else was
    /// first and the watch will tell.
    fn failed(&self, place: &Place, error: &kube::Error) {
        let passing = matches!(error, kube::Error::Api(status)
            if matches!(status.code, 404 | 409) || status.message.contains("being terminated"));
        if passing {
            tracing::debug!(?place, %error, "the roots could not be written");
        } else {
            self.metrics.trust_written(Outcome::Failed);
            tracing::warn!(?place, %error, "the roots could not be written; will be tried again");
        }
    }
}

fn config_map(bundle: &Bundle) -> ConfigMap {
    let label = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let metadata = ObjectMeta {
        name: Some(CONFIG_MAP.to_owned()),
        labels: Some(BTreeMap::from([label(MANAGED_BY)])),
        ..ObjectMeta::default()
    };
    let data = Some(BTreeMap::from([label((KEY, bundle.as_str()))]));
    ConfigMap { metadata, data, ..ConfigMap::default() }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn patch() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn read_copy(object: ConfigMap) -> Copy {
    let labels = object.metadata.labels.unwrap_or_default();
    Copy {
        text: object.data.and_then(|mut data| data.remove(KEY)),
        ours: labels.get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1),
        immutable: object.immutable == Some(true),
        uid: object.metadata.uid,
    }
}

fn read_hook(object: MutatingWebhookConfiguration) -> Hook {
    let webhooks = object.webhooks.into_iter().flatten();
    let bundle = |bundle: Option<ByteString>| {
        let bytes = bundle.map(|text| text.0).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Hook {
        webhooks: webhooks.map(|webhook| (webhook.name, bundle(webhook.client_config.ca_bundle))).collect(),
    }
}
