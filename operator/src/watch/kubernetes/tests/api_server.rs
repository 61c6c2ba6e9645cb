//! As much of an API server as a watch needs.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

#[derive(Default)]
struct Shared {
    /// Plural to name to object.
    objects: Mutex<BTreeMap<String, BTreeMap<String, Value>>>,
    held: Mutex<HashSet<String>>,
    released: Notify,
    /// What lists and watches of a plural answer with, if not 200.
    failing: Mutex<BTreeMap<String, u16>>,
    watches: Mutex<BTreeMap<String, mpsc::UnboundedSender<Value>>>,
    watching: Notify,
}

/// The server; it ends with the test.
pub(super) struct ApiServer {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
}

impl ApiServer {
    pub(super) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        // Most clusters do not have this kind.
        shared.failing.lock().unwrap().insert("referencegrants".to_owned(), 404);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Router::new().fallback(answer).with_state(shared.clone());
        #[allow(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(async move { axum::serve(listener, pages).await });
        Self { address, shared }
    }

    pub(super) fn client(&self) -> kube::Client {
        let config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        kube::Client::try_from(config).unwrap()
    }

    pub(super) fn put(&self, plural: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.shared.objects.lock().unwrap().entry(plural.to_owned()).or_default().insert(name, object);
    }

    pub(super) fn remove(&self, plural: &str, name: &str) {
        self.shared.objects.lock().unwrap().get_mut(plural).unwrap().remove(name);
    }

    /// Lists of this plural wait.
    pub(super) fn hold(&self, plural: &str) {
        self.shared.held.lock().unwrap().insert(plural.to_owned());
    }

    pub(super) fn release(&self, plural: &str) {
        self.shared.held.lock().unwrap().remove(plural);
        self.shared.released.notify_waiters();
    }

    /// Lists and watches of this plural, or of a version of it, answer so; 200: as they should.
    pub(super) fn fail(&self, plural: &str, status: u16) {
        self.shared.failing.lock().unwrap().insert(plural.to_owned(), status);
    }

    /// Tells the watch of this plural.
    pub(super) async fn event(&self, plural: &str, kind: &str, object: Value) {
        loop {
            let heard = self.shared.watching.notified();
            if let Some(watch) = self.shared.watches.lock().unwrap().get(plural) {
                watch.send(json!({"type": kind, "object": object})).unwrap();
                return;
            }
            heard.await;
        }
    }

    /// Ends the watch of this plural: its resource version is too old.
    pub(super) async fn expire(&self, plural: &str) {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                          "message": "too old resource version", "reason": "Expired", "code": 410});
        self.event(plural, "ERROR", gone).await;
        self.shared.watches.lock().unwrap().remove(plural);
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let plural = uri.path().rsplit('/').next().unwrap().to_owned();
    let versioned = uri.path().rsplitn(3, '/').take(2).collect::<Vec<_>>().join("/");
    let versioned = versioned.split_once('/').map(|(plural, version)| format!("{version}/{plural}")).unwrap();
    let failing = {
        let failing = shared.failing.lock().unwrap();
        failing.get(&versioned).or_else(|| failing.get(&plural)).copied().unwrap_or(200)
    };
    if failing != 200 {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "message": "made to fail", "reason": "NotFound", "code": failing});
        return (StatusCode::from_u16(failing).unwrap(), Json(status)).into_response();
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        let (tell, events) = mpsc::unbounded_channel();
        shared.watches.lock().unwrap().insert(plural, tell);
        shared.watching.notify_waiters();
        let lines = UnboundedReceiverStream::new(events)
            .map(|event| Ok::<_, std::convert::Infallible>(Bytes::from(format!("{event}\n"))));
        return Body::from_stream(lines).into_response();
    }
    loop {
        let released = shared.released.notified();
        if !shared.held.lock().unwrap().contains(&plural) {
            break;
        }
        released.await;
    }
    let items: Vec<Value> = shared
        .objects
        .lock()
        .unwrap()
        .get(&plural)
        .into_iter()
        .flat_map(|all| all.values().cloned())
        .collect();
    Json(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": items}))
        .into_response()
}
