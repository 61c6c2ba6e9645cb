//! An xDS server that is not ours: incremental ADS with whatever resources a test gives it, good or rubbish.
//!
//! It answers what is subscribed to, says what it does not have, tells every stream of what changes, and
//! keeps what clients answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// A running server; dropped, it ends.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

/// What a client refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// `type.googleapis.com/...Cluster`.
    pub type_url: String,
    /// Its `error_detail`.
    pub message: String,
}

#[derive(Debug)]
struct State {
    resources: Mutex<BTreeMap<Key, Resource>>,
    nacks: Mutex<Vec<Nack>>,
    acks: Mutex<usize>,
    news: broadcast::Sender<News>,
}

/// Type URL and name.
type Key = (String, String);

#[derive(Debug, Clone)]
enum News {
    Changed(Key),
    Raw(DeltaDiscoveryResponse),
}

impl Server {
    /// Listens on loopback, without resources.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            resources: Mutex::default(),
            nacks: Mutex::default(),
            acks: Mutex::default(),
            news: broadcast::channel(256).0,
        });
        let service = AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&state)));
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self { address, state, serving }
    }

    /// Has this resource from now on, and tells who asked for it.
    pub fn set<M: Message + Name>(&self, name: &str, message: M) {
        let any = pack_any(message);
        self.set_any(&any.type_url.clone(), name, any);
    }

    /// The same with any bytes, under the wrapper's type.
    pub fn set_any(&self, type_url: &str, name: &str, any: Any) {
        let key = (type_url.to_owned(), name.to_owned());
        let mut resources = self.state.resources.lock().unwrap();
        let version = resources.get(&key).map_or(0, |old| old.version.parse::<u64>().unwrap()) + 1;
        let resource = Resource {
            name: name.to_owned(),
            version: version.to_string(),
            resource: Some(any),
            ..Default::default()
        };
        resources.insert(key.clone(), resource);
        drop(resources);
        let _ = self.state.news.send(News::Changed(key));
    }

    /// Has this resource no more.
    pub fn remove<M: Name>(&self, name: &str) {
        let key = (M::type_url(), name.to_owned());
        self.state.resources.lock().unwrap().remove(&key);
        let _ = self.state.news.send(News::Changed(key));
    }

    /// Sends this to every client as it stands.
    pub fn send(&self, response: DeltaDiscoveryResponse) {
        let _ = self.state.news.send(News::Raw(response));
    }

    /// What clients refused so far.
    pub fn nacks(&self) -> Vec<Nack> {
        self.state.nacks.lock().unwrap().clone()
    }

    /// How many responses clients took so far.
    pub fn acks(&self) -> usize {
        *self.state.acks.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One client.
struct Stream {
    state: Arc<State>,
    subscribed: BTreeSet<Key>,
    out: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    nonce: u64,
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let mut news = self.state.news.subscribe();
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.request(request).await,
                    Some(Err(_)) | None => return,
                },
                news = news.recv() => match news.unwrap() {
                    News::Changed(key) if self.subscribed.contains(&key) => self.answer(&key.0, [key.clone()]).await,
                    News::Changed(_) => {}
                    News::Raw(response) => self.send(response).await,
                },
            }
        }
    }

    async fn request(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(error) = request.error_detail {
            let nack = Nack { type_url: request.type_url.clone(), message: error.message };
            self.state.nacks.lock().unwrap().push(nack);
        } else if !request.response_nonce.is_empty() {
            *self.state.acks.lock().unwrap() += 1;
        }
        let key = |name: String| (request.type_url.clone(), name);
        for name in request.resource_names_unsubscribe {
            self.subscribed.remove(&key(name));
        }
        let asked: Vec<_> = request.resource_names_subscribe.into_iter().map(key).collect();
        self.subscribed.extend(asked.iter().cloned());
        if !asked.is_empty() {
            self.answer(&request.type_url, asked).await;
        }
    }

    async fn answer(&mut self, type_url: &str, keys: impl IntoIterator<Item = Key>) {
        let mut response = DeltaDiscoveryResponse { type_url: type_url.to_owned(), ..Default::default() };
        for key in keys {
            match self.state.resources.lock().unwrap().get(&key) {
                Some(resource) => response.resources.push(resource.clone()),
                None => response.removed_resources.push(key.1),
            }
        }
        self.send(response).await;
    }

    async fn send(&mut self, mut response: DeltaDiscoveryResponse) {
        self.nonce += 1;
        response.nonce = self.nonce.to_string();
        let _ = self.out.send(Ok(response)).await;
    }
}

/// What tonic calls.
struct Service(Arc<State>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the incremental protocol"))
    }

    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (out, answers) = mpsc::channel(16);
        let state = Arc::clone(&self.0);
        let stream = Stream { state, subscribed: BTreeSet::new(), out, nonce: 0 };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(answers).boxed()))
    }
}
