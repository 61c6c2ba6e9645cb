//! Pods of meshed namespaces: whether each has its sidecar, of the current version, connected and up to date.
//!
//! One line for a namespace and what is wrong there, with the command that mends it: of a hundred pods of one
//! Deployment a person wants to read its name, once.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_operator::inject::annotation::{self, OPT_OUT};
use fairlead_operator::inject::{MIRROR, PROXY};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::Value;

use super::ask::{Seen, Unseen};
use super::line::{Line, Verdict, count, names};

/// The container that redirects.
const REDIRECT: &str = "fairlead-redirect";
/// Where they are told.
const ANNOTATIONS: &str = "write one of docs/reference/annotations.md into the pod template";
/// Within this time a sidecar that has started is connected, and a pod that was made has started.
const PATIENCE: SignedDuration = SignedDuration::from_secs(60);

/// What the operator's replicas say of the sidecars.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// By `NAMESPACE/POD`: the stream that counts.
    pub known: BTreeMap<String, Client>,
    /// Replicas that could not be asked.
    pub unseen: Vec<Unseen>,
    /// No replica runs: nobody is connected, and of the pods nothing is wrong.
    pub nobody: bool,
}

/// A sidecar as a replica sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// It has a stream.
    pub connected: bool,
    /// Resources that it refused.
    pub nacked: u64,
    /// Resources that it has not answered.
    pub pending: u64,
    /// Its application called before it was configured.
    pub started_without_config: bool,
}

impl Clients {
    /// Takes in what one replica's page `/clients` says. A sidecar may have left one replica for another: an
    /// open stream counts.
    pub fn take(&mut self, page: &Value) {
        for client in page.get("clients").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = client.get("client").and_then(Value::as_str) else { continue };
            let number = |field: &str| client.get(field).and_then(Value::as_u64).unwrap_or_default();
            let is = |field: &str| client.get(field).and_then(Value::as_bool).unwrap_or_default();
            let client = Client {
                connected: is("connected"),
                nacked: number("nacked"),
                pending: number("pending"),
                started_without_config: is("startedWithoutConfig"),
            };
            let known = self.known.entry(name.to_owned()).or_default();
            if client.connected || !known.connected {
                *known = client;
            }
        }
    }
}

/// The pods of meshed namespaces.
pub type Meshed = BTreeMap<String, Seen<Vec<Pod>>>;

/// What is wrong with a pod. The order is that of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Finding {
    NoSidecar,
    NotStarted,
    Starting,
    NotConnected,
    Refused,
    NotCurrent,
    OtherVersion,
    StartedWithoutConfig,
    Fallback,
    UnknownAnnotation,
}

/// Whether it is worth asking the operator again in a moment: streams move between replicas, and an answer that
/// is under way arrives.
pub fn is_settled(meshed: &Meshed, clients: &Clients, now: Timestamp) -> bool {
    use Finding::{NotConnected, NotCurrent};
    let pods = meshed.values().filter_map(|pods| pods.as_ref().ok()).flatten();
    !pods.filter(|pod| is_judged(pod)).any(|pod| {
        findings(pod, None, clients, now).iter().any(|one| matches!(one, NotConnected | NotCurrent))
    })
}

/// The lines. `image`: what is injected now.
pub fn lines(
    meshed: &Meshed,
    image: Option<&str>,
    clients: &Clients,
    operator: &str,
    now: Timestamp,
) -> Vec<Line> {
    let mut lines: Vec<Line> =
        meshed.values().filter_map(|pods| Some(Line::unseen("pod-sidecar", pods.as_ref().err()?))).collect();
    lines.extend(clients.unseen.iter().map(|unseen| Line::unseen("pod-connected", unseen)));
    if clients.nobody {
        let message = "not asked who is connected: no replica of the operator runs; sidecars run on with what they have";
        lines.push(Line::skip("pod-connected", message, ""));
    }
    let mut found = BTreeMap::<(Finding, &str), Vec<&Pod>>::new();
    let (mut good, mut judged, mut left) = (0, 0, 0);
    for (namespace, pods) in meshed {
        for pod in pods.iter().flatten() {
            if !is_judged(pod) {
                left += usize::from(!is_over(pod));
                continue;
            }
            judged += 1;
            let findings = findings(pod, image, clients, now);
            good += usize::from(findings.is_empty());
            for finding in findings {
                found.entry((finding, namespace)).or_default().push(pod);
            }
        }
    }
    lines.extend(
        found
            .into_iter()
            .map(|((finding, namespace), pods)| line(finding, namespace, &pods, image, operator)),
    );
    let left = if left > 0 { format!("; {left} opted out, or cannot have one") } else { String::new() };
    if judged == 0 {
        lines.push(Line::skip("pod-sidecar", format!("no pod is to be meshed{left}"), ""));
    } else if !clients.unseen.is_empty() || clients.nobody {
        // The line that says so stands above.
    } else if good == judged {
        let message = format!(
            "{} a sidecar of this version, connected and up to date{left}",
            count(good, "pod has", "pods have")
        );
        lines.push(Line::pass("pod-sidecar", "", message));
    } else if good > 0 {
        lines.push(Line::pass(
            "pod-sidecar",
            "",
            format!("{good} of {judged} pods are as they should be{left}"),
        ));
    }
    lines
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

/// Whether it should have a sidecar.
fn is_judged(pod: &Pod) -> bool {
    let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let spec = pod.spec.as_ref();
    let host = spec.is_some_and(|spec| spec.host_network == Some(true));
    let windows = spec.and_then(|spec| spec.os.as_ref()).is_some_and(|os| os.name == "windows");
    !(is_over(pod) || host || windows || annotation(MIRROR).is_some() || annotation(OPT_OUT) == Some("false"))
}

fn findings(pod: &Pod, image: Option<&str>, clients: &Clients, now: Timestamp) -> BTreeSet<Finding> {
    let mut found = BTreeSet::new();
    let sidecar =
        pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).find(|one| one.name == PROXY);
    let Some(sidecar) = sidecar else { return [Finding::NoSidecar].into() };
    if image.is_some_and(|image| sidecar.image.as_deref() != Some(image)) {
        found.insert(Finding::OtherVersion);
    }
    if unknown_annotations(pod).next().is_some() {
        found.insert(Finding::UnknownAnnotation);
    }
    let redirect = status(pod, REDIRECT).and_then(|status| status.state.as_ref()?.terminated.as_ref());
    if redirect
        .and_then(|ended| ended.message.as_deref())
        .is_some_and(|said| said.contains("inbound everything"))
    {
        found.insert(Finding::Fallback);
    }
    let proxy = status(pod, PROXY);
    if proxy.is_none_or(|status| status.started != Some(true)) {
        let old = |time: Timestamp| now.duration_since(time) > PATIENCE;
        // One that no node has room for is not ours to mend.
        let placed = proxy.is_some();
        let late = placed && pod.metadata.creation_timestamp.as_ref().is_some_and(|time| old(time.0));
        found.insert(if late { Finding::NotStarted } else { Finding::Starting });
        return found;
    }
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    let client = clients.known.get(&name).cloned().unwrap_or_default();
    if !client.connected {
        // Somebody who could not be asked may have its stream.
        if clients.unseen.is_empty() && !clients.nobody {
            found.insert(Finding::NotConnected);
        }
        return found;
    }
    if client.nacked > 0 {
        found.insert(Finding::Refused);
    } else if client.pending > 0 {
        found.insert(Finding::NotCurrent);
    }
    if client.started_without_config {
        found.insert(Finding::StartedWithoutConfig);
    }
    found
}

/// A sentence for each.
fn unknown_annotations(pod: &Pod) -> impl Iterator<Item = String> {
    annotation::unknown(pod.metadata.annotations.iter().flatten().map(|(name, _)| name.as_str()))
}

fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    status.init_container_statuses.iter().flatten().find(|one| one.name == container)
}

fn line(finding: Finding, namespace: &str, pods: &[&Pod], image: Option<&str>, operator: &str) -> Line {
    let all: Vec<&str> = pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    let pod = all.first().copied().unwrap_or_default();
    let subject = format!("namespace/{namespace}");
    let (number, who) = (pods.len(), names(&all));
    let logs = format!("kubectl -n {namespace} logs {pod} -c {PROXY}");
    let restart = restart(namespace, pods);
    let (id, verdict, message, action) = match finding {
        Finding::NoSidecar => (
            "pod-sidecar",
            Verdict::Fail,
            format!(
                "{}: {who}",
                count(
                    number,
                    "pod has no sidecar, so no rule of the mesh holds for its calls",
                    "pods have no sidecar, so no rule of the mesh holds for their calls"
                )
            ),
            format!("{restart}; or, if it is meant, annotate the pod template with {OPT_OUT}: \"false\""),
        ),
        Finding::NotStarted => (
            "pod-started",
            Verdict::Fail,
            format!(
                "{} a sidecar that does not start ({}): {who}",
                count(number, "pod has", "pods have"),
                waiting(pods)
            ),
            format!("kubectl -n {namespace} describe pod {pod}; {logs}"),
        ),
        Finding::Starting => (
            "pod-started",
            Verdict::Skip,
            format!(
                "{} not started yet ({}): {who}",
                count(number, "sidecar has", "sidecars have"),
                waiting(pods)
            ),
            "run it again in a minute".to_owned(),
        ),
        Finding::NotConnected => (
            "pod-connected",
            Verdict::Fail,
            format!(
                "{} a sidecar without a stream to the operator, which runs on with its last configuration: {who}",
                count(number, "pod has", "pods have")
            ),
            logs,
        ),
        Finding::Refused => (
            "pod-config",
            Verdict::Fail,
            format!(
                "{} part of the configuration and runs the one before: {who}",
                count(number, "sidecar refuses", "sidecars refuse")
            ),
            format!(
                "kubectl get serviceroutes,outlierdetections,ratelimitpolicies -A -o wide shows whose (status.rollout.lastError); {logs}"
            ),
        ),
        Finding::NotCurrent => (
            "pod-config",
            Verdict::Warn,
            format!(
                "{} not taken over the newest configuration: {who}",
                count(number, "sidecar has", "sidecars have")
            ),
            format!("run it again; then {logs}"),
        ),
        Finding::OtherVersion => (
            "pod-version",
            Verdict::Warn,
            format!(
                "{} another sidecar than {}, which new pods get: {who}",
                count(number, "pod has", "pods have"),
                image.unwrap_or("the one")
            ),
            format!("when it suits you: {restart}"),
        ),
        Finding::StartedWithoutConfig => (
            "pod-config",
            Verdict::Warn,
            format!(
                "{} work before the operator had answered, so their first calls followed no rule; they are configured now: {who}",
                count(number, "pod went to", "pods went to")
            ),
            format!("nothing, if the operator was away then; else {logs}"),
        ),
        Finding::Fallback => (
            "pod-redirect",
            Verdict::Warn,
            format!(
                "{} all inbound connections redirected, because the node's kernel cannot tell where a pod listens: a TCP probe of a closed port passes: {who}",
                count(number, "pod has", "pods have")
            ),
            format!(
                "use HTTP or gRPC probes, or newer kernels: fairlead check --pre -n {operator} names the nodes"
            ),
        ),
        Finding::UnknownAnnotation => {
            let unknown: BTreeSet<String> = pods.iter().flat_map(|pod| unknown_annotations(pod)).collect();
            let unknown: Vec<String> = unknown.into_iter().collect();
            (
                "pod-annotation",
                Verdict::Warn,
                format!("{}: {who}", unknown.join("; ")),
                ANNOTATIONS.to_owned(),
            )
        }
    };
    Line { id, verdict, subject, message, action }
}

/// Why the first of them waits.
fn waiting(pods: &[&Pod]) -> String {
    let reason = |pod: &&Pod| {
        [REDIRECT, PROXY].into_iter().find_map(|container| {
            let state = status(pod, container)?.state.as_ref()?;
            let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
            let failed = state.terminated.as_ref().filter(|ended| ended.exit_code != 0);
            waits
                .filter(|reason| reason != "PodInitializing")
                .or(failed.map(|ended| format!("{container} ended with exit code {}", ended.exit_code)))
        })
    };
    let otherwise = |pod: &Pod| {
        let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if placed { "it begins, or is not ready" } else { "no node has taken the pod" }
    };
    pods.iter().find_map(reason).unwrap_or_else(|| pods.first().map_or("", |pod| otherwise(pod)).to_owned())
}

/// What to type so that new pods come in place of these.
fn restart(namespace: &str, pods: &[&Pod]) -> String {
    let mut workloads = BTreeSet::new();
    let mut alone = Vec::new();
    for pod in pods {
        match workload(pod) {
            Some(workload) => drop(workloads.insert(workload)),
            None => alone.extend(pod.metadata.name.as_deref()),
        }
    }
    let mut commands = Vec::new();
    if !workloads.is_empty() {
        let all: Vec<String> = workloads.into_iter().collect();
        commands.push(format!("kubectl -n {namespace} rollout restart {}", all.join(" ")));
    }
    if !alone.is_empty() {
        commands
            .push(format!("delete and make again: kubectl -n {namespace} delete pod {}", alone.join(" ")));
    }
    commands.join("; ")
}

/// `deployment/web`; none: nothing that can be restarted made it.
fn workload(pod: &Pod) -> Option<String> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|one| one.controller == Some(true))?;
    match owner.kind.as_str() {
        // A Deployment's ReplicaSet is called by it and the hash of the template.
        "ReplicaSet" => {
            let hash = pod.metadata.labels.as_ref()?.get("pod-template-hash")?;
            let name = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
            Some(format!("deployment/{name}"))
        }
        "StatefulSet" | "DaemonSet" => Some(format!("{}/{}", owner.kind.to_lowercase(), owner.name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
