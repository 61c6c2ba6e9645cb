//! Over real TLS, as the API server and as strangers call.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::net::SocketAddr;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::inject::{PROXY_UID, operator_address};

struct Served {
    address: SocketAddr,
    connector: TlsConnector,
    metrics: Arc<Metrics>,
    shutdown: watch::Sender<bool>,
    ended: JoinHandle<std::io::Result<()>>,
}

async fn served() -> Served {
    let provider = crate::tls::provider();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["webhook".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let settings = Settings {
        image: "proxy".into(),
        pull_policy: None,
        operator: operator_address("fairlead-system"),
        proxy_uid: PROXY_UID,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Arc::new(Metrics::default());
    let (shutdown, over) = watch::channel(false);
    let mut set = JoinSet::new();
    set.spawn(serve(listener, Arc::new(tls), settings, metrics.clone(), over));
    #[allow(clippy::disallowed_methods)] // The test waits for it.
    let ended = tokio::spawn(async move { set.join_next().await.unwrap().unwrap() });
    Served { address, connector: TlsConnector::from(Arc::new(client)), metrics, shutdown, ended }
}

impl Served {
    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.connector.connect(ServerName::try_from("webhook").unwrap(), stream).await.unwrap()
    }

    /// Sends this head and body; status and body of the answer, which ends with the connection.
    async fn call(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        // One that is refused closes while we write.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or("0").parse().unwrap();
        (status, body.to_owned())
    }

    async fn ask(&self, body: &str) -> (u16, String) {
        let head = format!(
            "POST /inject?timeout=5s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.call(&head, body.as_bytes()).await
    }
}

fn review(pod: &Value) -> String {
    let request = json!({"uid": "u", "operation": "CREATE", "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": [{"name": "app"}]}})
}

#[tokio::test]
async fn a_pod_gets_its_patch_and_nonsense_a_reason() {
    let served = served().await;
    let (status, body) = served.ask(&review(&pod())).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["response"]["patchType"]), (200, &json!("JSONPatch")));

    let (status, body) = served.ask("{}").await;
    assert_eq!(status, 400);
    assert!(body.contains("no AdmissionReview"), "{body}");
    assert_eq!(served.call("GET /inject HTTP/1.1\r\nhost: x\r\n\r\n", b"").await.0, 405);
    assert_eq!(served.call("GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"").await.0, 404);
    assert_eq!(served.call("no HTTP\r\n\r\n", b"").await.0, 400);
    let text = served.metrics.text();
    for line in ["injections_total{result=\"injected\"} 1", "injections_total{result=\"unreadable\"} 1"] {
        assert!(text.contains(line), "{text}");
    }
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_unread() {
    let served = served().await;
    // Announced: not a byte of it is sent, and the answer is there.
    let head = "POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n";
    assert_eq!(served.call(head, b"").await.0, 413);
    // Not announced: a chunk that goes beyond the limit ends it.
    let chunk = vec![b' '; 1 << 20];
    let mut chunks = Vec::new();
    for _ in 0..5 {
        chunks.extend_from_slice(b"100000\r\n");
        chunks.extend_from_slice(&chunk);
        chunks.extend_from_slice(b"\r\n");
    }
    let head = "POST /inject HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let (status, _) = served.call(head, &chunks).await;
    // The answer may be lost when the connection is closed with bytes unread.
    assert!([413, 0].contains(&status), "{status}");
    assert_eq!(served.ask(&review(&pod())).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_come_slowly_leave_in_time_and_hold_up_nobody() {
    let served = served().await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = served.connect().await;
        stream
            .write_all(b"POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n{")
            .await
            .unwrap();
        slow.push(stream);
    }
    assert_eq!(served.ask(&review(&pod())).await.0, 200);
    for mut stream in slow {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[tokio::test]
async fn one_caller_cannot_take_every_connection_and_the_end_waits_for_answers() {
    let served = served().await;
    let mut streams = Vec::new();
    for _ in 0..BOUNDS.connections_a_peer {
        streams.push(served.connect().await);
    }
    let stream = TcpStream::connect(served.address).await.unwrap();
    let refused = served.connector.connect(ServerName::try_from("webhook").unwrap(), stream).await;
    assert!(refused.is_err());

    // One has begun to ask when the end comes: it is answered.
    let mut stream = streams.pop().unwrap();
    drop(streams);
    let body = review(&pod());
    let (first, rest) = body.split_at(10);
    let head = format!("POST /inject HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{first}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    served.shutdown.send_replace(true);
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200") || answer.is_empty(), "{answer}");
    served.ended.await.unwrap().unwrap();
}
