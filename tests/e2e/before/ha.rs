//! Two replicas of the operator on the node: what the follower's clients say counts, and when the holder dies
//! the other one goes on, without a failed call and without a status that says too much or too little.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc;
use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{self, Call};
use fairlead_tests::cluster::{Cluster, node_address};
use fairlead_tests::load::Load;
use fairlead_tests::operator::Operator;
use fairlead_tests::sidecar::{Sidecar, SidecarFlags};
use fairlead_tests::until::holds;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programmed_counts_the_clients_of_both_replicas_and_outlives_the_holder() {
    let cluster = Cluster::new();
    let _turn = cluster.turn().await;
    let mesh = Mesh::start(&cluster).await;

    let mut a = mesh.replica("a").await;
    mesh.joins(&a, "a");
    holds("a holds the lease", || async { is_holder(&a).await }).await;
    // By the Service's address, where it finds whichever replica there is.
    let x = mesh.sidecar("x", &mesh.operators()).await;
    let mut b = mesh.replica("b").await;
    mesh.joins(&b, "b");
    let _y = mesh.sidecar("y", &b.xds.to_string()).await;
    assert!(!is_holder(&b).await);
    assert_eq!(objects(&b).await["replica"]["role"], "follower");
    mesh.until(1, "True", [2, 2, 0, 0]).await;

    // A client of the follower that has not answered is waited for.
    let mut held = Held::connect(b.xds, &mesh.service).await;
    let first = held.next().await;
    held.answer(first, None).await;
    mesh.until(1, "True", [3, 3, 0, 0]).await;
    mesh.route("2s");
    let second = held.next().await;
    mesh.until(2, "False", [3, 2, 0, 1]).await;
    held.answer(second, None).await;
    mesh.until(2, "True", [3, 3, 0, 0]).await;
    // What it refuses is told with its name.
    mesh.route("3s");
    let third = held.next().await;
    held.answer(third, Some("no such timeout")).await;
    let status = mesh.until(3, "False", [3, 2, 1, 0]).await;
    assert_eq!(status["rollout"]["lastError"]["client"], format!("{}/held", cluster.namespace));
    mesh.route("4s");
    let fourth = held.next().await;
    held.answer(fourth, None).await;
    mesh.until(4, "True", [3, 3, 0, 0]).await;

    // The holder dies under load.
    let load = Load::start(x.upstream(&mesh.service).await, 2, Duration::from_millis(5), |_| Call::get("/"));
    holds("the load runs", || async { load.made() > 100 }).await;
    let watch = Watch::start(&cluster);
    a.program.kill();
    mesh.leaves("a"); // As the kubelet would have it.
    holds("b holds the lease", || async { is_holder(&b).await }).await;
    holds("x is with b", || async { subscribed(&b).await == 3 }).await;
    mesh.until(4, "True", [3, 3, 0, 0]).await;
    // It writes: what it wrote of the generation before was always true.
    mesh.route("5s");
    let fifth = held.next().await;
    mesh.until(5, "False", [3, 2, 0, 1]).await;
    assert_eq!(watch.seen_of(4), ["True Programmed".to_owned()].into());
    held.answer(fifth, None).await;
    mesh.until(5, "True", [3, 3, 0, 0]).await;
    let summary = load.stop().await;
    println!("{} calls while the holder died", summary.calls);
    assert!(summary.failed.is_empty(), "{:?}", summary.failed);

    // A holder that ends in good order leaves the Lease to the next.
    let c = mesh.replica("c").await;
    mesh.joins(&c, "c");
    b.program.terminate().await;
    mesh.leaves("b");
    holds("c holds the lease", || async { is_holder(&c).await }).await;
    assert!(b.program.read_log().contains("the lease is released"), "{}", b.program.tail());
    let lease = cluster.get("lease", "fairlead-operator");
    assert!(lease["spec"]["holderIdentity"].as_str().unwrap().starts_with("c_"), "{lease}");
    assert_eq!(lease["metadata"]["annotations"]["fairlead.dev/address"], c.xds.to_string());
}

/// A Service with a backend, its route, and the operator's own Service.
struct Mesh<'a> {
    cluster: &'a Cluster,
    /// `NAMESPACE/web:80`.
    service: String,
    node: IpAddr,
    _backend: Backend,
}

impl<'a> Mesh<'a> {
    async fn start(cluster: &'a Cluster) -> Self {
        let node = node_address();
        let backend = Backend::start("web", SocketAddr::new(node, 0), Behaviour::Ok).await;
        cluster.apply(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: fairlead-operator}}
spec: {{ports: [{{name: xds, port: 15010}}]}}
---
{}",
            slice("web", "web", "http", backend.address, "")
        ));
        let mesh =
            Self { cluster, service: format!("{}/web:80", cluster.namespace), node, _backend: backend };
        mesh.route("1s");
        mesh
    }

    /// An operator of that name, whose Lease is in the test's namespace.
    async fn replica(&self, name: &str) -> Operator {
        let (any, xds) = (SocketAddr::from(([127, 0, 0, 1], 0)), SocketAddr::new(self.node, 0));
        let flags = ["--namespace", &self.cluster.namespace, "--replica", name];
        Operator::start_with(None, [xds, any, any], &flags, &self.cluster.logs).await
    }

    /// The replica is a ready endpoint of the operator's Service.
    fn joins(&self, replica: &Operator, name: &str) {
        let pod = format!("targetRef: {{kind: Pod, name: {name}}}");
        self.cluster.apply(&slice(
            &format!("operator-{name}"),
            "fairlead-operator",
            "xds",
            replica.xds,
            &pod,
        ));
    }

    fn leaves(&self, name: &str) {
        self.cluster.kubectl(&["delete", "endpointslice", &format!("operator-{name}")], "").unwrap();
    }

    /// The address of the operator's Service.
    fn operators(&self) -> String {
        let service = self.cluster.get("service", "fairlead-operator");
        format!("{}:15010", service["spec"]["clusterIP"].as_str().unwrap())
    }

    async fn sidecar(&self, name: &str, operator: &str) -> Sidecar {
        let flags = SidecarFlags::calling(&format!("{}/{name}", self.cluster.namespace), &[&self.service]);
        Sidecar::start(&flags, operator.parse().unwrap(), &self.cluster.logs).await
    }

    fn route(&self, timeout: &str) {
        self.cluster.apply(&format!(
            "apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: web}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}], timeouts: {{request: {timeout}}}}}]
"
        ));
    }

    /// The status, as soon as `Programmed` of this generation is so, with these subscribed, acked, nacked and
    /// pending.
    async fn until(&self, generation: i64, programmed: &str, rollout: [u64; 4]) -> Value {
        let what = format!("generation {generation} is {programmed} with {rollout:?}");
        let found = fairlead_tests::until::eventually(&what, || async {
            let status = self.cluster.get("serviceroute", "web")["status"].clone();
            let counted =
                ["subscribed", "acked", "nacked", "pending"].map(|name| status["rollout"][name].as_u64());
            let as_said =
                state(&status).is_some_and(|(of, state)| of == generation && state.starts_with(programmed));
            (as_said && counted == rollout.map(Some)).then_some(status)
        });
        found.await.0
    }
}

fn slice(name: &str, service: &str, port: &str, address: SocketAddr, more: &str) -> String {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let (ip, number) = (address.ip(), address.port());
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {family}
ports: [{{name: {port}, port: {number}}}]
endpoints:
- addresses: [\"{ip}\"]
  conditions: {{ready: true}}
  {more}
"
    )
}

/// The generation of `Programmed`, its status and its reason.
fn state(status: &Value) -> Option<(i64, String)> {
    let programmed = status["conditions"].as_array()?.iter().find(|it| it["type"] == "Programmed")?;
    let words = format!("{} {}", programmed["status"].as_str()?, programmed["reason"].as_str()?);
    Some((programmed["observedGeneration"].as_i64()?, words))
}

async fn is_holder(operator: &Operator) -> bool {
    let page = client::get(operator.metrics, "/metrics").await.unwrap().text();
    page.lines().any(|line| line == "fairlead_operator_holds_lease 1")
}

async fn objects(operator: &Operator) -> Value {
    client::get(operator.admin, "/objects").await.unwrap().json()
}

/// How many clients are connected.
async fn subscribed(operator: &Operator) -> usize {
    let page = client::get(operator.admin, "/clients").await.unwrap().json();
    page["clients"].as_array().unwrap().iter().filter(|client| client["connected"] == true).count()
}

/// Every state of `Programmed` that the API server shows, from now on.
struct Watch {
    seen: Arc<Mutex<BTreeSet<(i64, String)>>>,
    child: std::process::Child,
}

impl Watch {
    fn start(cluster: &Cluster) -> Self {
        let mut child = std::process::Command::new("kubectl")
            .args(["-n", &cluster.namespace, "get", "serviceroute", "web", "--watch", "-o"])
            .arg("jsonpath={.status}{\"\\n\"}")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap());
        let seen: Arc<Mutex<BTreeSet<(i64, String)>>> = Arc::default();
        let noted = seen.clone();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(lines).map_while(Result::ok) {
                let status = serde_json::from_str(&line).unwrap_or_default();
                noted.lock().unwrap().extend(state(&status));
            }
        });
        Self { seen, child }
    }

    fn seen_of(&self, generation: i64) -> BTreeSet<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(of, _)| *of == generation).map(|(_, state)| state.clone()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An xDS client that answers when the test says so.
struct Held {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Held {
    /// Asks for the routes of a service, as `NAMESPACE/held`.
    async fn connect(operator: SocketAddr, service: &str) -> Self {
        let mut client =
            AggregatedDiscoveryServiceClient::connect(format!("http://{operator}")).await.unwrap();
        let (requests, sent) = mpsc::channel(4);
        let namespace = service.split('/').next().unwrap();
        let node = Node { id: format!("{namespace}/held"), ..Node::default() };
        let request = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: ROUTES.to_owned(),
            resource_names_subscribe: vec![service.to_owned()],
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await.unwrap();
        let responses = client.delta_aggregated_resources(ReceiverStream::new(sent)).await.unwrap();
        Self { requests, responses: responses.into_inner() }
    }

    /// The nonce of the next response.
    async fn next(&mut self) -> String {
        let next = tokio::time::timeout(fairlead_tests::until::LIMIT, self.responses.message());
        next.await.expect("a response in time").unwrap().expect("an open stream").nonce
    }

    /// Takes the response, or refuses it with these words.
    async fn answer(&self, nonce: String, refusal: Option<&str>) {
        let error_detail = refusal.map(|message| rpc::Status {
            code: 3,
            message: message.to_owned(),
            ..rpc::Status::default()
        });
        let request = DeltaDiscoveryRequest {
            type_url: ROUTES.to_owned(),
            response_nonce: nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }
}
