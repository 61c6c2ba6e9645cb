//! The Secret: made by the first replica that finds none, watched by all, changed by the one that holds the
//! Lease.
//!
//! Nobody overwrites what he has not seen: every change carries the version that it was made of, and a
//! conflict means that another was first, so theirs is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::watch;

use super::authority::{Authority, Bundle};
use super::kept::{Kept, follow};
use super::rotation::{self, Step, Terms};
use super::{Carried, Certificates, names};
use crate::leader::Role;
use crate::metrics::Metrics;
use crate::tls::Serving;

/// The Secret's name.
const SECRET: &str = "fairlead-operator-tls";
/// A new value asks for a new root now.
const ROTATE: &str = "fairlead.dev/rotate";
/// The last value that was obeyed.
const ROTATED: &str = "fairlead.dev/rotated";
/// The label of what we make.
pub(super) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "fairlead-operator");
/// Whose writes these are, in `managedFields`.
pub(super) const MANAGER: &str = "fairlead-operator";
/// After a failure, and between two steps.
const PAUSE: Duration = Duration::from_secs(5);
/// The clock of a machine may jump, so it is looked at again.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Replicas that start together get in each other's way this often at most.
const ATTEMPTS: usize = 10;

/// Keeps the Secret.
pub struct SecretKeeper {
    secrets: Api<Secret>,
    namespace: String,
    names: Vec<String>,
    terms: Terms,
    /// What was last good: it outlives a Secret that somebody deletes.
    good: Authority,
    serving: Arc<Serving>,
    bundle: watch::Sender<Bundle>,
    metrics: Arc<Metrics>,
    /// The version of the Secret that was complained about.
    complained: Option<String>,
}

impl SecretKeeper {
    /// Reads the Secret, or makes it.
    pub async fn open(
        client: Client,
        namespace: &str,
        terms: Terms,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Certificates)> {
        let secrets = Api::namespaced(client, namespace);
        let names = names(namespace);
        let good = find(&secrets, &names, &terms)
            .await
            .with_context(|| format!("the Secret {namespace}/{SECRET} holds our certificates"))?;
        let serving = Serving::new(good.certified_key()?);
        let (send, bundle) = watch::channel(good.bundle().context("it has no root")?);
        let certificates = Certificates { serving: serving.clone(), bundle };
        let keeper = Self {
            secrets,
            namespace: namespace.to_owned(),
            names,
            terms,
            good,
            serving,
            bundle: send,
            metrics,
            complained: None,
        };
        keeper.show();
        Ok((keeper, certificates))
    }

    /// Serves what the Secret has, and while we hold the Lease takes the steps of the rotation.
    pub async fn run(
        mut self,
        mut role: watch::Receiver<Role>,
        mut carried: watch::Receiver<Option<Carried>>,
    ) {
        let only_ours = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
        let mut events = follow("Secret", self.secrets.clone(), only_ours);
        let mut kept = Kept::default();
        loop {
            let mut again = None;
            if let Some(secret) = kept.all().map(|all: &BTreeMap<String, Secret>| all.get(&self.namespace)) {
                self.adopt(secret);
                if role.borrow_and_update().holds() {
                    let carried = carried.borrow_and_update().clone();
                    let (written, then) = self.lead(secret, carried.as_ref()).await;
                    again = Some(then);
                    if let Some(written) = written {
                        kept.put(self.namespace.clone(), Some(written));
                        continue;
                    }
                }
            }
            let alive = tokio::select! {
                Some(event) = events.next() => { kept.take(event, |secret| secret); true }
                alive = role.changed() => alive.is_ok(),
                alive = carried.changed() => alive.is_ok(),
                () = pause(again) => true,
            };
            if !alive {
                return;
            }
        }
    }

    /// Serves what the Secret has, if it can be served.
    fn adopt(&mut self, secret: Option<&Secret>) {
        let Some(secret) = secret else { return };
        let found = read(secret);
        if found == self.good {
            return;
        }
        let version = secret.metadata.resource_version.clone();
        match (found.certified_key(), found.bundle()) {
            (Ok(leaf), Some(bundle)) => {
                if self.serving.replace(leaf) {
                    tracing::info!("serving a new certificate");
                }
                self.bundle.send_if_modified(|known| std::mem::replace(known, bundle.clone()) != bundle);
                self.good = found;
                self.show();
            }
            (leaf, _) if self.complained != version => {
                let reason =
                    leaf.err().map_or("ca.crt has no certificate".to_owned(), |error| error.to_string());
                tracing::warn!(reason, "the Secret {SECRET} cannot be used; what it had before is served on");
                self.complained = version;
            }
            _ => {}
        }
    }

    fn show(&self) {
        let (leaf, root) = self.good.ends();
        self.metrics.certificates_end(leaf, root);
    }

    /// The next step: the Secret as it was written, and when to look again.
    async fn lead(&self, secret: Option<&Secret>, carried: Option<&Carried>) -> (Option<Secret>, Timestamp) {
        let now = Timestamp::now();
        let soon = after(now, PAUSE);
        let (step, mut next) = match secret.map(read).filter(Authority::is_usable) {
            // Somebody deleted or broke it. Clients trust the roots that it had, so it gets them again.
            None => (None, self.good.clone()),
            Some(authority) => {
                let bundle = authority.bundle();
                let carried = carried.filter(|carried| Some(&carried.bundle) == bundle.as_ref());
                let held = authority.held(&self.names, secret.is_some_and(asked));
                match rotation::next(&held, carried.map(|carried| carried.since), &self.terms, now) {
                    Step::Wait(then) => return (None, then.min(after(now, LONGEST))),
                    step => (Some(step), authority),
                }
            }
        };
        if let Some(step) = step
            && let Err(error) = next.take(step, &self.names, &self.terms, now)
        {
            tracing::error!(%error, ?step, "the rotation of certificates is stuck");
            return (None, after(now, LONGEST));
        }
        let new = written(secret, &next, step == Some(Step::AddRoot));
        let result = match secret {
            None => self.secrets.create(&post(), &new).await,
            Some(_) => self.secrets.replace(SECRET, &post(), &new).await,
        };
        match result {
            Ok(written) => {
                tracing::info!(?step, "the Secret {SECRET} is written");
                (Some(written), soon)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                tracing::debug!("another changed the Secret first");
                (None, soon)
            }
            Err(error) => {
                tracing::warn!(%error, ?step, "the Secret {SECRET} could not be written; will be tried again");
                (None, soon)
            }
        }
    }
}

/// The Secret's content, made or repaired so that it can be served.
async fn find(secrets: &Api<Secret>, names: &[String], terms: &Terms) -> Result<Authority> {
    for _ in 0..ATTEMPTS {
        let found = secrets.get_opt(SECRET).await.context("cannot read it")?;
        let mut authority = found.as_ref().map(read).unwrap_or_default();
        if authority.is_usable() {
            return Ok(authority);
        }
        let now = Timestamp::now();
        let mut added = false;
        while !authority.is_usable() {
            let step = rotation::next(&authority.held(names, false), None, terms, now);
            if matches!(step, Step::Wait(_)) {
                bail!("it cannot be repaired; delete it, and a new one is made");
            }
            added |= step == Step::AddRoot;
            authority.take(step, names, terms, now)?;
        }
        let new = written(found.as_ref(), &authority, added);
        let result = match &found {
            None => secrets.create(&post(), &new).await,
            Some(_) => secrets.replace(SECRET, &post(), &new).await,
        };
        match result {
            Ok(_) => {
                tracing::info!("made the Secret {SECRET}");
                return Ok(authority);
            }
            // Another replica was first.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).context("cannot write it"),
        }
    }
    bail!("others change it all the time")
}

fn read(secret: &Secret) -> Authority {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |text| &text.0);
        String::from_utf8_lossy(bytes)
    };
    Authority::read(&text("ca.crt"), &text("ca.key"), &text("tls.crt"), &text("tls.key"))
}

/// The Secret with this content. A new root is what was asked for.
fn written(secret: Option<&Secret>, authority: &Authority, obeys: bool) -> Secret {
    let mut secret = secret.cloned().unwrap_or_else(|| Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    });
    let data = secret.data.get_or_insert_default();
    data.extend(authority.written().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))));
    if obeys
        && let Some(annotations) = &mut secret.metadata.annotations
        && let Some(value) = annotations.get(ROTATE).cloned()
    {
        annotations.insert(ROTATED.to_owned(), value);
    }
    secret
}

fn asked(secret: &Secret) -> bool {
    let annotation = |name: &str| secret.metadata.annotations.as_ref().and_then(|all| all.get(name));
    annotation(ROTATE).is_some_and(|value| annotation(ROTATED) != Some(value))
}

/// Until then; for ever without a time.
pub(super) async fn pause(until: Option<Timestamp>) {
    match until {
        Some(until) => {
            let left = until.duration_since(Timestamp::now());
            tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn after(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_obeyed_once() {
        let mut authority = Authority::default();
        let terms = Terms::new(PAUSE);
        for step in [Step::AddRoot, Step::IssueLeaf] {
            authority.take(step, &names("fairlead-system"), &terms, Timestamp::now()).unwrap();
        }
        let mut secret = written(None, &authority, true);
        assert!(!asked(&secret));
        assert!(read(&secret) == authority);
        secret.metadata.annotations = Some(BTreeMap::from([(ROTATE.to_owned(), "monday".to_owned())]));
        assert!(asked(&secret));
        assert!(asked(&written(Some(&secret), &authority, false)));
        let mut obeyed = written(Some(&secret), &authority, true);
        assert!(!asked(&obeyed));
        obeyed.metadata.annotations.as_mut().unwrap().insert(ROTATE.to_owned(), "tuesday".to_owned());
        assert!(asked(&obeyed));
    }
}
