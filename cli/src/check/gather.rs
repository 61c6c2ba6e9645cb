//! What is asked of the cluster, side by side where one answer does not need another.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_crds::{OutlierDetection, RateLimitPolicy, ServiceRoute};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Config, Resource};
use serde_json::{Value, json};

use super::ask::{Asker, Seen, Why};
use super::before::{self, CREATED, Right};
use super::line::Line;
use super::namespaces;
use super::operator::Trial;
use super::pods::{self, Clients, Meshed};
use super::policies::Kind;
use crate::cli::Check;

/// The object of which there is one in a cluster: Deployment, Lease and webhook configuration.
const OPERATOR: &str = "fairlead-operator";
/// The operator's pods.
const REPLICAS: &str = "app.kubernetes.io/name=fairlead,app.kubernetes.io/component=operator";
/// The namespaces that somebody labelled, whatever the label says.
const LABELLED: &str = "fairlead.dev/inject";
/// The definitions that the chart installs.
const DEFINITIONS: [&str; 3] =
    ["serviceroutes.fairlead.dev", "outlierdetections.fairlead.dev", "ratelimitpolicies.fairlead.dev"];
/// Where the operator tells of its sidecars, on its loopback, and of itself.
const ADMIN: u16 = 15014;
const METRICS: u16 = 15015;
/// Questions at the same time, of those that are asked for each namespace.
const AT_ONCE: usize = 8;
/// Who is connecting, or answering, has done so after this time.
const AGAIN: Duration = Duration::from_secs(2);

/// A cluster that answers.
pub struct Cluster {
    asker: Asker,
    version: Line,
    /// Of the operator.
    pub namespace: String,
    /// Of Helm.
    pub release: String,
    /// The meshed namespaces to look at; empty: all.
    pub only: Vec<String>,
}

/// An operator is there, or might be.
pub struct Installed {
    /// Its Deployment.
    pub deployment: Seen<Deployment>,
}

/// All that is known after an install.
pub struct Facts {
    pub installed: Installed,
    pub nodes: Seen<Vec<Node>>,
    pub definitions: Vec<(String, Seen<Option<CustomResourceDefinition>>)>,
    pub hook: Seen<Option<MutatingWebhookConfiguration>>,
    pub lease: Seen<Option<Lease>>,
    /// The operator's pods.
    pub replicas: Seen<Vec<Pod>>,
    /// What each replica says at `/metrics`.
    pub metrics: Vec<(String, Seen<String>)>,
    pub trial: Trial,
    /// Those that are meshed.
    pub namespaces: Seen<Vec<Namespace>>,
    /// What is wrong with the labels of namespaces.
    pub labels: Vec<Line>,
    /// The roots in each of them.
    pub copies: BTreeMap<String, Seen<Option<String>>>,
    pub meshed: Meshed,
    pub clients: Clients,
    pub policies: Vec<Kind>,
}

/// The error alone: the words of its causes are in its own, and would be said again.
fn in_its_words(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

impl Installed {
    /// None: there is no operator.
    pub async fn find(cluster: &Cluster) -> Option<Self> {
        let deployment =
            cluster.asker.get_in::<Deployment>(&cluster.namespace, "deployments", OPERATOR).await;
        Some(Self { deployment: deployment.transpose()? })
    }
}

impl Cluster {
    /// Asks the API server for its version.
    pub async fn reach(command: &Check) -> Result<Self> {
        let config = match &command.context {
            None => Config::infer().await.map_err(in_its_words)?,
            Some(context) => {
                let options =
                    KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_kubeconfig(&options).await.map_err(in_its_words)?
            }
        };
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)?;
        let limit = Duration::from_secs(command.timeout);
        let version = tokio::time::timeout(limit, client.apiserver_version())
            .await
            .with_context(|| format!("{server}: no answer within {limit:?}"))?
            .with_context(|| server.clone())?;
        Ok(Self {
            asker: Asker { client, limit },
            version: before::version(&version.major, &version.minor, &version.git_version),
            namespace: command.namespace.clone(),
            release: command.release.clone(),
            only: command.only.clone(),
        })
    }

    /// What it says of its version.
    pub fn version_line(&self) -> Line {
        self.version.clone()
    }

    /// Who runs this: may they do what an install does?
    pub async fn rights(&self) -> Vec<Right> {
        let mut questions = Vec::new();
        for (group, plural, namespaced) in CREATED {
            for verb in ["get", "create", "patch"] {
                questions.push((verb, group, plural, namespaced));
            }
        }
        // GRANT.
        questions.push(("escalate", "rbac.authorization.k8s.io", "clusterroles", false));
        let rights = futures::stream::iter(questions).map(|question| self.right(question));
        rights.buffered(AT_ONCE).collect().await
    }

    async fn right(&self, (verb, group, plural, namespaced): (&str, &str, &str, bool)) -> Right {
        let dot = if group.is_empty() { "" } else { "." };
        let place = if namespaced { format!(" in {}", self.namespace) } else { String::new() };
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(plural.to_owned()),
            namespace: namespaced.then(|| self.namespace.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let reviews = Api::<SelfSubjectAccessReview>::all(self.asker.client.clone());
        let parameters = PostParams::default();
        let answer = self.asker.ask(
            "your rights",
            "create selfsubjectaccessreviews",
            reviews.create(&parameters, &review),
        );
        let held = answer.await.map(|review| review.status.is_some_and(|status| status.allowed));
        Right { name: format!("{verb} {plural}{dot}{group}{place}"), held }
    }

    /// All of them.
    pub async fn nodes(&self) -> Seen<Vec<Node>> {
        self.asker.list("nodes", "").await
    }

    /// Those of our kinds.
    pub async fn definitions(&self) -> Vec<(String, Seen<Option<CustomResourceDefinition>>)> {
        let each = DEFINITIONS.map(|name| async move {
            (name.to_owned(), self.asker.get("customresourcedefinitions", name).await)
        });
        futures::future::join_all(each).await
    }

    /// The webhook configuration.
    pub async fn hook(&self) -> Seen<Option<MutatingWebhookConfiguration>> {
        self.asker.get("mutatingwebhookconfigurations", OPERATOR).await
    }

    /// Those that are meshed, of those that are looked at; and what is wrong with labels.
    pub async fn namespaces(&self) -> (Seen<Vec<Namespace>>, Vec<Line>) {
        let found = self.labelled().await;
        let labels =
            found.iter().flat_map(|all| namespaces::labels(all, &self.only, &self.namespace)).collect();
        (found.map(|all| namespaces::meshed(all, &self.namespace)), labels)
    }

    /// Those with the label, or those that are looked at.
    async fn labelled(&self) -> Seen<Vec<Namespace>> {
        if self.only.is_empty() {
            return self.asker.list("namespaces", LABELLED).await;
        }
        let each = self.only.iter().map(|name| self.asker.get::<Namespace>("namespaces", name));
        let found: Seen<Vec<_>> = futures::future::join_all(each).await.into_iter().collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// Everything that an install can be judged by.
    pub async fn see(&self, installed: Installed) -> Facts {
        let (nodes, definitions, hook, lease, replicas, (namespaces, labels), policies) = tokio::join!(
            self.nodes(),
            self.definitions(),
            self.hook(),
            self.asker.get_in(&self.namespace, "leases", OPERATOR),
            self.asker.list_in::<Pod>(&self.namespace, "pods", REPLICAS),
            self.namespaces(),
            self.policies()
        );
        let replicas = replicas.map(|pods| pods.into_iter().filter(is_running).collect::<Vec<Pod>>());
        let names: Vec<String> = match &replicas {
            Ok(pods) => pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect(),
            Err(_) => Vec::new(),
        };
        let places: &[Namespace] = namespaces.as_deref().unwrap_or_default();
        let (metrics, copies, meshed, trial, clients) = tokio::join!(
            self.metrics(&names),
            self.copies(places),
            self.meshed(places),
            self.trial(&namespaces),
            self.clients(&names, &replicas)
        );
        let clients = if pods::is_settled(&meshed, &clients, Timestamp::now()) {
            clients
        } else {
            tokio::time::sleep(AGAIN).await;
            self.clients(&names, &replicas).await
        };
        Facts {
            installed,
            nodes,
            definitions,
            hook,
            lease,
            replicas,
            metrics,
            trial,
            namespaces,
            labels,
            copies,
            meshed,
            clients,
            policies,
        }
    }

    async fn metrics(&self, replicas: &[String]) -> Vec<(String, Seen<String>)> {
        let each = replicas.iter().map(|pod| async move {
            (pod.clone(), self.asker.page(&self.namespace, pod, METRICS, "/metrics").await)
        });
        futures::future::join_all(each).await
    }

    /// What all replicas say of the sidecars.
    async fn clients(&self, names: &[String], replicas: &Seen<Vec<Pod>>) -> Clients {
        let mut clients = Clients::default();
        clients.unseen.extend(replicas.as_ref().err().cloned());
        clients.nobody = names.is_empty() && replicas.is_ok();
        let pages =
            names.iter().map(|pod| self.asker.page(&self.namespace, pod, ADMIN, "/clients?brief=true"));
        for (pod, page) in names.iter().zip(futures::future::join_all(pages).await) {
            let page = page.map(|page| serde_json::from_str::<Value>(&page));
            match page {
                Ok(Ok(page)) => clients.take(&page),
                Ok(Err(error)) => clients.unseen.push(super::ask::Unseen {
                    what: format!("the sidecars of pod {}/{pod}", self.namespace),
                    needs: String::new(),
                    why: Why::Other(format!("/clients is no JSON: {error}")),
                }),
                Err(unseen) => clients.unseen.push(unseen),
            }
        }
        clients
    }

    /// The roots in each meshed namespace.
    async fn copies(&self, places: &[Namespace]) -> BTreeMap<String, Seen<Option<String>>> {
        let each = futures::stream::iter(places.iter().map(namespaces::name)).map(|name| async move {
            let copy = self.asker.get_in::<ConfigMap>(name, "configmaps", "fairlead-ca").await;
            let text =
                |copy: ConfigMap| copy.data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
            (name.to_owned(), copy.map(|copy| copy.map(text)))
        });
        each.buffer_unordered(AT_ONCE).collect().await
    }

    async fn meshed(&self, places: &[Namespace]) -> Meshed {
        let each = futures::stream::iter(places.iter().map(namespaces::name))
            .map(|name| async move { (name.to_owned(), self.asker.list_in::<Pod>(name, "pods", "").await) });
        each.buffer_unordered(AT_ONCE).collect().await
    }

    /// Creates a pod without keeping it: admission runs, the webhook among it, and nothing is stored.
    async fn trial(&self, places: &Seen<Vec<Namespace>>) -> Trial {
        let places = match places {
            Ok(places) => places,
            Err(unseen) => return Trial::Unseen(unseen.clone()),
        };
        let Some(place) =
            places.iter().find(|place| namespaces::allows_redirection(place)).map(namespaces::name)
        else {
            let refused = "Pod Security refuses sidecars in every labelled namespace";
            let why = if places.is_empty() { namespaces::none(&self.only) } else { refused.to_owned() };
            return Trial::Nowhere(why);
        };
        let pod = match serde_json::from_value::<Pod>(trial_pod()) {
            Ok(pod) => pod,
            Err(error) => return Trial::Nowhere(error.to_string()),
        };
        let pods = Api::<Pod>::namespaced(self.asker.client.clone(), place);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let question = async {
            match pods.create(&dry, &pod).await {
                // RBAC's own words; what admission forbids is the answer that we want.
                Err(kube::Error::Api(status)) if status.message.contains("cannot create resource") => {
                    Err(kube::Error::Api(status))
                }
                Err(kube::Error::Api(status)) => Ok(Err(status.message)),
                answer => answer.map(Ok),
            }
        };
        let needs = format!("create pods in namespace {place}");
        match self.asker.ask("whether the webhook answers", needs, question).await {
            Ok(Ok(pod)) => {
                let containers =
                    pod.spec.into_iter().flat_map(|spec| spec.init_containers.unwrap_or_default());
                Trial::Made(place.to_owned(), containers.map(|container| container.name).collect())
            }
            Ok(Err(why)) => Trial::Refused(place.to_owned(), why),
            Err(unseen) => Trial::Unseen(unseen),
        }
    }

    async fn policies(&self) -> Vec<Kind> {
        let (routes, outliers, limits) = tokio::join!(
            self.objects::<ServiceRoute>("serviceroutes"),
            self.objects::<OutlierDetection>("outlierdetections"),
            self.objects::<RateLimitPolicy>("ratelimitpolicies")
        );
        vec![
            Kind { singular: "serviceroute", many: "ServiceRoutes", objects: routes },
            Kind { singular: "outlierdetection", many: "OutlierDetections", objects: outliers },
            Kind { singular: "ratelimitpolicy", many: "RateLimitPolicies", objects: limits },
        ]
    }

    /// Read as JSON: one that another version wrote must not hide the others.
    async fn objects<K: Resource<DynamicType = ()>>(&self, plural: &str) -> Seen<Vec<DynamicObject>> {
        let kind = ApiResource::erase::<K>(&());
        let client = || self.asker.client.clone();
        let all = ListParams::default();
        if self.only.is_empty() {
            let objects = Api::<DynamicObject>::all_with(client(), &kind);
            return Ok(self.asker.ask(plural, format!("list {plural}"), objects.list(&all)).await?.items);
        }
        let mut found = Vec::new();
        for namespace in &self.only {
            let objects = Api::<DynamicObject>::namespaced_with(client(), namespace, &kind);
            let needs = format!("list {plural} in namespace {namespace}");
            found.extend(
                self.asker
                    .ask(format!("the {plural} of {namespace}"), needs, objects.list(&all))
                    .await?
                    .items,
            );
        }
        Ok(found)
    }
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

/// A pod that every Pod Security level and most quotas let pass.
fn trial_pod() -> Value {
    let amounts = json!({ "cpu": "1m", "memory": "1Mi" });
    json!({
        "metadata": { "generateName": "fairlead-check-" },
        "spec": {
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "check",
                "image": "localhost/fairlead-check:never-run",
                "resources": { "requests": amounts, "limits": amounts },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
}
