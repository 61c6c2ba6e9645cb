//! Injection: a pod as somebody wrote it in, the same pod with the sidecar out, or the reason why not. Pure;
//! the webhook and `fairlead inject` are this one function.
//!
//! ```text
//! pod ── skip? (opted out, host network, ...) ── annotations ── refuse? (uid, ports, names) ── containers ── pod
//! ```
//!
//! Pods are JSON values here, not types: a field that a newer API server knows and we do not must come out as
//! it went in. Injecting twice is injecting once, whatever other webhooks did in between.

pub mod manifest;

pub mod annotation;

mod containers;

mod probes;

mod resources;

mod quantity;

use serde_json::{Map, Value, json};

use self::annotation::{OPT_OUT, Wishes};
pub use self::containers::PROXY;
use self::containers::{REDIRECT, VOLUME};

/// What all injected pods share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The image of both containers; its entrypoint is `fairlead-proxy`.
    pub image: String,
    /// When the kubelet pulls it; `None`: as Kubernetes decides by the tag.
    pub pull_policy: Option<String>,
    /// Where the sidecar finds the operator: `https://fairlead-operator.fairlead-system.svc:15010`.
    pub operator: String,
    /// The uid that the sidecar runs as, and nobody else may: its own calls are not captured.
    pub proxy_uid: i64,
}

/// The operator's address in the namespace that it runs in.
#[must_use]
pub fn operator_address(namespace: &str) -> String {
    format!("https://fairlead-operator.{namespace}.svc:15010")
}

/// The sidecar's uid, unless somebody wants another.
pub const PROXY_UID: i64 = 1337;

/// The annotation by which the kubelet marks the mirror of a static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The version that injected pods carry in `fairlead.dev/injected`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What becomes of a pod, and what its author should know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// Annotations that have no effect, and the like: it goes on without.
    pub warnings: Vec<String>,
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The pod with the sidecar; equal to what was given when it had it already.
    Injected(Value),
    /// It stays as it is.
    Skipped(Skipped),
    /// It must not run like this; why, and what to write instead.
    Refused(String),
}

/// Why a pod gets no sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// `fairlead.dev/inject: "false"`.
    OptedOut,
    /// Its network is the node's: redirecting it would redirect the node.
    HostNetwork,
    /// It runs on Windows.
    Windows,
    /// The kubelet made it from a file; the API server only mirrors it.
    Mirror,
}

impl Skipped {
    /// In words.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::OptedOut => "it is annotated fairlead.dev/inject: \"false\"",
            Self::HostNetwork => "hostNetwork: true: its network is the node's, which must not be redirected",
            Self::Windows => "spec.os.name: windows: the sidecar needs Linux",
            Self::Mirror => "it is the mirror of a static pod, which the kubelet made from a file",
        }
    }
}

/// Injects a pod, or the template of one: an object with `metadata` and `spec`.
#[must_use]
pub fn inject(pod: &Value, settings: &Settings) -> Outcome {
    if let Some(skipped) = skip(pod) {
        return Outcome { verdict: Verdict::Skipped(skipped), warnings: Vec::new() };
    }
    let (wishes, mut problems, mut warnings) = annotation::read(pod);
    problems.extend(conflicts(pod, settings));
    let (resources, found) = resources::plan(pod, &wishes);
    match found {
        Ok(warning) => warnings.extend(warning),
        Err(problem) => problems.push(problem),
    }
    warnings.extend(unreadable_tokens(pod));
    warnings.extend(unknown_operator(pod, settings));
    let verdict = match problems.is_empty() {
        true => Verdict::Injected(assemble(pod, settings, &wishes, &resources)),
        false => Verdict::Refused(problems.join("; ")),
    };
    Outcome { verdict, warnings }
}

fn skip(pod: &Value) -> Option<Skipped> {
    if annotation(pod, OPT_OUT) == Some("false") {
        Some(Skipped::OptedOut)
    } else if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        Some(Skipped::HostNetwork)
    } else if text(pod, "/spec/os/name") == Some("windows") {
        Some(Skipped::Windows)
    } else if annotation(pod, MIRROR).is_some() {
        Some(Skipped::Mirror)
    } else {
        None
    }
}

/// What in the pod itself cannot live beside the sidecar.
fn conflicts(pod: &Value, settings: &Settings) -> Vec<String> {
    let Some(spec) = pod.get("spec").filter(|spec| spec.is_object()) else {
        return vec!["it has no spec; write the pod's spec".to_owned()];
    };
    let mut problems = Vec::new();
    let pod_uid = spec.pointer("/securityContext/runAsUser").and_then(Value::as_i64);
    // What is called like ours is ours only where we have been before.
    let injected = annotation(pod, annotation::INJECTED).is_some();
    for (list, container) in containers_of(spec) {
        if is_named_like_ours(container) && list == "initContainers" && injected {
            continue;
        }
        let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
        let uid = container.pointer("/securityContext/runAsUser").and_then(Value::as_i64).or(pod_uid);
        if uid == Some(settings.proxy_uid) {
            problems.push(format!(
                "container {name:?} runs as uid {}, which is the sidecar's, so its calls would escape the mesh; write another securityContext.runAsUser, or annotate the pod with {OPT_OUT}: \"false\"",
                settings.proxy_uid
            ));
        }
        if is_named_like_ours(container) {
            problems.push(format!(
                "a container is called {name:?}, which is the name of one that is injected; write another name"
            ));
        }
        for (port, purpose) in PORTS {
            let listens = |declared: &&Value| {
                declared.get("containerPort").and_then(Value::as_u64) == Some(port.into())
                    && declared
                        .get("protocol")
                        .and_then(Value::as_str)
                        .is_none_or(|protocol| protocol == "TCP")
            };
            if items(container, "ports").iter().any(|declared| listens(&declared)) {
                problems.push(format!(
                    "container {name:?} listens on port {port}, where the sidecar {purpose}; let it listen on another port"
                ));
            }
        }
    }
    let taken =
        |volume: &&Value| name_of(volume) == Some(VOLUME) && !(injected && volume.get("projected").is_some());
    if items(spec, "volumes").iter().any(|volume| taken(&volume)) {
        problems.push(format!(
            "a volume is called {VOLUME:?}, which is the name of the one that is injected; write another name"
        ));
    }
    problems
}

/// The ports that the sidecar listens on, and must find free.
const PORTS: [(u16, &str); 6] = [
    (15000, "has its admin page"),
    (15001, "takes outbound connections"),
    (15002, "sees whether the pod is redirected"),
    (15006, "takes inbound connections"),
    (15020, "has its metrics"),
    (15021, "says whether it is ready"),
];

/// A pod that does not ask the cluster's DNS finds no operator.
fn unknown_operator(pod: &Value, settings: &Settings) -> Option<String> {
    let policy = text(pod, "/spec/dnsPolicy").filter(|policy| ["Default", "None"].contains(policy))?;
    Some(format!(
        "with dnsPolicy: {policy} the sidecar may not find {}: it starts ten seconds late and follows no rule; write dnsPolicy: ClusterFirst, or see that its nameservers and searches resolve that name",
        settings.operator
    ))
}

/// Token volumes of the application that it could read before and cannot any more. The kubelet gives a token's
/// file to the one user that all containers run as, whatever its mode; with the sidecar there are two users, and
/// only the mode counts.
fn unreadable_tokens(pod: &Value) -> Vec<String> {
    let Some(spec) = pod.get("spec") else { return Vec::new() };
    if spec.pointer("/securityContext/fsGroup").is_some() {
        return Vec::new();
    }
    let pod_uid = spec.pointer("/securityContext/runAsUser").and_then(Value::as_i64);
    let mut users = applications(spec).map(|(_, container)| {
        container.pointer("/securityContext/runAsUser").and_then(Value::as_i64).or(pod_uid)
    });
    let Some(Some(user)) = users.next() else { return Vec::new() };
    if user == 0 || users.any(|other| other != Some(user)) {
        return Vec::new();
    }
    let hidden = items(spec, "volumes").iter().filter(|volume| {
        let mode = volume.pointer("/projected/defaultMode").and_then(Value::as_u64).unwrap_or(0o644);
        let token = |source: &Value| source.get("serviceAccountToken").is_some();
        let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
        mode & 0o004 == 0 && sources.is_some_and(|sources| sources.iter().any(token))
    });
    let warning = |volume: &Value| {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        format!(
            "uid {user} cannot read the token in volume {name:?} any more, as the sidecar runs as another user; write defaultMode: 0644, or an fsGroup"
        )
    };
    hidden.map(warning).collect()
}

/// The pod with our two containers, our volume and our mark.
fn assemble(pod: &Value, settings: &Settings, wishes: &Wishes, resources: &resources::Plan) -> Value {
    let mut injected = pod.clone();
    let Some(object) = injected.as_object_mut() else { return injected };
    if let Some(Value::Object(spec)) = object.get_mut("spec") {
        let probes = probes::declared(spec);
        let profile =
            spec.get("securityContext").and_then(|context| context.get("appArmorProfile")).is_some();
        let redirect = containers::redirect(settings, wishes, &resources.redirect, profile);
        let proxy = containers::proxy(settings, wishes, &resources.proxy, &probes, profile);
        place(spec, redirect, proxy);
        let volumes = list_in(spec, "volumes");
        put_by_name(volumes, containers::volume());
    }
    let annotations = map_in(object, "metadata").and_then(|metadata| map_in(metadata, "annotations"));
    if let Some(annotations) = annotations {
        annotations.insert(annotation::INJECTED.to_owned(), json!(VERSION));
    }
    injected
}

/// Puts ours first and next to each other among the init containers, wherever others have moved them.
fn place(spec: &mut Map<String, Value>, redirect: Value, proxy: Value) {
    let init = list_in(spec, "initContainers");
    let mut before = Vec::new();
    init.retain(|container| {
        let ours = is_named_like_ours(container);
        if ours {
            before.push(container.clone());
        }
        !ours
    });
    for fresh in [proxy, redirect] {
        let old = before.iter().find(|old| name_of(old) == name_of(&fresh));
        init.insert(0, containers::renewed(old, fresh));
    }
}

fn put_by_name(list: &mut Vec<Value>, item: Value) {
    match list.iter_mut().find(|other| name_of(other) == name_of(&item)) {
        Some(other) => *other = item,
        None => list.push(item),
    }
}

/// The list in this field, made when there is none.
fn list_in<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Vec<Value> {
    let value = map.entry(field.to_owned()).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]); // null is how JSON writes an absent list.
    }
    value.as_array_mut().expect("it was just made one")
}

/// The map in this field, made when there is none.
fn map_in<'a>(map: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    let value = map.entry(field.to_owned()).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// All containers, each with the list that it is in.
fn containers_of(spec: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    let of = move |list: &'static str| items(spec, list).iter().map(move |container| (list, container));
    of("initContainers").chain(of("containers"))
}

/// Those that are not ours.
fn applications(spec: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    containers_of(spec).filter(|(list, container)| *list == "containers" || !is_named_like_ours(container))
}

fn is_named_like_ours(container: &Value) -> bool {
    [REDIRECT, PROXY].map(Some).contains(&name_of(container))
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn name_of(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

fn text<'a>(pod: &'a Value, pointer: &str) -> Option<&'a str> {
    pod.pointer(pointer).and_then(Value::as_str)
}

fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod.pointer("/metadata/annotations")?.get(name)?.as_str()
}

#[cfg(test)]
mod tests;
