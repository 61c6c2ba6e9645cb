//! The operator: whether its replicas, certificates, webhook and definitions are as they should be.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::ask::{Seen, Unseen};
use super::line::Line;

/// A certificate lives thirty days, and ten are left when the operator renews it: with fewer than these it has
/// failed for days.
const LEAF_DAYS: i64 = 7;
/// A root lives a year, and four months are left when it is renewed.
const ROOT_DAYS: i64 = 60;
/// The holder renews every 2 s, and loses the Lease after 15. The rest is for clocks that differ.
const LEASE_OLD: SignedDuration = SignedDuration::from_secs(60);
/// What a person reads when the webhook cannot be reached.
const WEBHOOK: &str = "operator-unreachable-no-injection.fairlead.dev";

/// What becomes of new pods of labelled namespaces that no operator answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// They are refused.
    Fail,
    /// They start without a sidecar.
    Ignore,
    /// There is no webhook configuration: they start without a sidecar, whoever answers.
    Nothing,
}

impl Policy {
    /// As the webhook configuration says it. Who may not see it is told what the chart's default does.
    pub fn of(hook: &Seen<Option<MutatingWebhookConfiguration>>) -> Self {
        let Ok(found) = hook else { return Self::Fail };
        let Some(found) = found else { return Self::Nothing };
        let ignores = |hook: &str| hook == "Ignore";
        let mut policies = found.webhooks.iter().flatten().filter_map(|hook| hook.failure_policy.as_deref());
        if policies.any(ignores) { Self::Ignore } else { Self::Fail }
    }

    fn effect(self) -> &'static str {
        match self {
            Self::Fail => "calls go on, new pods of labelled namespaces are refused, no change arrives",
            Self::Ignore | Self::Nothing => {
                "calls go on, new pods of labelled namespaces start without a sidecar, no change arrives"
            }
        }
    }
}

/// Whether all replicas are ready.
pub fn replicas(deployment: &Deployment, policy: Policy, namespace: &str) -> Line {
    const ID: &str = "operator-ready";
    let subject = "deployment/fairlead-operator";
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let updated = status.and_then(|status| status.updated_replicas).unwrap_or(0);
    let look = format!("kubectl -n {namespace} describe pods -l app.kubernetes.io/component=operator");
    if wanted == 0 {
        let message = format!("is scaled to 0: {}", policy.effect());
        let action = format!("kubectl -n {namespace} scale deployment/fairlead-operator --replicas=2");
        return Line::fail(ID, subject, message, action);
    }
    if ready == 0 {
        let message = format!("0 of {wanted} replicas are ready: {}", policy.effect());
        return Line::fail(ID, subject, message, look);
    }
    if ready < wanted {
        return Line::warn(
            ID,
            subject,
            format!("{ready} of {wanted} replicas are ready; the mesh works"),
            look,
        );
    }
    if updated < wanted {
        let message =
            format!("{updated} of {wanted} replicas are of the newest template: a rollout is under way");
        let action = format!("kubectl -n {namespace} rollout status deployment/fairlead-operator");
        return Line::warn(ID, subject, message, action);
    }
    // One more than wanted while an upgrade brings it up, or cannot.
    let coming = status.and_then(|status| status.unavailable_replicas).unwrap_or(0);
    if coming > 0 {
        let message =
            format!("{ready} of {wanted} replicas are ready, and {coming} that a rollout brings is not yet");
        return Line::warn(ID, subject, message, look);
    }
    Line::pass(ID, subject, format!("{ready} of {wanted} replicas are ready"))
}

/// Whether it has the version of this program.
pub fn version(deployment: &Deployment, own: &str) -> Line {
    const ID: &str = "operator-version";
    let subject = "deployment/fairlead-operator";
    match installed_version(deployment) {
        Some(theirs) if theirs == own => Line::pass(ID, subject, format!("version {own}, as this program")),
        Some(theirs) => {
            let message = format!("version {theirs}; this program is {own} and may judge wrongly");
            Line::warn(ID, subject, message, format!("use fairlead {theirs}, or helm upgrade to {own}"))
        }
        None => {
            let message = "its pods have no label app.kubernetes.io/version, so its version is not known";
            Line::warn(ID, subject, message, "install it by the chart")
        }
    }
}

/// As the chart says it in the label of the operator's pods.
fn installed_version(deployment: &Deployment) -> Option<&str> {
    let template = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    template.labels.as_ref()?.get("app.kubernetes.io/version").map(String::as_str)
}

/// The image that the webhook injects.
pub fn proxy_image(deployment: &Deployment) -> Option<&str> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let mut variables = containers.iter().flat_map(|container| container.env.iter().flatten());
    variables.find(|one| one.name == "FAIRLEAD_PROXY_IMAGE")?.value.as_deref()
}

/// Whether each definition is served, and is this program's.
pub fn definitions(
    found: &[(String, Seen<Option<CustomResourceDefinition>>)],
    ours: &[CustomResourceDefinition],
) -> Vec<Line> {
    const ID: &str = "crd";
    const UPGRADE: &str = "helm upgrade with crds.enabled=true (the default) brings it";
    let mut lines = Vec::new();
    for (name, definition) in found {
        let subject = format!("crd/{name}");
        let definition = match definition {
            Ok(Some(definition)) => definition,
            Ok(None) => {
                let message = "is missing: objects of this kind cannot be written, and the operator does not become ready";
                lines.push(Line::fail(ID, subject, message, UPGRADE));
                continue;
            }
            Err(unseen) => return vec![Line::unseen(ID, unseen)],
        };
        let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let established = conditions.clone().any(|one| one.type_ == "Established" && one.status == "True");
        let own = ours.iter().find(|one| one.metadata.name.as_ref() == Some(name));
        if !established {
            let why = conditions.filter(|one| one.status == "False").find_map(|one| one.message.as_deref());
            let message = format!("is not established: {}", why.unwrap_or("the API server has not said why"));
            lines.push(Line::fail(ID, subject, message, format!("kubectl describe crd {name}")));
        } else if own.is_some_and(|own| schemas(own) != schemas(definition)) {
            let message = format!(
                "is not that of version {}: fields may be missing, or dropped",
                env!("CARGO_PKG_VERSION")
            );
            lines.push(Line::warn(ID, subject, message, UPGRADE));
        }
    }
    if lines.is_empty() {
        let message = format!("{} CustomResourceDefinitions are served, as of this version", found.len());
        lines.push(Line::pass(ID, "", message));
    }
    lines
}

/// Each served version with its schema.
fn schemas(definition: &CustomResourceDefinition) -> Vec<(&str, Value)> {
    let schema = |schema| serde_json::to_value(schema).unwrap_or_default();
    definition.spec.versions.iter().map(|one| (one.name.as_str(), schema(&one.schema))).collect()
}

/// Whether a replica that lives holds the Lease.
pub fn lease(lease: &Seen<Option<Lease>>, pods: &Seen<Vec<Pod>>, namespace: &str, now: Timestamp) -> Line {
    const ID: &str = "lease";
    let subject = "lease/fairlead-operator";
    let logs = format!("kubectl -n {namespace} logs deployment/fairlead-operator --all-pods | grep lease");
    let effect = "no status is written and no certificate renewed";
    let (lease, pods) = match (lease, pods) {
        (Ok(lease), Ok(pods)) => (lease, pods),
        (Err(unseen), _) | (_, Err(unseen)) => return Line::unseen(ID, unseen),
    };
    let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
    let Some(holder) = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|it| !it.is_empty())
    else {
        return Line::fail(ID, subject, format!("nobody holds it: {effect}"), logs);
    };
    // The replica's name, with the mark of its process.
    let lives = pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).any(|pod| holder.starts_with(pod));
    if !lives {
        let message = format!("its holder {holder} is no running pod: until another takes it, {effect}");
        return Line::fail(ID, subject, message, format!("run it again in 20 s; then {logs}"));
    }
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| now.duration_since(time.0));
    if renewed.is_some_and(|age| age > LEASE_OLD) {
        let message =
            format!("{holder} has not renewed it for a minute, or this machine's clock is ahead: {effect}");
        return Line::warn(ID, subject, message, logs);
    }
    Line::pass(ID, subject, format!("{holder} holds it"))
}

/// How long the certificates are good. `replicas` are those that run, `pages`: what each replica says at `/metrics`.
pub fn certificates(
    replicas: &Seen<Vec<Pod>>,
    pages: &[(String, Seen<String>)],
    namespace: &str,
    now: Timestamp,
) -> Vec<Line> {
    const ID: &str = "certificate";
    if let Err(unseen) = replicas {
        return vec![Line::unseen(ID, unseen)];
    }
    let (mut lines, mut said) = (Vec::new(), Vec::new());
    for (pod, page) in pages {
        let page = match page {
            Ok(page) => page,
            Err(unseen) => return vec![Line::unseen(ID, unseen)],
        };
        for (name, certificate, few) in
            [("leaf", "the operator's certificate", LEAF_DAYS), ("root", "the newest root", ROOT_DAYS)]
        {
            let metric =
                format!("fairlead_operator_certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}}");
            let Some(end) = metric_value(page, &metric).and_then(|end| Timestamp::from_second(end).ok())
            else {
                continue;
            };
            let days = end.duration_since(now).as_hours() / 24;
            let subject = format!("pod/{pod}");
            let look = format!(
                "kubectl -n {namespace} logs {pod} | grep -i certificate; rotate now: docs/certificates.md"
            );
            if end <= now {
                let message =
                    format!("{certificate} has ended: no sidecar connects, and the webhook is refused");
                lines.push(Line::fail(ID, subject, message, look));
            } else if days < few {
                let message = format!("{certificate} ends in {days} days and should have been renewed");
                lines.push(Line::warn(ID, subject, message, look));
            } else {
                said.push((name, days));
            }
        }
    }
    if !lines.is_empty() {
        return lines;
    }
    let least = |name| said.iter().filter(|(one, _)| *one == name).map(|(_, days)| *days).min();
    let Some(leaf) = least("leaf") else {
        let action = format!("kubectl -n {namespace} logs deployment/fairlead-operator --all-pods");
        return vec![Line::warn(ID, "", "no replica says when its certificate ends", action)];
    };
    let root = least("root").map_or_else(String::new, |root| format!(", its root for {root}"));
    vec![Line::pass(ID, "", format!("the operator's certificate is good for {leaf} days{root}"))]
}

fn metric_value(page: &str, metric: &str) -> Option<i64> {
    page.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok())
}

/// Whether the API server can trust the webhook at all.
pub fn hook(hook: &Seen<Option<MutatingWebhookConfiguration>>, release: &str, namespace: &str) -> Line {
    const ID: &str = "ca-bundle";
    let subject = "mutatingwebhookconfiguration/fairlead-operator";
    match hook {
        Err(unseen) => Line::unseen(ID, unseen),
        Ok(None) => {
            let message = "is missing: no new pod gets a sidecar, and nothing says so";
            let action = format!("helm upgrade {release} charts/fairlead -n {namespace}");
            Line::fail(ID, subject, message, action)
        }
        Ok(Some(found)) if ca_bundle(found).is_none() => {
            let message = "has no caBundle, so the API server trusts no operator and refuses new pods; the holder of the Lease writes it within seconds";
            let action =
                format!("kubectl -n {namespace} logs deployment/fairlead-operator --all-pods | grep webhook");
            Line::fail(ID, subject, message, action)
        }
        Ok(Some(_)) => Line::pass(ID, subject, "has the operator's roots"),
    }
}

/// The roots by which the API server knows the webhook.
pub fn ca_bundle(hook: &MutatingWebhookConfiguration) -> Option<String> {
    let bundle = hook.webhooks.iter().flatten().find_map(|hook| hook.client_config.ca_bundle.as_ref())?;
    Some(String::from_utf8_lossy(&bundle.0).into_owned()).filter(|text| !text.trim().is_empty())
}

/// How a pod fared that was created without being kept.
#[derive(Debug, Clone)]
pub enum Trial {
    /// There is no namespace to try it in; why.
    Nowhere(String),
    /// It would have been made, with these init containers.
    Made(String, Vec<String>),
    /// It would not; why.
    Refused(String, String),
    /// Who runs this may not create pods.
    Unseen(Unseen),
}

/// Whether the webhook answers.
pub fn webhook(trial: &Trial, policy: Policy, release: &str, namespace: &str) -> Line {
    const ID: &str = "webhook";
    let look = format!(
        "kubectl -n {namespace} get pods,endpointslices; the API server must reach port 15017 of the operator's pods"
    );
    match trial {
        Trial::Nowhere(why) => Line::skip(ID, format!("not tried: {why}"), ""),
        Trial::Unseen(unseen) => Line::unseen(ID, unseen),
        Trial::Made(place, containers) if containers.iter().any(|name| name == "fairlead-proxy") => {
            Line::pass(ID, "", format!("a pod that was tried in {place} (dry run) gets its sidecar"))
        }
        Trial::Made(place, _) => {
            let (why, action) = match policy {
                Policy::Nothing => (
                    "there is no webhook configuration",
                    format!("helm upgrade {release} charts/fairlead -n {namespace}"),
                ),
                Policy::Ignore => ("the webhook could not be asked, and failurePolicy is Ignore", look),
                Policy::Fail => ("the webhook was not asked, or left it as it was", look),
            };
            let message = format!("a pod that was tried (dry run) gets no sidecar: {why}");
            Line::fail(ID, format!("namespace/{place}"), message, action)
        }
        Trial::Refused(place, why) if why.contains(WEBHOOK) => {
            let message = format!(
                "a pod that was tried (dry run) is refused, as every new pod of labelled namespaces: {why}"
            );
            Line::fail(ID, format!("namespace/{place}"), message, look)
        }
        Trial::Refused(place, why) => {
            let message = format!("the pod that was tried (dry run) is refused by something else: {why}");
            Line::warn(ID, format!("namespace/{place}"), message, "try another namespace: --only NAMESPACE")
        }
    }
}

#[cfg(test)]
mod tests;
