//! Questions to the cluster: each has a time limit, and one that is not answered says what it was about and
//! which right it needs.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::client::UpgradeConnectionError;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

/// 10,000 sidecars on one page fit many times.
const MAX_PAGE: usize = 64 * 1024 * 1024;

/// What was asked for, or why it is not known.
pub type Seen<T> = Result<T, Unseen>;

/// Something that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// What: `nodes`, `the pods of shop`.
    pub what: String,
    /// The right that it takes: `list nodes`.
    pub needs: String,
    /// Why it is not known.
    pub why: Why,
}

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Who runs this lacks the right.
    Forbidden,
    /// No answer came in this time.
    Late(Duration),
    /// Anything else.
    Other(String),
}

/// The API server, and how long it may take.
#[derive(Clone)]
pub struct Asker {
    /// The API server.
    pub client: Client,
    /// For each question.
    pub limit: Duration,
}

impl Asker {
    /// Asks once.
    pub async fn ask<T>(
        &self,
        what: impl Into<String>,
        needs: impl Into<String>,
        question: impl Future<Output = kube::Result<T>>,
    ) -> Seen<T> {
        let why = match tokio::time::timeout(self.limit, question).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Why::Forbidden,
            Ok(Err(kube::Error::Api(status))) => Why::Other(status.message),
            Ok(Err(error)) => Why::Other(error.to_string()),
            Err(_) => Why::Late(self.limit),
        };
        Err(Unseen { what: what.into(), needs: needs.into(), why })
    }

    /// All objects of a kind with this label; empty: all.
    pub async fn list<K>(&self, plural: &str, labels: &str) -> Seen<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let objects = Api::<K>::all(self.client.clone());
        let chosen = ListParams::default().labels(labels);
        let list = self.ask(plural, format!("list {plural}"), objects.list(&chosen)).await?;
        Ok(list.items)
    }

    /// All objects of a kind with this label in a namespace.
    pub async fn list_in<K>(&self, namespace: &str, plural: &str, labels: &str) -> Seen<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let objects = Api::<K>::namespaced(self.client.clone(), namespace);
        let chosen = ListParams::default().labels(labels);
        let (what, needs) =
            (format!("the {plural} of {namespace}"), format!("list {plural} in namespace {namespace}"));
        Ok(self.ask(what, needs, objects.list(&chosen)).await?.items)
    }

    /// One object of no namespace; `None`: there is no such one.
    pub async fn get<K>(&self, plural: &str, name: &str) -> Seen<Option<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let objects = Api::<K>::all(self.client.clone());
        self.ask(format!("{plural}/{name}"), format!("get {plural}"), objects.get_opt(name)).await
    }

    /// One object of a namespace; `None`: there is no such one.
    pub async fn get_in<K>(&self, namespace: &str, plural: &str, name: &str) -> Seen<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let objects = Api::<K>::namespaced(self.client.clone(), namespace);
        let (what, needs) =
            (format!("{namespace}/{plural}/{name}"), format!("get {plural} in namespace {namespace}"));
        self.ask(what, needs, objects.get_opt(name)).await
    }

    /// What a program in a pod answers at a port, its loopback included. The way is that of `kubectl
    /// port-forward`, through the kubelet: open also where no packet gets from the API server to pods, and where
    /// a NetworkPolicy is in force.
    pub async fn page(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Seen<String> {
        let what = format!("port {port} of pod {namespace}/{pod}");
        let unseen = |why| Unseen {
            what: what.clone(),
            needs: format!("get and create pods/portforward in namespace {namespace}"),
            why,
        };
        match tokio::time::timeout(self.limit, self.read(namespace, pod, port, path)).await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(error)) if is_forbidden(&error) => Err(unseen(Why::Forbidden)),
            Ok(Err(error)) => Err(unseen(Why::Other(format!("{error:#}")))),
            Err(_) => Err(unseen(Why::Late(self.limit))),
        }
    }

    async fn read(&self, namespace: &str, pod: &str, port: u16, path: &str) -> anyhow::Result<String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let mut forwarder = pods.portforward(pod, &[port]).await?;
        let stream = forwarder.take_stream(port).context("the port was not forwarded")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = http::Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
        let exchange = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body =
                Limited::new(answer.into_body(), MAX_PAGE).collect().await.map_err(|e| anyhow!("{e}"))?;
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            if !status.is_success() {
                bail!("{status}: {}", text.trim());
            }
            Ok(text)
        };
        // The connection ends by itself once the exchange is over.
        let (page, _) = tokio::join!(exchange, connection);
        forwarder.abort();
        page
    }
}

/// A WebSocket begins with GET: older API servers take that for the verb, newer ones want `create` too.
fn is_forbidden(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status))) => {
            *status == 403
        }
        Some(kube::Error::Api(status)) => status.is_forbidden(),
        _ => false,
    }
}
