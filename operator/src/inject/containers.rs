//! The two containers and the volume that are injected.
//!
//! Values that the API server would fill in stand here too: a pod that comes back from it, to be injected again,
//! differs in nothing.

use serde_json::{Map, Value, json};

use super::Settings;
use super::annotation::Wishes;
use super::resources::Resources;

/// The sidecar: an init container that keeps running, so that it is there before and after the application, and
/// a Job ends without it.
pub const PROXY: &str = "fairlead-proxy";
/// Redirects the pod's connections to the sidecar, and ends.
pub(super) const REDIRECT: &str = "fairlead-redirect";
/// Token and certificate authority.
pub(super) const VOLUME: &str = "fairlead";

/// Where the volume is.
const FOLDER: &str = "/var/run/fairlead";
/// For whom the token is good: for nobody but the operator.
const AUDIENCE: &str = "fairlead";
/// The kubelet renews it after 80 % of this.
const TOKEN_SECONDS: u32 = 3600;
/// The ConfigMap that the operator keeps in every labelled namespace.
const AUTHORITY: &str = "fairlead-ca";
/// The sidecar is ready without an operator after 10 s; an image that has to be unpacked does not count here.
const STARTUP_SECONDS: u32 = 60;

/// Installs the redirection. Root, because only root's capabilities are in force; and of those this one alone.
pub(super) fn redirect(settings: &Settings, wishes: &Wishes, resources: &Resources, apparmor: bool) -> Value {
    let mut args = vec!["redirect".to_owned(), format!("--proxy-uid={}", settings.proxy_uid)];
    let ports = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    for (flag, list) in [
        ("--exclude-inbound-ports", ports(&wishes.exclude_inbound_ports)),
        ("--exclude-outbound-ports", ports(&wishes.exclude_outbound_ports)),
        ("--exclude-inbound-cidrs", wishes.exclude_inbound_cidrs.join(",")),
        ("--exclude-outbound-cidrs", wishes.exclude_outbound_cidrs.join(",")),
    ] {
        if !list.is_empty() {
            args.push(format!("{flag}={list}"));
        }
    }
    let mut container = json!({
        "name": REDIRECT,
        "image": settings.image,
        "args": args,
        "resources": resources.value,
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    finish(&mut container, settings, apparmor);
    container
}

/// The sidecar.
pub(super) fn proxy(
    settings: &Settings,
    wishes: &Wishes,
    resources: &Resources,
    probes: &[String],
    apparmor: bool,
) -> Value {
    let mut args = vec![
        "--capture".to_owned(),
        format!("--operator={}", settings.operator),
        format!("--operator-ca={FOLDER}/ca.crt"),
        format!("--operator-token={FOLDER}/token"),
        "--pod=$(POD_NAMESPACE)/$(POD_NAME)".to_owned(),
        "--pod-ips=$(POD_IPS)".to_owned(),
    ];
    if !probes.is_empty() {
        args.push(format!("--probes={}", literally(&probes.join(","))));
    }
    if let Some(workers) = wishes.workers.map(u64::from).or(resources.cpus) {
        args.push(format!("--workers={workers}"));
    }
    if let Some(level) = &wishes.log_level {
        args.push(format!("--log={level}"));
    }
    if let Some(time) = &wishes.drain_time {
        args.push(format!("--shutdown-timeout={time}"));
    }
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let mut container = json!({
        "name": PROXY,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": args,
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_IPS", "status.podIPs"),
        ],
        "ports": [{ "name": "fairlead-metric", "containerPort": 15020, "protocol": "TCP" }],
        "resources": resources.value,
        "startupProbe": {
            "httpGet": { "path": "/ready", "port": 15021, "scheme": "HTTP" },
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "successThreshold": 1,
            "failureThreshold": STARTUP_SECONDS,
        },
        "lifecycle": { "preStop": { "exec": { "command": ["fairlead-proxy", "drain"] } } },
        "securityContext": {
            "runAsUser": settings.proxy_uid,
            "runAsGroup": settings.proxy_uid,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [{ "name": VOLUME, "mountPath": FOLDER, "readOnly": true }],
    });
    finish(&mut container, settings, apparmor);
    container
}

fn finish(container: &mut Value, settings: &Settings, apparmor: bool) {
    let Some(fields) = container.as_object_mut() else { return };
    if let Some(policy) = &settings.pull_policy {
        fields.insert("imagePullPolicy".to_owned(), json!(policy));
    }
    // A profile that the pod brings for its application is not made for ours. Without one nothing is said, for
    // a node without AppArmor refuses whoever names a profile.
    if let (true, Some(Value::Object(context))) = (apparmor, fields.get_mut("securityContext")) {
        context.insert("appArmorProfile".to_owned(), json!({ "type": "RuntimeDefault" }));
    }
}

/// The token, renewed by the kubelet and good for the operator alone, and the authority that the operator's
/// certificate is checked against. Not optional: a pod waits for both. The kubelet lets everybody in the pod read
/// a token when its containers run as several users, and the pod's fsGroup when there is one: both cover us.
pub(super) fn volume() -> Value {
    json!({
        "name": VOLUME,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {
                    "serviceAccountToken": {
                        "audience": AUDIENCE,
                        "expirationSeconds": TOKEN_SECONDS,
                        "path": "token",
                    }
                },
                { "configMap": { "name": AUTHORITY, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            ],
        },
    })
}

/// Kubernetes expands `$(NAME)` in arguments, and `$$` to `$`.
fn literally(text: &str) -> String {
    text.replace('$', "$$")
}

/// Our container as it should be, with what others may have added to it since it was injected: mounts and
/// environment that are not ours, and what the API server fills in. Everything else is ours to say, or a pod
/// could bring along a sidecar that runs another program.
pub(super) fn renewed(old: Option<&Value>, mut fresh: Value) -> Value {
    let (Some(Value::Object(old)), Some(fields)) = (old, fresh.as_object_mut()) else { return fresh };
    const FILLED_IN: [&str; 3] = ["imagePullPolicy", "terminationMessagePath", "terminationMessagePolicy"];
    for field in FILLED_IN {
        if let (Some(value), false) = (old.get(field), fields.contains_key(field)) {
            fields.insert(field.to_owned(), value.clone());
        }
    }
    add(old, fields, "env", "name", |name| name.starts_with("FAIRLEAD_"));
    add(old, fields, "volumeMounts", "mountPath", |path| path.starts_with(FOLDER));
    fresh
}

/// Adds the items of an old list whose key is neither in the fresh one nor ours.
fn add(
    old: &Map<String, Value>,
    fresh: &mut Map<String, Value>,
    list: &str,
    key: &str,
    ours: fn(&str) -> bool,
) {
    let Some(Value::Array(old)) = old.get(list) else { return };
    let key_of = |item: &Value| item.get(key).and_then(Value::as_str).map(str::to_owned);
    let kept = fresh.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
    let taken: Vec<_> = kept.iter().filter_map(key_of).collect();
    let others =
        old.iter().filter(|item| key_of(item).is_some_and(|key| !taken.contains(&key) && !ours(&key)));
    let all: Vec<Value> = kept.iter().chain(others).cloned().collect();
    if !all.is_empty() {
        fresh.insert(list.to_owned(), Value::Array(all));
    }
}
