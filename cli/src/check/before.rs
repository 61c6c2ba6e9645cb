//! Whether it can be installed: judged from what the API server told, and nothing is asked here.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ask::Seen;
use super::line::{Line, count, names};

/// Native sidecars are on by default since 1.29 and stable in this one, the oldest that we are tested with.
const KUBERNETES: (u32, u32) = (1, 33);
/// `socket wildcard` of nftables: in 5.10, not in 5.9 (NFT_SOCKET_WILDCARD of net/netfilter/nft_socket.c).
const KERNEL: (u32, u32) = (5, 10);

/// What `helm install` creates: group, plural, and whether it is in the release's namespace.
pub const CREATED: [(&str, &str, bool); 13] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("", "serviceaccounts", true),
    ("", "services", true),
    ("", "secrets", true),
    ("", "resourcequotas", true),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
];

/// Who grants a right has to have it, or this one.
pub const GRANT: &str = "escalate clusterroles.rbac.authorization.k8s.io";

/// A right, and whether who runs this has it.
#[derive(Debug, Clone)]
pub struct Right {
    /// `create deployments.apps`.
    pub name: String,
    /// Whether.
    pub held: Seen<bool>,
}

/// The API server's version.
pub fn version(major: &str, minor: &str, full: &str) -> Line {
    let digits =
        |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>();
    let (Ok(major), Ok(minor)) = (digits(major), digits(minor)) else {
        let action = "check by hand that it is 1.33 or newer: kubectl version";
        return Line::warn("kubernetes-version", "", format!("the API server says version {full:?}"), action);
    };
    if (major, minor) < KUBERNETES {
        let message =
            format!("Kubernetes {full} is older than 1.33: sidecars would not start before the application");
        return Line::fail("kubernetes-version", "", message, "upgrade the cluster to 1.33 or newer");
    }
    Line::pass("kubernetes-version", "", format!("the API server answers; Kubernetes {full}"))
}

/// The rights that an install takes.
pub fn rights(namespace: &str, rights: &[Right]) -> Vec<Line> {
    const ID: &str = "install-rights";
    const ASK: &str = "ask a cluster administrator to run helm install, or to make you one: kubectl create clusterrolebinding NAME --clusterrole=cluster-admin --user=YOU";
    if let Some(unseen) = rights.iter().find_map(|right| right.held.as_ref().err()) {
        return vec![Line::unseen(ID, unseen)];
    }
    let missing: Vec<&str> =
        rights.iter().filter(|right| right.held == Ok(false)).map(|right| right.name.as_str()).collect();
    if missing == [GRANT] {
        let message = format!(
            "you may not {GRANT}: the API server lets you make the operator's roles only if you hold every right in them"
        );
        return vec![Line::warn(ID, "", message, ASK)];
    }
    if missing.is_empty() {
        let message = format!("you may create what helm install creates in {namespace} and the cluster");
        return vec![Line::pass(ID, "", message)];
    }
    vec![Line::fail(ID, "", format!("you may not {}", missing.join(", ")), ASK)]
}

/// Whether the kernels can tell where somebody listens.
pub fn kernels(nodes: &Seen<Vec<Node>>) -> Line {
    const ID: &str = "node-kernel";
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(unseen) => return Line::unseen(ID, unseen),
    };
    let (mut old, mut linux) = (Vec::new(), 0);
    for node in nodes {
        let Some(info) = node.status.as_ref().and_then(|status| status.node_info.as_ref()) else { continue };
        if info.operating_system != "linux" {
            continue;
        }
        linux += 1;
        if kernel(&info.kernel_version).is_none_or(|kernel| kernel < KERNEL) {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            old.push(format!("{name} ({})", info.kernel_version));
        }
    }
    if old.is_empty() {
        let message = format!(
            "the kernels of {} can tell where a pod listens",
            count(linux, "Linux node", "Linux nodes")
        );
        return Line::pass(ID, "", message);
    }
    let message = format!(
        "Linux before 5.10 cannot tell where a pod listens, so there every inbound connection is redirected and a TCP probe of a closed port passes: {}",
        names(&old)
    );
    Line::warn(ID, "", message, "upgrade the nodes' kernels, or use HTTP and gRPC probes there")
}

/// `6.1.0-18-amd64`.
fn kernel(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|one: char| !one.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Definitions of our kinds that are there already: helm takes over only what says that it is its own.
pub fn definitions(
    namespace: &str,
    release: &str,
    definitions: &[(String, Seen<Option<CustomResourceDefinition>>)],
) -> Vec<Line> {
    const ID: &str = "crd";
    let mut lines = Vec::new();
    let mut kept = 0;
    for (name, definition) in definitions {
        let definition = match definition {
            Ok(Some(definition)) => definition,
            Ok(None) => continue,
            Err(unseen) => return vec![Line::unseen(ID, unseen)],
        };
        kept += 1;
        let subject = format!("crd/{name}");
        if let Some(owner) = other_owner(&definition.metadata, namespace, release) {
            let message = format!("is there already and {owner}: helm install would refuse to adopt it");
            let action = format!(
                "to hand it to this release: kubectl label crd {name} --overwrite app.kubernetes.io/managed-by=Helm && kubectl annotate crd {name} --overwrite meta.helm.sh/release-name={release} meta.helm.sh/release-namespace={namespace}; to leave it as it is: helm install with --set crds.enabled=false"
            );
            lines.push(Line::fail(ID, subject, message, action));
        }
    }
    if lines.is_empty() {
        let message = match kept {
            0 => "none of the CustomResourceDefinitions is there; helm install makes them".to_owned(),
            kept => format!(
                "{kept} CustomResourceDefinitions of an earlier install of this release are there; helm install upgrades them"
            ),
        };
        lines.push(Line::pass(ID, "", message));
    }
    lines
}

/// Whether the Fairlead of this cluster has its operator in another namespace: what that one owns is well where it is.
pub fn is_elsewhere(hook: &Seen<Option<MutatingWebhookConfiguration>>, namespace: &str) -> bool {
    let hook = hook.as_ref().ok().and_then(Option::as_ref);
    hook.and_then(place).is_some_and(|place| place != namespace)
}

/// The namespace of the operator that a webhook configuration names.
fn place(hook: &MutatingWebhookConfiguration) -> Option<&str> {
    let service = hook.webhooks.iter().flatten().find_map(|hook| hook.client_config.service.as_ref());
    service.map(|service| service.namespace.as_str())
}

/// Who owns an object, when it is not this release.
fn other_owner(metadata: &ObjectMeta, namespace: &str, release: &str) -> Option<String> {
    let annotation = |name: &str| metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let label = |name: &str| metadata.labels.as_ref()?.get(name).map(String::as_str);
    let (name, place) =
        (annotation("meta.helm.sh/release-name"), annotation("meta.helm.sh/release-namespace"));
    match (name, place, label("app.kubernetes.io/managed-by")) {
        (Some(name), Some(place), Some("Helm")) if name == release && place == namespace => None,
        (Some(name), Some(place), _) if name != release || place != namespace => {
            Some(format!("belongs to the Helm release {place}/{name}"))
        }
        (.., Some(manager)) if manager != "Helm" => Some(format!("is managed by {manager}")),
        _ => Some("does not say that Helm manages it".to_owned()),
    }
}

/// Another Fairlead: the names of its objects are fixed, so there is one a cluster. `installed`: the operator of
/// this namespace is there.
pub fn other_mesh(
    namespace: &str,
    release: &str,
    hook: &Seen<Option<MutatingWebhookConfiguration>>,
    installed: bool,
) -> Line {
    const ID: &str = "other-install";
    const SUBJECT: &str = "mutatingwebhookconfiguration/fairlead-operator";
    let hook = match hook {
        Ok(Some(hook)) => hook,
        Ok(None) => return Line::pass(ID, "", "no other Fairlead is in this cluster"),
        Err(unseen) => return Line::unseen(ID, unseen),
    };
    let place = place(hook).unwrap_or("an unknown namespace");
    let ours = place == namespace && other_owner(&hook.metadata, namespace, release).is_none();
    if ours && installed {
        let message =
            format!("this release is installed in {namespace} already; without --pre it is checked");
        return Line::pass(ID, "", message);
    }
    if ours {
        let message = "is there, but its operator is not: new pods of labelled namespaces are refused";
        let action = format!("helm upgrade --install {release} charts/fairlead -n {namespace}");
        return Line::fail(ID, SUBJECT, message, action);
    }
    let message = format!("is there already, for an operator in {place}; a cluster has one Fairlead");
    let action = format!(
        "look at that one: fairlead check -n {place}; or remove it: helm list -A, helm uninstall NAME -n {place}"
    );
    Line::fail(ID, SUBJECT, message, action)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::check::ask::{Unseen, Why};
    use crate::check::line::Verdict;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn versions_before_1_33_are_too_old() {
        for (major, minor, verdict) in [
            ("1", "33", Verdict::Pass),
            ("1", "34+", Verdict::Pass),
            ("2", "0", Verdict::Pass),
            ("1", "32", Verdict::Fail),
            ("1", "", Verdict::Warn),
        ] {
            assert_eq!(version(major, minor, "v1").verdict, verdict, "{major}.{minor}");
        }
    }

    #[test]
    fn missing_rights_are_named() {
        let right = |name: &str, held| Right { name: name.to_owned(), held };
        let lines = rights(
            "fairlead-system",
            &[right("create services", Ok(true)), right("create secrets", Ok(false))],
        );
        assert_eq!(lines[0].verdict, Verdict::Fail);
        assert_eq!(lines[0].message, "you may not create secrets");
        let lines = rights("fairlead-system", &[right("create services", Ok(true))]);
        assert_eq!(lines[0].verdict, Verdict::Pass);
        let lines = rights("fairlead-system", &[right("create services", Ok(true)), right(GRANT, Ok(false))]);
        assert_eq!(lines[0].verdict, Verdict::Warn);
        let unseen = Unseen {
            what: "your rights".into(),
            needs: "create selfsubjectaccessreviews".into(),
            why: Why::Forbidden,
        };
        let lines = rights("fairlead-system", &[right("create services", Err(unseen))]);
        assert_eq!(lines[0].verdict, Verdict::Warn);
    }

    #[test]
    fn old_kernels_are_named_with_their_nodes() {
        let node = |name: &str, system: &str, kernel: &str| -> Node {
            read(json!({"metadata": {"name": name}, "status": {"nodeInfo": {
                "kernelVersion": kernel, "operatingSystem": system, "architecture": "", "bootID": "",
                "containerRuntimeVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "osImage": "", "systemUUID": ""}}}))
        };
        let good = node("a", "linux", "5.10.0-30-cloud-amd64");
        assert_eq!(
            kernels(&Ok(vec![good.clone(), node("w", "windows", "10.0.17763")])).verdict,
            Verdict::Pass
        );
        let line = kernels(&Ok(vec![good, node("b", "linux", "5.4.0-150-generic"), node("c", "linux", "?")]));
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.message.ends_with("b (5.4.0-150-generic), c (?)"), "{}", line.message);
    }

    fn definition(labels: &Value, annotations: &Value) -> (String, Seen<Option<CustomResourceDefinition>>) {
        let definition = json!({"metadata": {"name": "x", "labels": labels, "annotations": annotations}, "spec": {
            "group": "fairlead.dev", "names": {"kind": "X", "plural": "x"}, "scope": "Namespaced", "versions": []}});
        ("x".to_owned(), Ok(Some(read(definition))))
    }

    #[test]
    fn definitions_of_somebody_else_would_stop_helm() {
        let judge = |one| definitions("fairlead-system", "fairlead", &[one]).remove(0);
        let helm = json!({"app.kubernetes.io/managed-by": "Helm"});
        let release = |name: &str| json!({"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": "fairlead-system"});
        assert_eq!(judge(("x".to_owned(), Ok(None))).verdict, Verdict::Pass);
        assert_eq!(judge(definition(&helm, &release("fairlead"))).verdict, Verdict::Pass);
        let line = judge(definition(&helm, &release("mesh")));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.message.contains("the Helm release fairlead-system/mesh"), "{}", line.message);
        let line = judge(definition(&json!({}), &json!({})));
        assert!(line.message.contains("does not say that Helm manages it"), "{}", line.message);
        assert!(line.action.contains("kubectl annotate crd x"), "{}", line.action);
        let line = judge(definition(&json!({"app.kubernetes.io/managed-by": "argocd"}), &json!({})));
        assert!(line.message.contains("is managed by argocd"), "{}", line.message);
    }

    #[test]
    fn every_kind_of_the_chart_needs_its_right() {
        // Made only when a value asks for them, or by `helm test`.
        let optional = ["NetworkPolicy", "ServiceMonitor", "Issuer", "Certificate", "Pod"];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/fairlead/templates");
        let mut seen = 0;
        for file in fairlead_operator::watch::files(folder.as_ref()).unwrap() {
            let text = std::fs::read_to_string(file).unwrap();
            for kind in text.lines().filter_map(|line| line.strip_prefix("kind: ")) {
                let plural = format!("{}s", kind.to_lowercase());
                let asked = CREATED.iter().any(|(_, asked, _)| *asked == plural);
                assert!(asked || optional.contains(&kind), "{plural} is not asked for");
                seen += usize::from(asked);
            }
        }
        assert!(seen >= 10, "{seen} kinds");
    }

    #[test]
    fn a_cluster_has_one_mesh() {
        let judge = |hook| other_mesh("fairlead-system", "fairlead", &Ok(hook), false);
        assert_eq!(judge(None).verdict, Verdict::Pass);
        let hook = |namespace: &str| -> MutatingWebhookConfiguration {
            read(json!({"metadata": {"name": "fairlead-operator"}, "webhooks": [{
            "name": "x", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"service": {"name": "fairlead-operator", "namespace": namespace}}}]}))
        };
        assert!(is_elsewhere(&Ok(Some(hook("mesh"))), "fairlead-system"));
        assert!(!is_elsewhere(&Ok(Some(hook("mesh"))), "mesh") && !is_elsewhere(&Ok(None), "mesh"));
        let line = judge(Some(hook("mesh")));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.action.contains("fairlead check -n mesh"), "{}", line.action);
        let mut own = hook("fairlead-system");
        own.metadata = read(json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}, "annotations": {
            "meta.helm.sh/release-name": "fairlead", "meta.helm.sh/release-namespace": "fairlead-system"}}));
        let line = judge(Some(own.clone()));
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.action.starts_with("helm upgrade --install fairlead"), "{}", line.action);
        assert_eq!(other_mesh("fairlead-system", "fairlead", &Ok(Some(own)), true).verdict, Verdict::Pass);
    }
}
