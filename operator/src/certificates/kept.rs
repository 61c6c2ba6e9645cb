//! The objects of one kind as a watch tells them. Each kind that is kept has one object a namespace, or is
//! in none: objects go by their namespace, else by their name.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// What is known, `None` until the first list is complete.
#[derive(Debug)]
pub(super) struct Kept<T> {
    known: Option<BTreeMap<String, T>>,
    next: BTreeMap<String, T>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { known: None, next: BTreeMap::new() }
    }
}

impl<T> Kept<T> {
    /// Takes over what a watch says; `read` keeps what is needed of an object.
    pub(super) fn take<K: Resource>(&mut self, event: watcher::Event<K>, read: impl Fn(K) -> T) {
        let name = |object: &K| object.namespace().unwrap_or_else(|| object.name_any());
        match event {
            watcher::Event::Init => self.next.clear(),
            watcher::Event::InitApply(object) => drop(self.next.insert(name(&object), read(object))),
            watcher::Event::InitDone => self.known = Some(std::mem::take(&mut self.next)),
            watcher::Event::Apply(object) => self.put(name(&object), Some(read(object))),
            watcher::Event::Delete(object) => self.put(name(&object), None),
        }
    }

    /// Takes over one object, for instance as a write returned it.
    pub(super) fn put(&mut self, name: String, object: Option<T>) {
        let Some(known) = &mut self.known else { return };
        match object {
            Some(object) => drop(known.insert(name, object)),
            None => drop(known.remove(&name)),
        }
    }

    /// All of them, once the first list is complete.
    pub(super) fn all(&self) -> Option<&BTreeMap<String, T>> {
        self.known.as_ref()
    }
}

/// Follows a kind; failures are logged, and the watch starts again with growing delays.
pub(super) fn follow<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
) -> BoxStream<'static, watcher::Event<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher(api, config).default_backoff();
    let good = events.filter_map(move |event| {
        std::future::ready(match event {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::warn!(kind, %error, "watch failed and starts again");
                None
            }
        })
    });
    good.boxed()
}
