//! Labelled namespaces: whether the redirect container may run there, and whether sidecars can trust the operator.

use std::collections::BTreeMap;

use fairlead_operator::certificates::authority::Bundle;
use k8s_openapi::api::core::v1::Namespace;

use super::ask::Seen;
use super::line::{Line, count};

/// The label that meshes a namespace.
const INJECT: &str = "fairlead.dev/inject";
/// The label of Pod Security's level.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// The namespaces that are meshed: labelled, not going away, and never the operator's own or kube-system.
pub fn meshed(namespaces: Vec<Namespace>, own: &str) -> Vec<Namespace> {
    let labelled = |namespace: &Namespace| label(namespace, INJECT) == Some("enabled");
    let lives = |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_none();
    let ours = |namespace: &Namespace| ![own, "kube-system"].contains(&name(namespace));
    namespaces.into_iter().filter(|one| labelled(one) && lives(one) && ours(one)).collect()
}

/// That there is none, among `only` if these were asked about.
pub fn none(only: &[String]) -> String {
    let which = if only.is_empty() { "no namespace" } else { "none of the namespaces of --only" };
    format!("{which} is labelled {INJECT}=enabled")
}

/// Labels that do not do what somebody seems to want. `found` has the label, or is among `only`.
pub fn labels(found: &[Namespace], only: &[String], own: &str) -> Vec<Line> {
    let warn = |name: &str, message: String, action: String| {
        Line::warn("namespace-label", format!("namespace/{name}"), message, action)
    };
    let absent = only.iter().filter(|wanted| !found.iter().any(|one| name(one) == **wanted));
    let mut lines: Vec<Line> = absent
        .map(|name| warn(name, "does not exist".to_owned(), "kubectl get namespaces".to_owned()))
        .collect();
    lines.extend(found.iter().filter_map(|namespace| {
        let name = name(namespace);
        let write = format!("kubectl label namespace {name} {INJECT}=enabled --overwrite");
        match label(namespace, INJECT) {
            Some("enabled") if [own, "kube-system"].contains(&name) => Some(warn(
                name,
                "is never meshed, whatever its label says: what the mesh stands on is in it".to_owned(),
                format!("kubectl label namespace {name} {INJECT}-"),
            )),
            None => {
                Some(warn(name, format!("is not labelled {INJECT}=enabled: nothing in it is meshed"), write))
            }
            Some("enabled" | "disabled" | "false" | "") => None,
            Some(other) => {
                let message = format!("its label {INJECT}={other} means nothing: nothing in it is meshed");
                Some(warn(name, message, write))
            }
        }
    }));
    lines
}

/// Its name.
pub fn name(namespace: &Namespace) -> &str {
    namespace.metadata.name.as_deref().unwrap_or_default()
}

/// Whether Pod Security lets the redirect container in. Without the label the API server's default decides,
/// which is `privileged` unless somebody configured another.
pub fn allows_redirection(namespace: &Namespace) -> bool {
    matches!(label(namespace, ENFORCE), None | Some("privileged"))
}

/// Pod Security of every meshed namespace.
pub fn pod_security(namespaces: &Seen<Vec<Namespace>>, only: &[String]) -> Vec<Line> {
    const ID: &str = "pod-security";
    let namespaces = match namespaces {
        Ok(namespaces) => namespaces,
        Err(unseen) => return vec![Line::unseen(ID, unseen)],
    };
    if namespaces.is_empty() {
        let action = "kubectl label namespace NAMESPACE fairlead.dev/inject=enabled";
        return vec![Line::skip(ID, none(only), action)];
    }
    let refusing = namespaces.iter().filter(|namespace| !allows_redirection(namespace));
    let mut lines: Vec<Line> = refusing
        .map(|namespace| {
            let name = name(namespace);
            let level = label(namespace, ENFORCE).unwrap_or_default();
            let message = format!("Pod Security enforces {level}, so pods with a sidecar are refused: the container fairlead-redirect needs NET_ADMIN");
            let action = format!("kubectl label namespace {name} {ENFORCE}=privileged --overwrite");
            Line::fail(ID, format!("namespace/{name}"), message, action)
        })
        .collect();
    if lines.is_empty() {
        let message = format!(
            "Pod Security lets {} have the container fairlead-redirect",
            count(namespaces.len(), "labelled namespace", "labelled namespaces")
        );
        lines.push(Line::pass(ID, "", message));
    }
    lines
}

/// Whether each namespace has the roots that the API server trusts, too.
pub fn bundles(
    copies: &BTreeMap<String, Seen<Option<String>>>,
    hook: Option<&Bundle>,
    operator: &str,
    only: &[String],
) -> Vec<Line> {
    const ID: &str = "namespace-ca";
    if copies.is_empty() {
        return vec![Line::skip(ID, none(only), "")];
    }
    let mut lines = Vec::new();
    for (namespace, copy) in copies {
        let subject = format!("namespace/{namespace}");
        let logs = format!("kubectl -n {operator} logs deployment/fairlead-operator --all-pods | grep roots");
        match copy {
            Err(unseen) => lines.push(Line::unseen(ID, unseen)),
            Ok(None) => {
                let message = "has no ConfigMap fairlead-ca, so its new pods wait in ContainerCreating: the operator puts it there within seconds, unless it is refused";
                lines.push(Line::fail(ID, subject, message, logs));
            }
            Ok(Some(text)) => match (Bundle::read(text), hook) {
                (None, _) => {
                    let message =
                        "its ConfigMap fairlead-ca has no certificate, so new sidecars do not connect";
                    let action = format!(
                        "kubectl -n {namespace} delete configmap fairlead-ca, which the operator writes again"
                    );
                    lines.push(Line::fail(ID, subject, message, action));
                }
                (Some(_), Some(hook)) if !hook.is_in(text) => {
                    let message = "its ConfigMap fairlead-ca has other roots than the webhook: a rotation is under way, or the namespace refuses the new ones";
                    lines.push(Line::warn(
                        ID,
                        subject,
                        message,
                        format!("run it again in a minute; then {logs}"),
                    ));
                }
                _ => {}
            },
        }
    }
    if lines.is_empty() {
        let message = format!(
            "{} the operator's roots",
            count(copies.len(), "labelled namespace has", "labelled namespaces have")
        );
        lines.push(Line::pass(ID, "", message));
    }
    lines
}

fn label<'a>(namespace: &'a Namespace, name: &str) -> Option<&'a str> {
    namespace.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::line::Verdict;

    fn namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    const IN: (&str, &str) = ("fairlead.dev/inject", "enabled");

    #[test]
    fn the_operator_and_kube_system_are_never_meshed() {
        let all = ["shop", "kube-system", "mesh"].map(|name| namespace(name, &[IN]));
        let mut all = Vec::from(all);
        all.push(namespace("plain", &[]));
        assert_eq!(meshed(all, "mesh").iter().map(name).collect::<Vec<_>>(), ["shop"]);
    }

    #[test]
    fn labels_that_do_nothing_are_told() {
        let found = [
            namespace("shop", &[IN]),
            namespace("true", &[(INJECT, "true")]),
            namespace("off", &[(INJECT, "disabled")]),
            namespace("kube-system", &[IN]),
        ];
        let told = |found: &[Namespace], only: &[String]| -> Vec<String> {
            let lines = labels(found, only, "mesh");
            lines.iter().map(|line| format!("{} {} {}", line.subject, line.message, line.action)).collect()
        };
        let told_of_all = told(&found, &[]);
        assert_eq!(told_of_all.len(), 2, "{told_of_all:?}");
        assert!(
            told_of_all[0].starts_with("namespace/true its label fairlead.dev/inject=true means nothing")
        );
        assert!(told_of_all[1].starts_with("namespace/kube-system is never meshed"), "{told_of_all:?}");
        assert!(told_of_all[1].ends_with("fairlead.dev/inject-"), "{told_of_all:?}");
        let told = told(&[namespace("plain", &[])], &["plain".to_owned(), "shopp".to_owned()]);
        assert!(told[0].starts_with("namespace/shopp does not exist"), "{told:?}");
        assert!(told[1].starts_with("namespace/plain is not labelled"), "{told:?}");
    }

    #[test]
    fn a_level_that_refuses_the_redirection_is_mended_by_one_line() {
        let good = [namespace("a", &[IN]), namespace("b", &[IN, (ENFORCE, "privileged")])];
        assert_eq!(pod_security(&Ok(good.to_vec()), &[])[0].verdict, Verdict::Pass);
        let line = pod_security(&Ok(vec![namespace("c", &[IN, (ENFORCE, "restricted")])]), &[]).remove(0);
        assert_eq!((line.verdict, line.subject.as_str()), (Verdict::Fail, "namespace/c"));
        assert_eq!(
            line.action,
            "kubectl label namespace c pod-security.kubernetes.io/enforce=privileged --overwrite"
        );
        assert_eq!(pod_security(&Ok(Vec::new()), &[])[0].verdict, Verdict::Skip);
    }

    #[test]
    fn every_namespace_has_the_roots_of_the_webhook() {
        // Any bytes make a certificate as far as PEM goes.
        let pem = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        let (one, two) = (pem("AAAA"), pem("BBBB"));
        let hook = Bundle::read(&one);
        assert!(hook.is_some());
        let judge = |copy: Option<&str>| {
            let copies = [("shop".to_owned(), Ok(copy.map(str::to_owned)))].into();
            bundles(&copies, hook.as_ref(), "fairlead-system", &[]).remove(0).verdict
        };
        assert_eq!(judge(Some(&one)), Verdict::Pass);
        assert_eq!(judge(Some(&two)), Verdict::Warn);
        assert_eq!(judge(Some("x")), Verdict::Fail);
        assert_eq!(judge(None), Verdict::Fail);
    }
}
