//! Pages for people and tools: `/objects`, `/clients`, `/snapshot` on loopback, and beside them, for
//! the cluster, `/healthz`, `/readyz` and `/metrics`.

mod browser;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::leader::Role;
use crate::metrics::Metrics;
use crate::publish::Published;
use crate::status::Board;
use crate::watch::Fault;
use crate::xds::hub::Hub;
use crate::xds::registry::{Answer, Registry, Stream, StreamId};
use crate::xds::snapshot::{ResourceKind, ResourceName, Snapshot};

/// What the pages show. Before the source was read there is nothing to show.
#[derive(Debug, Clone)]
pub struct Sight {
    /// What is served.
    pub hub: Arc<Hub>,
    /// What it was compiled from.
    pub published: watch::Receiver<Published>,
    /// What became of it.
    pub board: Arc<Board>,
    /// The name of this replica.
    pub replica: Arc<str>,
    /// Whether the board counts the clients of all replicas.
    pub role: watch::Receiver<Role>,
}

/// How far the start is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// All is served, and the API server cannot verify the webhook yet.
    Untrusted,
    /// The source is being read for the first time; what stands in the way.
    Reading(Vec<Fault>),
    /// xDS is being served.
    Ready,
    /// The process is ending.
    Stopping,
}

/// Serves the admin page until `shutdown`.
pub async fn serve_admin(
    listener: TcpListener,
    sight: watch::Receiver<Option<Sight>>,
    shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let pages = Router::new()
        .route(
            "/",
            get(|| async {
                "/objects\n/clients\n/clients?brief=true\n/snapshot\n/snapshot?name=shop/reviews:9080\n"
            }),
        )
        .route("/objects", get(objects))
        .route("/clients", get(clients))
        .route("/snapshot", get(snapshot))
        .layer(middleware::from_fn(browser::refuse))
        .with_state(sight);
    serve(listener, pages, shutdown).await
}

/// Serves metrics and readiness until `shutdown`.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
    shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let pages = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { ready(&readiness.borrow()) }))
        .route("/metrics", get(move || async move { text(metrics.text()) }));
    serve(listener, pages, shutdown).await
}

async fn serve(
    listener: TcpListener,
    pages: Router,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    axum::serve(listener, pages)
        .with_graceful_shutdown(async move {
            // An error means that the sender is gone, and the process with it.
            let _ = shutdown.wait_for(|stop| *stop).await;
        })
        .await
}

fn ready(readiness: &Readiness) -> Response {
    match readiness {
        Readiness::Ready => "ready\n".into_response(),
        Readiness::Reading(faults) => {
            let faults: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            let why = format!("the source has not been read once\n{faults}");
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
        Readiness::Untrusted => {
            let why = "the webhook configuration does not carry our roots yet\n";
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
        Readiness::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}

fn text(metrics: String) -> Response {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics)
        .into_response()
}

/// JSON in lines, for it is read in terminals.
fn page(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}

type Seen = State<watch::Receiver<Option<Sight>>>;

/// Whom to ask while there is nothing to show.
fn not_yet() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the source has not been read once; ask again\n").into_response()
}

/// A `v1` List of our objects with their status; `faults` beside it says what in the source is no
/// object that can be used, and `replica` whose clients are counted.
async fn objects(State(sight): Seen) -> Response {
    let Some(sight) = sight.borrow().clone() else { return not_yet() };
    let published = sight.published.borrow().clone();
    let statuses = sight.board.shown().statuses;
    let items: Vec<Value> = published
        .declared
        .iter()
        .map(|(object, declared)| {
            let mut item = Value::clone(&declared.written);
            if let (Some(fields), Some(status)) = (item.as_object_mut(), statuses.get(object)) {
                fields.insert("status".to_owned(), json!(status));
            }
            item
        })
        .collect();
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {},
        "items": items,
        "faults": &*published.faults,
        "replica": describe(&sight.replica, &sight.role.borrow()),
    });
    page(&list)
}

/// Whose page it is, and what its statuses count.
fn describe(replica: &str, role: &Role) -> Value {
    match role {
        Role::Holder => json!({ "name": replica, "role": "holder", "counts": "the clients of all replicas" }),
        Role::Follower(holder) => json!({
            "name": replica,
            "role": "follower",
            "counts": "the clients of this replica; the holder of the lease counts all",
            "holder": holder.as_ref().map(|holder| &*holder.identity),
            "holderAddress": holder.as_ref().and_then(|holder| holder.address).map(|address| address.to_string()),
        }),
    }
}

/// How much to say of each client.
#[derive(Debug, Deserialize)]
struct HowMuch {
    /// Leave the resources out: of ten thousand clients only the numbers are read.
    #[serde(default)]
    brief: bool,
}

/// Every stream: who, from where, what it wants, and what it said.
async fn clients(State(sight): Seen, Query(how): Query<HowMuch>) -> Response {
    let Some(sight) = sight.borrow().clone() else { return not_yet() };
    let streams: Vec<Seat> = {
        // Streams wait for the registry, so nothing is made of it here.
        let registry = sight.hub.registry();
        registry.streams().map(|(id, stream)| Seat::of(&registry, id, stream)).collect()
    };
    let snapshot = sight.hub.snapshot();
    let clients: Vec<Value> = streams.iter().map(|seat| seat.describe(&snapshot, how.brief)).collect();
    let list = json!({ "clients": clients });
    // What is brief is for programs, and long where there are many.
    if how.brief { Json(list).into_response() } else { page(&list) }
}

/// A stream with what it wants, as it is now.
struct Seat {
    id: StreamId,
    stream: Stream,
    answers: Vec<(ResourceName, Answer)>,
    wildcards: Vec<ResourceKind>,
}

impl Seat {
    fn of(registry: &Registry, id: StreamId, stream: &Stream) -> Self {
        let answers = registry.answers(id).map(|(name, answer)| (name.clone(), answer.clone())).collect();
        Self { id, stream: stream.clone(), answers, wildcards: registry.wildcards(id).collect() }
    }

    fn describe(&self, snapshot: &Snapshot, brief: bool) -> Value {
        let (mut acked, mut nacked, mut pending) = (0, 0, 0);
        let mut resources = Vec::new();
        for ((kind, name), answer) in &self.answers {
            let current = snapshot.get(*kind, name).map(|resource| resource.version.clone());
            let state = state(answer, current.as_ref());
            match state {
                "acked" => acked += 1,
                "nacked" => nacked += 1,
                _ => pending += 1,
            }
            if brief {
                continue;
            }
            let mut resource = json!({
                "type": format!("{kind:?}"),
                "name": &**name,
                "state": state,
                "version": current.as_deref(),
                "acked": answer.acked.as_ref().and_then(|version| version.as_deref()),
            });
            let nacked = answer.nacked.as_deref();
            if let (Some((version, message)), Some(fields)) = (nacked, resource.as_object_mut()) {
                let nacked = json!({ "version": version.as_deref(), "message": &**message });
                fields.insert("nacked".to_owned(), nacked);
            }
            resources.push(resource);
        }
        let mut client = json!({
            "client": &*self.stream.node,
            "stream": self.id,
            "number": self.stream.number,
            "address": self.stream.peer.map(|peer| peer.to_string()),
            "protocol": self.stream.protocol.as_str(),
            "connected": self.stream.lost.is_none(),
            "startedWithoutConfig": self.stream.started_without_config,
            "wildcard": self.wildcards.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>(),
            "subscribed": self.answers.len(),
            "acked": acked,
            "nacked": nacked,
            "pending": pending,
        });
        if let (false, Some(fields)) = (brief, client.as_object_mut()) {
            fields.insert("resources".to_owned(), Value::from(resources));
        }
        client
    }
}

fn state(answer: &Answer, current: Option<&Arc<str>>) -> &'static str {
    match (answer.nacked.as_deref(), &answer.acked) {
        (Some((version, _)), _) if version.as_ref() == current => "nacked",
        (_, Some(version)) if version.as_ref() == current => "acked",
        _ => "pending",
    }
}

/// What to show of the snapshot.
#[derive(Debug, Deserialize)]
struct What {
    name: Option<String>,
}

/// Names and versions by type of what a wildcard subscription gets; or, by name, the resources
/// themselves.
async fn snapshot(State(sight): Seen, Query(what): Query<What>) -> Response {
    let Some(sight) = sight.borrow().clone() else { return not_yet() };
    let snapshot = sight.hub.snapshot();
    let Some(name) = what.name else {
        let kinds = ResourceKind::ALL.into_iter().map(|kind| {
            let versions: BTreeMap<String, String> =
                snapshot.wildcard(kind).map(|it| (it.name.to_string(), it.version.to_string())).collect();
            (format!("{kind:?}"), versions)
        });
        return page(&json!(kinds.collect::<BTreeMap<_, _>>()));
    };
    let found: Vec<Value> = ResourceKind::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, snapshot.get(kind, &name)?)))
        .map(|(kind, resource)| {
            json!({
                "type": kind.type_url(),
                "name": &*resource.name,
                "version": &*resource.version,
                "resource": crate::xds::wire::describe(kind, &resource),
            })
        })
        .collect();
    if found.is_empty() {
        let message = format!(
            "no resource is called {name:?}; names are like shop/reviews:9080, 10.96.3.7:9080 or inbound/10.244.1.5:9080\n"
        );
        return (StatusCode::NOT_FOUND, message).into_response();
    }
    page(&json!(found))
}
