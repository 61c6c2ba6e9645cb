//! Where the kubelet asks the application how it is: those calls are held to no limit, and go on while the pod
//! drains. Nothing of them is rewritten; the sidecar is told where they arrive.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{is_named_like_ours, name_of};

/// `8080/healthz` for HTTP, `9000` for gRPC, TCP and what is encrypted; sorted, each once.
pub(super) fn declared(spec: &Map<String, Value>) -> Vec<String> {
    let mut found = BTreeSet::new();
    let lists = ["initContainers", "containers"].iter().filter_map(|list| spec.get(*list)?.as_array());
    for container in lists.flatten() {
        if is_named_like_ours(container) {
            continue;
        }
        let probes =
            ["livenessProbe", "readinessProbe", "startupProbe"].iter().map(|name| container.get(*name));
        // What the kubelet calls at the start and the end of a container is asked in the same way.
        let hooks = ["/lifecycle/postStart", "/lifecycle/preStop"].iter().map(|hook| container.pointer(hook));
        found.extend(probes.chain(hooks).flatten().filter_map(|probe| place(probe, container)));
    }
    found.into_iter().collect()
}

/// Port and path; none for a program that is run in the container, or a call to another host.
fn place(probe: &Value, container: &Value) -> Option<String> {
    let elsewhere =
        |check: &Value| check.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty());
    if let Some(http) = probe.get("httpGet").filter(|http| !elsewhere(http)) {
        let port = port(http.get("port")?, container)?;
        let encrypted = http.get("scheme").and_then(Value::as_str) == Some("HTTPS");
        let path = http.get("path").and_then(Value::as_str).unwrap_or_default();
        return Some(if encrypted { port.to_string() } else { format!("{port}{}", clean(path)) });
    }
    let check = probe.get("tcpSocket").filter(|tcp| !elsewhere(tcp)).or_else(|| probe.get("grpc"))?;
    port(check.get("port")?, container).map(|port| port.to_string())
}

/// A number, or the name of a port of the same container.
fn port(port: &Value, container: &Value) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok();
    }
    let name = port.as_str()?;
    let declared = container.get("ports")?.as_array()?;
    let named = declared.iter().find(|one| name_of(one) == Some(name));
    match named {
        Some(named) => named.get("containerPort")?.as_u64()?.try_into().ok(),
        None => name.parse().ok(),
    }
}

/// The path alone, as it stands in the request line. A comma would end it in the list, so it is written as %2C.
fn clean(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{slash}{}", path.replace(',', "%2C"))
}
