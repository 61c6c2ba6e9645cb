//! The whole operator in this process: files in, a real xDS client out.

mod client;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::client::{Client, Kind, Sent};
use super::*;
use crate::xds::session::Protocol;

/// Whatever is awaited comes long before.
const LONG: Duration = Duration::from_secs(30);

const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.3.7, ports: [{port: 9080, name: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.3.8, ports: [{port: 9080, name: http}]}
";

fn slice(addresses: &[&str]) -> String {
    let endpoints: Vec<String> = addresses.iter().map(|it| format!("{{addresses: [{it}]}}")).collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: reviews-1, namespace: shop, \
         labels: {{kubernetes.io/service-name: reviews}}}}, addressType: IPv4, endpoints: [{}], \
         ports: [{{name: http, port: 9080}}]}}",
        endpoints.join(", ")
    )
}

fn route(timeout: &str) -> String {
    format!(
        "{{apiVersion: fairlead.dev/v1alpha1, kind: ServiceRoute, metadata: {{name: reviews, namespace: shop}}, \
         spec: {{parentRefs: [{{name: reviews}}], rules: [{{backendRefs: [{{name: reviews, port: 9080}}], \
         timeouts: {{request: {timeout}}}}}]}}}}"
    )
}

struct Operator {
    directory: tempfile::TempDir,
    xds: SocketAddr,
    admin: SocketAddr,
    metrics: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<()>>,
}

impl Operator {
    async fn start(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = Settings {
            source: Source::Directory(directory.path().to_owned()),
            xds: any,
            admin: any,
            metrics: any,
            replica: "test".to_owned(),
            namespace: "fairlead-system".to_owned(),
            advertise: any,
            certificates: None,
            token: PathBuf::new(),
            injection: None,
            log_format: LogFormat::Text,
            log: String::new(),
        };
        let (say, mut said) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        #[allow(clippy::disallowed_methods, reason = "a test looks at its end itself")]
        let ended =
            tokio::spawn(run(settings, move |name, address| say.send((name, address)).unwrap(), stopped));
        let mut bound = async |wanted: &str| {
            let (name, address) = tokio::time::timeout(LONG, said.recv()).await.unwrap().unwrap();
            assert_eq!(name, wanted);
            address
        };
        let (admin, metrics, xds) = (bound("admin").await, bound("metrics").await, bound("xds").await);
        Self { directory, xds, admin, metrics, stop: Some(stop), ended }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    async fn page(&self, path: &str) -> Value {
        let (status, body) = get(self.admin, path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the object's condition of that type satisfies.
    async fn condition(&self, object: &str, kind: &str, satisfies: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LONG;
        loop {
            let list = self.page("/objects").await;
            let item =
                list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == object);
            let conditions = item.and_then(|item| item["status"]["conditions"].as_array());
            let found = conditions.and_then(|all| all.iter().find(|it| it["type"] == kind));
            if found.is_some_and(&satisfies) {
                return item.unwrap().clone();
            }
            assert!(Instant::now() < deadline, "{object} {kind}: {list:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn client(&self, protocol: Protocol, node: &str) -> Client {
        Client::connect(self.xds, protocol, node).await
    }

    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(LONG, self.ended).await.unwrap().unwrap().unwrap();
    }
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_disk_reaches_a_client() {
    let operator =
        Operator::start(&[("services.yaml", SERVICES), ("slice.yaml", &slice(&["10.244.1.5"]))]).await;
    for protocol in [Protocol::Delta, Protocol::State] {
        operator.write("slice.yaml", &slice(&["10.244.1.5"]));
        let mut client = operator.client(protocol, "shop/frontend-1").await;
        client.subscribe(Kind::Endpoints, &["shop/reviews:9080"]).await;
        client.receive(Kind::Endpoints).await;
        let mut took = Vec::new();
        for n in 1..=20 {
            let start = Instant::now();
            // As an editor does it, and as a shell does it.
            if n % 2 == 0 {
                operator.write(".new", &slice(&["10.244.1.5", &format!("10.244.2.{n}")]));
                std::fs::rename(operator.path(".new"), operator.path("slice.yaml")).unwrap();
            } else {
                operator.write("slice.yaml", &slice(&["10.244.1.5", &format!("10.244.2.{n}")]));
            }
            let sent = client.receive(Kind::Endpoints).await;
            assert_eq!(sent.names, ["shop/reviews:9080"]);
            took.push(start.elapsed());
        }
        took.sort();
        println!("{protocol:?}: change on disk to push: median {:?}, longest {:?}", took[10], took[19]);
    }
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_follows_the_clients() {
    let operator = Operator::start(&[
        ("services.yaml", SERVICES),
        ("slice.yaml", &slice(&["10.244.1.5"])),
        ("route.yaml", &route("1s")),
    ])
    .await;
    let is = |reason: &'static str| move |condition: &Value| condition["reason"] == reason;
    operator.condition("reviews", "Programmed", is("NoSubscribers")).await;

    let mut good = operator.client(Protocol::Delta, "shop/good-1").await;
    good.subscribe(Kind::Route, &["shop/reviews:9080"]).await;
    good.receive(Kind::Route).await;
    let item = operator.condition("reviews", "Programmed", is("Programmed")).await;
    assert_eq!(item["status"]["rollout"]["acked"], 1);

    let mut bad = operator.client(Protocol::State, "shop/bad-1").await;
    bad.subscribe(Kind::Route, &["shop/reviews:9080"]).await;
    bad.receive(Kind::Route).await;
    bad.refuses = true;
    let start = Instant::now();
    operator.write("route.yaml", &route("2s"));
    good.receive(Kind::Route).await;
    println!("rule on disk to push: {:?}", start.elapsed());
    bad.receive(Kind::Route).await;
    let item = operator.condition("reviews", "Programmed", is("Rejected")).await;
    let rollout = &item["status"]["rollout"];
    assert_eq!(
        (&rollout["generation"], &rollout["acked"], &rollout["nacked"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!(rollout["lastError"]["client"], "shop/bad-1");
    for condition in item["status"]["conditions"].as_array().unwrap() {
        assert_eq!(condition["observedGeneration"], 2);
    }
    let clients = operator.page("/clients").await;
    let refused =
        clients["clients"].as_array().unwrap().iter().find(|it| it["client"] == "shop/bad-1").unwrap();
    assert_eq!(refused["resources"][0]["nacked"]["message"], "refused by the test");
    assert_eq!((&refused["nacked"], &refused["protocol"]), (&1.into(), &"sotw".into()));

    bad.refuses = false;
    operator.write("route.yaml", &route("3s"));
    bad.receive(Kind::Route).await;
    good.receive(Kind::Route).await;
    operator.condition("reviews", "Programmed", is("Programmed")).await;
    // A client that says goodbye is not waited for; one that vanishes is, for a while.
    good.close().await;
    bad.close().await;
    operator.condition("reviews", "Programmed", is("NoSubscribers")).await;
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_object_and_a_broken_file_harm_nobody() {
    let operator = Operator::start(&[("services.yaml", SERVICES), ("route.yaml", &route("1s"))]).await;
    let mut client = operator.client(Protocol::Delta, "shop/frontend-1").await;
    client.subscribe(Kind::Route, &["shop/reviews:9080"]).await;
    let first = client.receive(Kind::Route).await;

    let bad = "{apiVersion: fairlead.dev/v1alpha1, kind: ServiceRoute, metadata: {name: bad, namespace: shop}, \
               spec: {parentRefs: [{name: ratings}], rules: [{backendRefs: [{name: ratings, port: 9080, weight: -1}]}]}}";
    operator.write("bad.yaml", bad);
    let refused = operator.condition("bad", "Accepted", |condition| condition["status"] == "False").await;
    let programmed =
        refused["status"]["conditions"].as_array().unwrap().iter().find(|it| it["type"] == "Programmed");
    assert_eq!(programmed.unwrap()["status"], "False");
    operator.condition("reviews", "Accepted", |condition| condition["status"] == "True").await;

    operator.write("route.yaml", "kind: [ServiceRoute\n");
    let deadline = Instant::now() + LONG;
    let faults = loop {
        let list = operator.page("/objects").await;
        if list["faults"].as_array().is_some_and(|faults| !faults.is_empty()) {
            break list["faults"].clone();
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(faults[0]["place"], "route.yaml");
    operator.write("route.yaml", &route("9s"));
    let second = client.receive(Kind::Route).await;
    assert!(first.removed.is_empty() && second.removed.is_empty());
    assert_ne!(first.versions, second.versions);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_ends_its_stream_and_no_other() {
    let operator = Operator::start(&[("services.yaml", SERVICES)]).await;
    let mut fine = operator.client(Protocol::Delta, "shop/fine-1").await;
    for (node, names, message) in [
        ("", vec!["shop/reviews:9080".to_owned()], "no node.id"),
        ("shop/a b", vec![], "printable ASCII"),
        ("shop/a", vec!["x".repeat(600)], "more than 512 bytes"),
        ("shop/a", (0..10_001).map(|n| format!("shop/s{n}:80")).collect(), "at most 10000"),
        ("shop/a", vec!["x".repeat(500); 9000], "bytes at most"),
    ] {
        for protocol in [Protocol::Delta, Protocol::State] {
            let mut client = operator.client(protocol, node).await;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            client.subscribe(Kind::Cluster, &names).await;
            let status = client.ends().await;
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
            assert!(status.message().contains(message), "{status}");
        }
    }
    let status = client::send_rubbish(operator.xds).await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert!(status.message().contains("cannot be read"), "{status}");
    fine.subscribe(Kind::Cluster, &["shop/reviews:9080"]).await;
    fine.receive(Kind::Cluster).await;
    let (_, metrics) = get(operator.metrics, "/metrics").await;
    assert!(metrics.contains("fairlead_operator_xds_refused_streams_total 11"), "{metrics}");
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_takes_nothing_from_clients() {
    let operator = Operator::start(&[("services.yaml", SERVICES)]).await;
    assert_eq!(get(operator.metrics, "/readyz").await.0, 200);
    let mut client = operator.client(Protocol::Delta, "shop/frontend-1").await;
    client.subscribe(Kind::Cluster, &["*"]).await;
    assert_eq!(client.receive(Kind::Cluster).await.names.len(), 2);
    let ended = operator.end();
    let (status, ()) = tokio::join!(client.ends(), ended);
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_delays_nobody() {
    let mut services = String::new();
    for n in 0..300 {
        services += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{n}, namespace: shop}}, \
             spec: {{clusterIP: 10.97.{}.{}, ports: [{{port: 80, name: http}}]}}}}\n",
            n / 250,
            n % 250 + 1
        );
    }
    let operator =
        Operator::start(&[("services.yaml", &services), ("slice.yaml", &slice(&["10.244.1.5"]))]).await;
    // They ask for everything and never read the answer.
    let mut stuck = Vec::new();
    for n in 0..20 {
        let mut client = operator.client(Protocol::Delta, &format!("shop/stuck-{n}")).await;
        client.subscribe(Kind::Listener, &["*"]).await;
        client.subscribe(Kind::Cluster, &["*"]).await;
        stuck.push(client);
    }
    operator.write("more.yaml", SERVICES);
    let mut client = operator.client(Protocol::Delta, "shop/fine-1").await;
    client.subscribe(Kind::Endpoints, &["shop/reviews:9080"]).await;
    client.receive(Kind::Endpoints).await;
    for n in 1..10 {
        operator.write("slice.yaml", &slice(&[&format!("10.244.2.{n}")]));
        client.receive(Kind::Endpoints).await;
    }
    drop(stuck);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_hear_of_a_change_soon() {
    const CLIENTS: usize = 300;
    let operator =
        Operator::start(&[("services.yaml", SERVICES), ("slice.yaml", &slice(&["10.244.1.5"]))]).await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = operator.client(Protocol::Delta, &format!("shop/many-{n}")).await;
        client.subscribe(Kind::Endpoints, &["shop/reviews:9080"]).await;
        client.receive(Kind::Endpoints).await;
        clients.push(client);
    }
    let start = Instant::now();
    operator.write("slice.yaml", &slice(&["10.244.2.1"]));
    let mut took = futures::future::join_all(clients.iter_mut().map(async |client| {
        client.receive(Kind::Endpoints).await;
        start.elapsed()
    }))
    .await;
    took.sort();
    println!("{CLIENTS} clients: median {:?}, last {:?}", took[CLIENTS / 2], took[CLIENTS - 1]);
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_answer() {
    let operator =
        Operator::start(&[("services.yaml", SERVICES), ("slice.yaml", &slice(&["10.244.1.5"]))]).await;
    let snapshot = operator.page("/snapshot").await;
    assert!(snapshot["Cluster"]["shop/reviews:9080"].is_string(), "{snapshot}");
    let one = operator.page("/snapshot?name=shop/reviews:9080").await;
    assert_eq!(one.as_array().unwrap().len(), 4, "{one}");
    assert_eq!(get(operator.admin, "/snapshot?name=nobody").await.0, 404);
    assert_eq!(get(operator.metrics, "/healthz").await, (200, "ok\n".to_owned()));
    operator.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnecting_client_is_not_told_what_it_has() {
    let operator =
        Operator::start(&[("services.yaml", SERVICES), ("slice.yaml", &slice(&["10.244.1.5"]))]).await;
    let mut client = operator.client(Protocol::Delta, "shop/frontend-1").await;
    client.subscribe(Kind::Cluster, &["shop/reviews:9080", "shop/ratings:9080"]).await;
    let Sent { versions, .. } = client.receive(Kind::Cluster).await;
    drop(client);
    let mut again = operator.client(Protocol::Delta, "shop/frontend-1").await;
    let mut has = versions.clone();
    has.insert("shop/gone:9080".to_owned(), "1".to_owned());
    again.resume(Kind::Cluster, &["shop/reviews:9080", "shop/ratings:9080", "shop/gone:9080"], has).await;
    // Removals wait for the routes of a client that has just come back.
    again.subscribe(Kind::Route, &["shop/reviews:9080"]).await;
    again.receive(Kind::Route).await;
    let sent = again.receive(Kind::Cluster).await;
    assert_eq!((sent.names.len(), sent.removed), (0, vec!["shop/gone:9080".to_owned()]));
    operator.end().await;
}
