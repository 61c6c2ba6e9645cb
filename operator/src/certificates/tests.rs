//! Rotation under TLS connections: real sockets and certificates, a clock that runs for years.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use futures::StreamExt;
use jiff::SignedDuration;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::Authority;
use super::rotation::{Step, Terms, next};
use super::*;
use crate::metrics::Metrics;
use crate::tls::accept::{Bounds, connections};
use crate::tls::provider;

const SETTLE: Duration = Duration::from_secs(300);
/// Whatever is awaited comes long before.
const LONG: Duration = Duration::from_secs(30);

/// The time of the test, for both ends.
#[derive(Debug)]
struct Clock(Mutex<Timestamp>);

impl Clock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.now().as_second().try_into().unwrap())))
    }
}

/// Answers every byte with the same, on every connection.
async fn echo(listener: TcpListener, serving: Arc<Serving>) {
    let mut accepted = Box::pin(connections(listener, Some(serving.config(&["h2"])), Bounds::default()));
    let mut tasks = JoinSet::new();
    while let Some(Ok(mut connection)) = accepted.next().await {
        // Only the TLS is tested here; who a client is, is asked elsewhere.
        tonic::transport::server::Connected::connect_info(&connection).introduce();
        tasks.spawn(async move {
            while let Ok(byte) = connection.read_u8().await {
                connection.write_u8(byte).await.unwrap();
                connection.flush().await.unwrap();
            }
        });
    }
}

/// Connects as a client that trusts this bundle and nothing else.
async fn connect(
    address: SocketAddr,
    bundle: &Bundle,
    clock: &Arc<Clock>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_str().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_details(provider(), clock.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("fairlead-operator.fairlead-system.svc").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn exchange(stream: &mut TlsStream<TcpStream>, byte: u8) {
    stream.write_u8(byte).await.unwrap();
    assert_eq!(tokio::time::timeout(LONG, stream.read_u8()).await.unwrap().unwrap(), byte);
}

#[tokio::test]
async fn two_rotations_lose_no_client_and_no_connection() {
    let (names, terms) = (names("fairlead-system"), Terms::new(SETTLE));
    let clock = Arc::new(Clock(Mutex::new(Timestamp::from_second(1_800_000_000).unwrap())));
    let mut authority = Authority::default();
    for step in [Step::AddRoot, Step::IssueLeaf] {
        authority.take(step, &names, &terms, clock.now()).unwrap();
    }
    let serving = Serving::new(authority.certified_key().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(echo(listener, serving.clone()));

    // What the slowest client has read: what everything carried a settle time ago.
    let first = authority.bundle().unwrap();
    let mut slowest = first.clone();
    let mut carried = clock.now();
    let mut alive = connect(address, &first, &clock).await.unwrap();
    let mut steps = Vec::new();
    let added = |steps: &[Step]| steps.iter().filter(|step| **step == Step::AddRoot).count();
    while added(&steps) < 2 || authority.held(&names, false).roots.len() > 1 {
        let step = next(&authority.held(&names, false), Some(carried), &terms, clock.now());
        if let Step::Wait(then) = step {
            *clock.0.lock().unwrap() = then;
            if then >= carried + SignedDuration::try_from(SETTLE).unwrap() {
                slowest = authority.bundle().unwrap();
            }
            continue;
        }
        authority.take(step, &names, &terms, clock.now()).unwrap();
        assert_eq!(serving.replace(authority.certified_key().unwrap()), step == Step::IssueLeaf);
        if step != Step::IssueLeaf {
            carried = clock.now();
        }
        steps.push(step);
        for bundle in [&slowest, &authority.bundle().unwrap()] {
            let connected = connect(address, bundle, &clock).await;
            let mut stream = connected.unwrap_or_else(|error| panic!("{error} after {steps:?}"));
            exchange(&mut stream, 1).await;
        }
        exchange(&mut alive, 2).await;
    }
    assert_eq!(steps.iter().filter(|step| **step == Step::DropOldRoots).count(), 2, "{steps:?}");
    // Who never read anything new is refused: the test would notice.
    let refused = connect(address, &first, &clock).await.unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    server.abort_all();
}

#[tokio::test]
async fn strangers_hold_little() {
    let (names, terms) = (names("fairlead-system"), Terms::new(SETTLE));
    let clock = Arc::new(Clock(Mutex::new(Timestamp::from_second(1_800_000_000).unwrap())));
    let mut authority = Authority::default();
    for step in [Step::AddRoot, Step::IssueLeaf] {
        authority.take(step, &names, &terms, clock.now()).unwrap();
    }
    let serving = Serving::new(authority.certified_key().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let moment = Duration::from_millis(200);
    let bounds =
        Bounds { connections_a_peer: 3, handshake: moment, introduction: moment, ..Bounds::default() };
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut accepted = Box::pin(connections(listener, Some(serving.config(&["h2"])), bounds));
        let mut tasks = JoinSet::new();
        while let Some(Ok(mut connection)) = accepted.next().await {
            tasks.spawn(async move { while connection.read_u8().await.is_ok() {} });
        }
    });
    let ends = async |mut stream: TcpStream| {
        // Closed or reset, both are an end.
        tokio::time::timeout(LONG, stream.read_u8()).await.unwrap().unwrap_err();
    };
    // Three that say nothing take all seats of their address; a fourth is turned away.
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    ends(TcpStream::connect(address).await.unwrap()).await;
    // Their handshakes take too long, and the seats are free again.
    for stream in silent {
        ends(stream).await;
    }
    let bundle = authority.bundle().unwrap();
    let mut polite = connect(address, &bundle, &clock).await.unwrap();
    // It never says who it is.
    tokio::time::timeout(LONG, polite.read_u8()).await.unwrap().unwrap_err();
    // Not TLS at all.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LONG, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.len() < 16, "an alert at most: {answer:?}");
    server.abort_all();
}

#[tokio::test]
async fn a_folder_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (names, terms) = (names("fairlead-system"), Terms::new(SETTLE));
    let mut authority = Authority::default();
    let write = |authority: &Authority, version: &str| {
        // As the kubelet does: a new folder, then one link.
        let data = folder.path().join(version);
        std::fs::create_dir(&data).unwrap();
        for (name, text) in authority.written().iter().filter(|(name, _)| *name != "ca.key") {
            std::fs::write(data.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(version, folder.path().join("next")).unwrap();
        std::fs::rename(folder.path().join("next"), folder.path().join("..data")).unwrap();
    };
    let metrics = Arc::new(Metrics::default());
    let open = || folder::Folder::open(folder.path(), metrics.clone());
    let wrong = open().await.unwrap_err().to_string();
    assert!(wrong.contains("tls.crt: ") && wrong.contains("it needs tls.crt, tls.key and ca.crt"), "{wrong}");
    for step in [Step::AddRoot, Step::IssueLeaf] {
        authority.take(step, &names, &terms, Timestamp::now()).unwrap();
    }
    write(&authority, "1");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
    }
    let (opened, mut certificates) = open().await.unwrap();
    let ends = |authority: &Authority| {
        let (leaf, root) = authority.ends();
        let line = |certificate: &str, end: Option<Timestamp>| {
            let name = "fairlead_operator_certificate_expiry_timestamp_seconds";
            format!("{name}{{certificate=\"{certificate}\"}} {}\n", end.unwrap().as_second())
        };
        let text = metrics.text();
        text.contains(&line("leaf", leaf)) && text.contains(&line("root", root))
    };
    assert!(ends(&authority), "{}", metrics.text());
    assert_eq!(Some(certificates.bundle.borrow_and_update().clone()), authority.bundle());
    let mut running = JoinSet::new();
    running.spawn(opened.run());
    for step in [Step::AddRoot, Step::IssueLeaf] {
        authority.take(step, &names, &terms, Timestamp::now()).unwrap();
    }
    write(&authority, "2");
    tokio::time::timeout(LONG, certificates.bundle.changed()).await.unwrap().unwrap();
    assert_eq!(Some(certificates.bundle.borrow().clone()), authority.bundle());
    assert!(!certificates.serving.replace(authority.certified_key().unwrap()), "it is served already");
}
