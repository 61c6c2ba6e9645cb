//! Identified clients: real sockets and TLS, a reviewer that is none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::admission::STREAMS_A_POD;
use super::*;
use crate::certificates::authority::{Authority, Bundle};
use crate::certificates::names;
use crate::certificates::rotation::{Step, Terms};
use crate::identity::review::{Reviewer, Unreachable};
use crate::model::fixture::{add_slice, shop};
use crate::model::{ObjectKey, Pod, compile};
use crate::tls::Serving;
use crate::tls::connect::Connector;
use crate::xds::snapshot::Snapshot;

/// Whatever is awaited comes long before.
const LONG: Duration = Duration::from_secs(30);
const OWN: &str = "inbound/127.0.0.1:9080";
const OTHER: &str = "inbound/10.244.1.1:9080";

/// Knows the tokens that the test gives out, and the pods that they are for.
#[derive(Debug, Default)]
struct Fake {
    pods: Mutex<HashMap<String, String>>,
    down: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Shared(Arc<Fake>);

impl Reviewer for Shared {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<TokenReviewStatus, Unreachable>> {
        Box::pin(async move {
            if self.0.down.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(Unreachable("connection refused".into()));
            }
            let Some(pod) = self.0.pods.lock().unwrap().get(token).cloned() else {
                return Ok(TokenReviewStatus::default());
            };
            let extra = [("pod-name", pod.clone()), ("pod-uid", format!("uid-of-{pod}"))];
            let extra =
                extra.map(|(name, value)| (format!("authentication.kubernetes.io/{name}"), vec![value]));
            let user = UserInfo {
                username: Some("system:serviceaccount:shop:default".to_owned()),
                extra: (!pod.is_empty()).then(|| BTreeMap::from(extra)),
                ..UserInfo::default()
            };
            Ok(TokenReviewStatus {
                authenticated: Some(true),
                audiences: Some(vec!["fairlead".to_owned()]),
                user: Some(user),
                error: None,
            })
        })
    }
}

struct Server {
    address: SocketAddr,
    bundle: Bundle,
    hub: Arc<Hub>,
    fake: Arc<Fake>,
    _end: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let mut authority = Authority::default();
        for step in [Step::AddRoot, Step::IssueLeaf] {
            let now = Timestamp::now();
            authority.take(step, &names("fairlead-system"), &Terms::new(LONG), now).unwrap();
        }
        let mut inputs = shop("");
        add_slice(&mut inputs, "reviews", "reviews-2", &["127.0.0.1"]);
        let hub = Arc::new(Hub::new(Arc::new(Snapshot::new(Arc::new(compile(&inputs).0), None))));
        let (fake, metrics) = (Arc::new(Fake::default()), Arc::new(Metrics::default()));
        let guard = Guard {
            tls: Serving::new(authority.certified_key().unwrap()).config(&["h2"]),
            identities: Arc::new(Identities::new(Box::new(Shared(fake.clone())), metrics.clone())),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ending) = watch::channel(false);
        let mut task = JoinSet::new();
        let serving = serve(listener, hub.clone(), metrics, Routes::default(), Some(guard), ending);
        task.spawn(async move { serving.await.unwrap() });
        Self { address, bundle: authority.bundle().unwrap(), hub, fake, _end: end, _task: task }
    }

    /// Gives out a token for a pod of the namespace shop.
    fn token(&self, pod: &str, expires: Timestamp) -> String {
        let payload = format!("{{\"exp\":{},\"pod\":\"{pod}\"}}", expires.as_second());
        let payload = serde_json::to_value(k8s_openapi::ByteString(payload.into_bytes())).unwrap();
        let token = format!("e30.{}.c2ln", payload.as_str().unwrap().trim_end_matches('='));
        self.fake.pods.lock().unwrap().insert(token.clone(), pod.to_owned());
        token
    }

    /// What is watched of a pod.
    fn pod(&self, name: &str, addresses: &[&str], change: impl FnOnce(&mut Pod)) {
        let mut pod = Pod {
            uid: Some(format!("uid-of-{name}").into()),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ..Pod::default()
        };
        change(&mut pod);
        self.hub.pod_changed(&ObjectKey::new("shop", name), Some(&Arc::new(pod)));
    }

    async fn channel(&self) -> Channel {
        let name = &names("fairlead-system")[0];
        let connect = Connector::new(self.address, name, self.bundle.as_str()).unwrap();
        Endpoint::from_static("http://fairlead").connect_with_connector(connect).await.unwrap()
    }

    async fn open(&self, token: Option<&str>) -> Result<Client, Status> {
        Client::open(self.channel().await, token).await
    }

    /// Why a client with this token and name is refused.
    async fn refused(&self, token: Option<&str>, node: &str) -> Status {
        match self.open(token).await {
            Err(status) => status,
            Ok(mut client) => {
                client.ask(node, &[OWN]).await;
                tokio::time::timeout(LONG, client.responses.message()).await.unwrap().unwrap_err()
            }
        }
    }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn open(channel: Channel, token: Option<&str>) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(stream));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(request).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn ask(&self, node: &str, listeners: &[&str]) {
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: node.to_owned(), ..Node::default() }),
            type_url: ResourceKind::Listener.type_url().to_owned(),
            resource_names_subscribe: listeners.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// What has come, and what was said not to be there; answered.
    async fn hear(&mut self) -> (Vec<String>, Vec<String>) {
        let response = tokio::time::timeout(LONG, self.responses.message()).await.unwrap().unwrap().unwrap();
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(answer).await.unwrap();
        (response.resources.into_iter().map(|it| it.name).collect(), response.removed_resources)
    }
}

fn hour() -> Timestamp {
    Timestamp::now() + jiff::SignedDuration::from_hours(1)
}

#[tokio::test]
async fn a_pod_gets_its_own_inbound_listener_and_no_other() {
    let server = Server::start().await;
    let token = server.token("reviews-1", hour());
    let mut client = server.open(Some(&token)).await.unwrap();
    client.ask("shop/reviews-1", &[OWN, OTHER, "10.96.0.1:9080"]).await;
    // Its addresses are not known yet: nothing that is a pod's own.
    let (has, removed) = client.hear().await;
    assert_eq!(has, ["10.96.0.1:9080"]);
    assert_eq!(removed, [OWN, OTHER]);
    server.pod("reviews-1", &["127.0.0.1", "fd00::1"], |_| {});
    assert_eq!(client.hear().await, (vec![OWN.to_owned()], vec![]));
    // It is over, and its address may be another's.
    server.pod("reviews-1", &[], |_| {});
    assert_eq!(client.hear().await, (vec![], vec![OWN.to_owned()]));
}

#[tokio::test]
async fn who_is_not_whom_he_says_is_refused() {
    let server = Server::start().await;
    let token = server.token("reviews-1", hour());
    let status = server.refused(None, "shop/reviews-1").await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("no token"), "{status}");
    let status = server.refused(Some("e30.e30.other"), "shop/reviews-1").await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    for other in ["shop/ratings-1", "bank/reviews-1", "reviews-1"] {
        let status = server.refused(Some(&token), other).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("that of the pod shop/reviews-1"), "{status}");
    }
    let no_pod = server.token("", hour());
    let status = server.refused(Some(&no_pod), "shop/reviews-1").await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("made for no pod"), "{status}");
    let expired = server.token("reviews-1", Timestamp::now() - jiff::SignedDuration::from_secs(1));
    let status = server.refused(Some(&expired), "shop/reviews-1").await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("expired"), "{status}");
}

#[tokio::test]
async fn a_token_is_good_from_its_own_pod_only() {
    let server = Server::start().await;
    let token = server.token("reviews-1", hour());
    server.pod("reviews-1", &["10.244.1.1"], |_| {});
    let status = server.refused(Some(&token), "shop/reviews-1").await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("does not have the address 127.0.0.1"), "{status}");
    server.pod("reviews-1", &["127.0.0.1"], |pod| pod.phase = Some("Failed".into()));
    let status = server.refused(Some(&token), "shop/reviews-1").await;
    assert!(status.message().contains("has ended"), "{status}");
    // A later pod of that name, and one on the node's network: nothing is known against them.
    server.pod("reviews-1", &["10.244.1.1"], |pod| pod.uid = Some("another".into()));
    server.open(Some(&token)).await.unwrap();
    server.pod("reviews-1", &["10.244.1.1"], |pod| pod.host_network = true);
    let client = server.open(Some(&token)).await.unwrap();
    client.ask("shop/reviews-1", &["10.96.0.1:9080"]).await;
    // As soon as it is known, also on a stream that is open.
    let mut client = server.open(Some(&token)).await.unwrap();
    client.ask("shop/reviews-1", &["10.96.0.1:9080"]).await;
    client.hear().await;
    server.pod("reviews-1", &["10.244.1.1"], |_| {});
    client.ask("shop/reviews-1", &["10.96.0.2:9080"]).await;
    let status = loop {
        match tokio::time::timeout(LONG, client.responses.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

#[tokio::test]
async fn without_the_api_server_new_streams_wait_and_old_ones_live() {
    let server = Server::start().await;
    let token = server.token("reviews-1", hour());
    let mut client = server.open(Some(&token)).await.unwrap();
    server.fake.down.store(true, std::sync::atomic::Ordering::SeqCst);
    let other = server.token("reviews-2", hour());
    let status = server.refused(Some(&other), "shop/reviews-2").await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("keep your config"), "{status}");
    client.ask("shop/reviews-1", &["10.96.0.1:9080"]).await;
    assert_eq!(client.hear().await.0, ["10.96.0.1:9080"]);
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let server = Server::start().await;
    let token = server.token("reviews-1", Timestamp::now() + jiff::SignedDuration::from_secs(3));
    let mut client = server.open(Some(&token)).await.unwrap();
    client.ask("shop/reviews-1", &["10.96.0.1:9080"]).await;
    client.hear().await;
    let status = tokio::time::timeout(LONG, client.responses.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("connect again"), "{status}");
}

#[tokio::test]
async fn a_pod_has_a_few_streams() {
    let server = Server::start().await;
    let token = server.token("reviews-1", hour());
    let channel = server.channel().await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_A_POD {
        open.push(Client::open(channel.clone(), Some(&token)).await.unwrap());
    }
    let status = Client::open(channel.clone(), Some(&token)).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    // One that ends makes room; another pod has its own.
    let other = server.token("reviews-2", hour());
    Client::open(channel.clone(), Some(&other)).await.unwrap();
    let mut last = open.pop().unwrap();
    drop(last.requests);
    while let Ok(Some(_)) = last.responses.message().await {}
    Client::open(channel, Some(&token)).await.unwrap();
}
