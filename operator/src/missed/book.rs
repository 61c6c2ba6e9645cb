//! What is known of pods, and what was said of them. Pure; the time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::inject::Skipped;
use crate::inject::annotation::{self, OPT_OUT};
use crate::model::{Namespace, ObjectKey, Pod};
use crate::watch::Change;

/// The label, and its value, by which a namespace opts in.
const LABEL: (&str, &str) = ("fairlead.dev/inject", "enabled");
/// Never injected, labelled or not; nor is our own.
const KUBE_SYSTEM: &str = "kube-system";
/// Within this time a sidecar that started has long been heard of, also when the operator was just restarted.
const SILENCE: Duration = Duration::from_secs(30);
/// The API server keeps events for an hour; what lasts longer is said again.
const AGAIN: Duration = Duration::from_secs(3660);
/// After an event that could not be written.
const LATER: Duration = Duration::from_secs(10);
/// Events in one round; rounds are a second apart.
const ROUND: usize = 10;

/// What a pod is missed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It has no sidecar.
    NoSidecar,
    /// Its sidecar is not the one that is injected now.
    OtherVersion,
    /// It has the node's network, and never gets one.
    HostNetwork,
    /// One of its annotations begins like ours, and is none.
    UnknownAnnotation,
    /// Its sidecar started, and has no configuration from us.
    NoConfig,
}

impl Reason {
    /// In the metric.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoSidecar => "no_sidecar",
            Self::OtherVersion => "other_version",
            Self::HostNetwork => "host_network",
            Self::UnknownAnnotation => "unknown_annotation",
            Self::NoConfig => "no_config",
        }
    }

    /// In the event.
    #[must_use]
    pub fn event(self) -> &'static str {
        match self {
            Self::NoSidecar => "SidecarMissing",
            Self::OtherVersion => "SidecarOfAnotherVersion",
            Self::HostNetwork => "HostNetworkNotInjected",
            Self::UnknownAnnotation => "UnknownAnnotation",
            Self::NoConfig => "SidecarWithoutConfig",
        }
    }

    /// Nothing is wrong: it is said once.
    #[must_use]
    pub fn is_harmless(self) -> bool {
        matches!(self, Self::HostNetwork | Self::OtherVersion)
    }
}

/// Something to say about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// Which.
    pub pod: ObjectKey,
    /// Which of all that had its name.
    pub uid: Option<Arc<str>>,
    /// For what.
    pub reason: Reason,
    /// In a sentence, with what to do.
    pub text: String,
}

impl Saying {
    /// The name of its event: the same wherever and whenever it is said.
    #[must_use]
    pub fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.uid, self.reason.event(), &self.text).hash(&mut hasher);
        // A name has 253 characters; pods that are made by controllers have 63.
        let pod: String = self.pod.name.chars().take(230).collect();
        format!("{pod}.{:016x}", hasher.finish())
    }
}

/// What to say now.
#[derive(Debug, Default)]
pub struct Due {
    /// At most as many as a round allows.
    pub sayings: Vec<Saying>,
    /// How many pods are missed, by reason.
    pub counts: BTreeMap<Reason, i64>,
    /// Nothing is left for the next round.
    pub complete: bool,
}

/// What is known of pods, and what was said of them.
#[derive(Debug)]
pub struct Book {
    image: Arc<str>,
    namespace: Arc<str>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// Those that opted in.
    namespaces: BTreeSet<Arc<str>>,
    /// Sidecars that started and are not heard of: since when.
    silent: BTreeMap<ObjectKey, Instant>,
    said: BTreeMap<(ObjectKey, Reason), Said>,
}

#[derive(Debug)]
struct Said {
    uid: Option<Arc<str>>,
    text: String,
    not_before: Option<Instant>,
}

impl Book {
    /// Nothing is known; this image is injected, and never in this namespace.
    #[must_use]
    pub fn new(image: &str, namespace: &str) -> Self {
        Self {
            image: image.into(),
            namespace: namespace.into(),
            pods: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            silent: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    /// Takes a change over.
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Pod(key, Some(pod)) => drop(self.pods.insert(key, pod)),
            Change::Pod(key, None) => drop(self.pods.remove(&key)),
            Change::Namespace(name, Some(namespace)) if self.is_meshed(&name, &namespace) => {
                self.namespaces.insert(name);
            }
            Change::Namespace(name, _) => drop(self.namespaces.remove(&name)),
            Change::Service(..)
            | Change::EndpointSlice(..)
            | Change::ReferenceGrant(..)
            | Change::HasGrants(..)
            | Change::Declared(..) => {}
        }
    }

    fn is_meshed(&self, name: &str, namespace: &Namespace) -> bool {
        let (label, value) = LABEL;
        namespace.labels.get(label).is_some_and(|it| it == value)
            && name != KUBE_SYSTEM
            && *name != *self.namespace
    }

    /// Another replica reports now: when this one does again, it begins anew.
    pub fn start_again(&mut self) {
        self.silent.clear();
        self.said.clear();
    }

    /// What to say now, and it counts as said. Without knowledge of who is connected, nobody is called silent.
    pub fn due(&mut self, connected: Option<&BTreeSet<Arc<str>>>, now: Instant) -> Due {
        let mut due = Due { complete: true, ..Due::default() };
        let mut missed = BTreeSet::new();
        for (key, pod) in &self.pods {
            let over = matches!(pod.phase.as_deref(), Some("Succeeded" | "Failed")) || pod.terminating;
            if over || !self.namespaces.contains(&key.namespace) {
                continue;
            }
            let silent = silence(&mut self.silent, key, pod, connected, now);
            for (reason, text) in findings(pod, &self.image, silent) {
                let first = missed.insert((key.clone(), reason));
                *due.counts.entry(reason).or_default() += i64::from(first);
                let said = self.said.get(&(key.clone(), reason));
                let known = said.is_some_and(|said| {
                    said.uid == pod.uid && said.text == text && said.not_before.is_none_or(|at| at > now)
                });
                if known {
                    continue;
                }
                if due.sayings.len() == ROUND {
                    due.complete = false;
                    continue;
                }
                let not_before = (!reason.is_harmless()).then(|| now + AGAIN);
                let said = Said { uid: pod.uid.clone(), text: text.clone(), not_before };
                self.said.insert((key.clone(), reason), said);
                due.sayings.push(Saying { pod: key.clone(), uid: pod.uid.clone(), reason, text });
            }
        }
        let pods = &self.pods;
        self.said.retain(|said, _| missed.contains(said));
        self.silent.retain(|key, _| pods.contains_key(key));
        due
    }

    /// It could not be said: it is due again, a little later.
    pub fn failed(&mut self, saying: &Saying, now: Instant) {
        if let Some(said) = self.said.get_mut(&(saying.pod.clone(), saying.reason)) {
            said.not_before = Some(now + LATER);
        }
    }
}

/// Whether a sidecar has been running unheard of for too long.
fn silence(
    silent: &mut BTreeMap<ObjectKey, Instant>,
    key: &ObjectKey,
    pod: &Pod,
    connected: Option<&BTreeSet<Arc<str>>>,
    now: Instant,
) -> bool {
    let started = pod.sidecar.as_ref().is_some_and(|sidecar| sidecar.started);
    if !started || connected.is_none_or(|nodes| nodes.contains(key.to_string().as_str())) {
        silent.remove(key);
        return false;
    }
    now.duration_since(*silent.entry(key.clone()).or_insert(now)) >= SILENCE
}

/// What is to be said of a pod. All unknown annotations are one thing to say.
fn findings(pod: &Pod, image: &str, silent: bool) -> Vec<(Reason, String)> {
    if pod.cannot_be_injected || pod.annotations.get(OPT_OUT).is_some_and(|value| value == "false") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    match &pod.sidecar {
        _ if pod.host_network => {
            let text = format!(
                "no sidecar: {}; annotate the pod with {OPT_OUT}: \"false\" to say that this is meant",
                Skipped::HostNetwork.reason()
            );
            findings.push((Reason::HostNetwork, text));
        }
        None => {
            let text = format!(
                "no sidecar, so no rule of the mesh holds for what this pod calls: it was made while the operator was away, or before its namespace was labelled; restart it, or annotate it with {OPT_OUT}: \"false\""
            );
            findings.push((Reason::NoSidecar, text));
        }
        Some(sidecar) if *sidecar.image != *image => {
            let text = format!(
                "its sidecar is {}, new pods get {image}; restart the pod to bring it up to date",
                sidecar.image
            );
            findings.push((Reason::OtherVersion, text));
        }
        Some(_) => {}
    }
    if silent {
        let text = "its sidecar started, but is not connected to the operator: without configuration it passes everything through; see kubectl logs -c fairlead-proxy of this pod";
        findings.push((Reason::NoConfig, text.to_owned()));
    }
    let unknown: Vec<String> = annotation::unknown(pod.annotations.keys().map(String::as_str)).collect();
    if !unknown.is_empty() {
        // An event's note has at most 1,024 bytes.
        let text: String = unknown.join("; ").chars().take(250).collect();
        findings.push((Reason::UnknownAnnotation, text));
    }
    findings
}

#[cfg(test)]
mod tests;
