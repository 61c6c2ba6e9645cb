//! Certificates and identity with a real API server: tokens of real pods, ConfigMaps that come and go, two
//! rotations.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use fairlead_operator::tls::connect::Connector;
use fairlead_tests::cluster::{Cluster, kubectl, load_test_server, node_address};
use fairlead_tests::operator::Operator;
use fairlead_tests::until::{LIMIT, holds};
use tokio::sync::{MutexGuard, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

const CONFIG_MAP: &str = "configmap/fairlead-ca";
const SECRET: &str = "secret/fairlead-operator-tls";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

struct Fixture {
    cluster: Cluster,
    /// Labelled, and without pods.
    meshed: Cluster,
    operator: Operator,
    /// Two operators would distribute different roots.
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    async fn start() -> Self {
        let (cluster, meshed) = (Cluster::new(), Cluster::new());
        label(&meshed, "fairlead.dev/inject=enabled");
        let turn = cluster.turn().await;
        let flags = [
            ["--identity", "token"],
            ["--namespace", &cluster.namespace],
            ["--trust-delay", "2s"],
            ["--webhook-listen", "127.0.0.1:0"],
            ["--proxy-image", "localhost/no-pod-is-injected:1"],
        ]
        .concat();
        let listen = [SocketAddr::new(node_address(), 0), any(), any()];
        let operator = Operator::start_with(None, listen, &flags, &cluster.logs).await;
        meshed.wait(CONFIG_MAP, "create");
        Self { cluster, meshed, operator, _turn: turn }
    }

    /// The roots that a sidecar of the labelled namespace would have.
    fn roots(&self) -> String {
        field(&self.meshed, CONFIG_MAP, "{.data.ca\\.crt}")
    }

    /// A token of a pod, made by the API server.
    fn token(&self, more: &[&str]) -> String {
        let arguments = [&["create", "token", "default", "--duration=10m"], more].concat();
        self.cluster.kubectl(&arguments, "").unwrap_or_else(|error| panic!("{error}")).trim().to_owned()
    }

    fn token_of(&self, pod: &str) -> String {
        let uid = field(&self.cluster, &format!("pod/{pod}"), "{.metadata.uid}");
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", pod, "--bound-object-uid", &uid];
        self.token(&[&["--audience=fairlead"], &bound[..]].concat())
    }

    /// Asks for a listener as this pod: what is answered, and the stream.
    async fn ask(&self, token: Option<&str>, pod: &str) -> Result<Asked, Status> {
        let name = format!("fairlead-operator.{}.svc", self.cluster.namespace);
        let connector = Connector::new(self.operator.xds, &name, &self.roots()).unwrap();
        let channel = Endpoint::from_static("http://fairlead").connect_with_connector(connector).await;
        let channel = channel.map_err(|error| Status::unknown(format!("{error:?}")))?;
        let (send, requests) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(requests));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let first = DeltaDiscoveryRequest {
            node: Some(Node { id: format!("{}/{pod}", self.cluster.namespace), ..Node::default() }),
            type_url: LISTENER.to_owned(),
            resource_names_subscribe: vec!["192.0.2.1:80".to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        send.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
        let answer = tokio::time::timeout(LIMIT, responses.message()).await.expect("an answer")?;
        let answer: DeltaDiscoveryResponse = answer.expect("a response");
        assert_eq!(answer.removed_resources, ["192.0.2.1:80"]);
        Ok(Asked { _send: send, responses })
    }

    async fn refused(&self, token: Option<&str>, pod: &str) -> Status {
        self.ask(token, pod).await.err().expect("it is refused")
    }
}

struct Asked {
    _send: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn label(cluster: &Cluster, label: &str) {
    kubectl(&["label", "namespace", &cluster.namespace, label], "").unwrap_or_else(|error| panic!("{error}"));
}

fn field(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster
        .kubectl(&["get", object, "-o", &format!("jsonpath={path}")], "")
        .unwrap_or_else(|error| panic!("{object}: {error}"))
}

/// A pod of its own network, and one of the node's.
fn pods(cluster: &Cluster) {
    let image = load_test_server();
    let pod = |name: &str, host: bool, listen: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostNetwork: {host}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: app, image: {image}, imagePullPolicy: IfNotPresent, args: [echo, \"{listen}\"]}}
---
"
        )
    };
    cluster.apply(&(pod("own", false, "0.0.0.0:9080") + &pod("host", true, "127.0.0.1:0")));
    for name in ["pod/own", "pod/host"] {
        cluster.wait(name, "condition=Ready");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_that_of_the_pod_of_its_token() {
    let fixture = Fixture::start().await;
    pods(&fixture.cluster);
    let (own, host) = (fixture.token_of("own"), fixture.token_of("host"));

    // The test runs on the node, as a pod of the node's network does.
    fixture.ask(Some(&host), "host").await.unwrap();

    let status = fixture.refused(None, "host").await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = fixture.refused(Some(&fixture.token(&[])), "host").await;
    assert_eq!(status.code(), Code::Unauthenticated, "made for the API server: {status}");
    let status = fixture.refused(Some(&fixture.token(&["--audience=fairlead"])), "host").await;
    assert_eq!(status.code(), Code::PermissionDenied, "made for no pod: {status}");
    let status = fixture.refused(Some(&host), "own").await;
    assert_eq!(status.code(), Code::PermissionDenied, "as another pod: {status}");

    // Stolen: it comes from the node, and its pod is elsewhere. What is watched comes in its own time.
    let replayed = async || fixture.ask(Some(&own), "own").await.err().map(|status| status.code());
    holds("a replayed token is refused", || async { replayed().await == Some(Code::PermissionDenied) }).await;
    // Its pod is gone, and it was never shown before.
    let late = fixture.token_of("own");
    fixture.cluster.kubectl(&["delete", "pod", "own", "--grace-period=0", "--force"], "").unwrap();
    fixture.cluster.wait("pod/own", "delete");
    let gone = async || fixture.ask(Some(&late), "own").await.err().map(|status| status.code());
    let code = gone().await;
    assert_eq!(code, Some(Code::Unauthenticated), "of a pod that is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_follow_the_label_and_rotate_twice_without_losing_a_client() {
    let fixture = Fixture::start().await;
    pods(&fixture.cluster);
    let host = fixture.token_of("host");
    let first = fixture.roots();

    // Deleted or edited, it comes back.
    fixture.meshed.kubectl(&["delete", CONFIG_MAP], "").unwrap();
    fixture.meshed.wait(CONFIG_MAP, "create");
    fixture
        .meshed
        .kubectl(&["patch", CONFIG_MAP, "--type=merge", "-p", "{\"data\":{\"ca.crt\":\"mine\"}}"], "")
        .unwrap();
    holds("the edited roots are restored", || async { fixture.roots() == first }).await;

    let mut alive = fixture.ask(Some(&host), "host").await.unwrap();
    for round in ["1", "2"] {
        let before = fixture.roots();
        let rotate = format!("fairlead.dev/rotate={round}");
        fixture.cluster.kubectl(&["annotate", "--overwrite", SECRET, &rotate], "").unwrap();
        let (mut seen, begun) = (Vec::new(), Instant::now());
        loop {
            assert!(begun.elapsed() < 4 * LIMIT, "the rotation stands still: {seen:?}");
            let roots = fixture.roots();
            let count = roots.matches("BEGIN CERTIFICATE").count();
            if seen.last() != Some(&count) {
                seen.push(count);
            }
            // Who reads the roots now can connect now.
            fixture.ask(Some(&host), "host").await.unwrap();
            if count == 1 && roots != before {
                break;
            }
        }
        assert_eq!(seen.iter().filter(|count| **count == 2).count(), 1, "old and new together: {seen:?}");
        assert_eq!(field(&fixture.cluster, SECRET, "{.metadata.annotations.fairlead\\.dev/rotated}"), round);
    }
    // A stream that was open before all this is open still.
    let pending = tokio::time::timeout(Duration::from_millis(1), alive.responses.message()).await;
    assert!(pending.is_err(), "{pending:?}");

    // Without the label it stays, for pods that run on, and is kept as it should be.
    label(&fixture.meshed, "fairlead.dev/inject-");
    let current = fixture.roots();
    fixture
        .meshed
        .kubectl(&["patch", CONFIG_MAP, "--type=merge", "-p", "{\"data\":{\"ca.crt\":\"mine\"}}"], "")
        .unwrap();
    holds("the roots are kept current", || async { fixture.roots() == current }).await;
}
