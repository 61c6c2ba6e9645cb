//! The same client over TLS: whom it trusts, what it shows, and that it reads both anew.
//! The CAs of a test have one name, as an old and a new one of the operator do.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A CA of a test.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A server of this name.
    fn server(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], key)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Running {
    fn tls(address: &str, acceptor: TlsAcceptor) -> Self {
        Self::with(address, |listener, server| Box::pin(serve_tls(listener, acceptor, server)))
    }
}

async fn serve_tls(listener: TcpListener, acceptor: TlsAcceptor, server: Server) {
    while let Ok((connection, _)) = listener.accept().await {
        let (acceptor, server) = (acceptor.clone(), server.clone());
        start(async move {
            if let Ok(connection) = acceptor.accept(connection).await {
                talk(connection, server).await;
            }
        });
    }
}

/// The files of a pod.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As the kubelet does it: the new file takes the old one's place.
    fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!(".{name}"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// A proxy that reads `ca.crt` and `token` here, and calls the server by its name.
    fn proxy(&self, server: &Running) -> Proxy {
        let uri = format!("https://localhost:{}", server.address.port()).parse().unwrap();
        Proxy::with(Operator { uri, ca: Some(self.path("ca.crt")), token: Some(self.path("token")) })
    }
}

async fn why(proxy: &Proxy, wanted: &str) {
    let seen = |state: &State| state.last_failure.as_ref().is_some_and(|why| why.contains(wanted));
    let state = proxy.until(seen).await;
    assert!(!state.connected && !format!("{state:?}").contains("s3cret"), "{state:?}");
}

#[tokio::test]
async fn a_server_of_our_ca_is_trusted_and_told_who_we_are() {
    let (authority, files) = (Authority::new(), Files::new());
    files.write("ca.crt", &authority.pem);
    files.write("token", "s3cret-1\n");
    let mut server = Running::tls("127.0.0.1:0", authority.server("localhost"));
    // `localhost` has two addresses; at [::1] there is nobody.
    let proxy = files.proxy(&server);
    proxy.handle.subscribe("shop/a:80");
    let mut stream = server.stream().await;
    assert_eq!(stream.authorization.as_deref(), Some("Bearer s3cret-1"));
    stream.serve(&[1]).await;
    let state = proxy.until(|state| state.in_force("shop/a:80")).await;
    assert_eq!((state.failures, state.last_failure), (0, None));

    // A new token disturbs no stream; the next one shows it.
    files.write("token", "s3cret-2");
    stream.send(response(Kind::Endpoints, "9", vec![whole(Kind::Endpoints, &[2])], &[]));
    proxy.until(|state| state.responses == 5).await;
    stream.responses.send(Err(Status::unavailable("your token expires; come again"))).unwrap();
    assert_eq!(server.stream().await.authorization.as_deref(), Some("Bearer s3cret-2"));
    assert_eq!(proxy.until(|state| state.connected).await.failures, 0);
    assert_eq!(proxy.ports(), [2]);
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused_until_the_bundle_has_it() {
    let (old, new, files) = (Authority::new(), Authority::new(), Files::new());
    files.write("ca.crt", &old.pem);
    files.write("token", "s3cret");
    let mut server = Running::tls("127.0.0.1:0", new.server("localhost"));
    let proxy = files.proxy(&server);
    proxy.handle.subscribe("shop/a:80");
    why(&proxy, "invalid peer certificate").await;
    files.write("ca.crt", &format!("{}{}", old.pem, new.pem));
    server.stream().await;

    // The old one of the bundle is as good.
    let address = server.address.to_string();
    drop(server);
    let mut server = Running::tls(&address, old.server("localhost"));
    server.stream().await;
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    let (authority, files) = (Authority::new(), Files::new());
    files.write("ca.crt", &authority.pem);
    files.write("token", "s3cret");
    let server = Running::tls("127.0.0.1:0", authority.server("elsewhere.example"));
    why(&files.proxy(&server), "not valid for name").await;
}

#[tokio::test]
async fn files_that_are_missing_or_wrong_are_named_and_awaited() {
    let (authority, files) = (Authority::new(), Files::new());
    let mut server = Running::tls("127.0.0.1:0", authority.server("localhost"));
    let proxy = files.proxy(&server);
    let named = |flag: &str, file: &str| format!("{flag} {}", Path::new(&files.path(file)).display());
    why(&proxy, &format!("{}: No such file", named("--operator-token", "token"))).await;
    files.write("token", " \n");
    why(&proxy, &format!("{}: it is empty", named("--operator-token", "token"))).await;
    files.write("token", "s3cret\nand more");
    why(&proxy, &format!("{}: it is not a token", named("--operator-token", "token"))).await;
    files.write("token", "s3cret");
    why(&proxy, &format!("{}: No such file", named("--operator-ca", "ca.crt"))).await;
    files.write("ca.crt", "soon");
    why(&proxy, &format!("{}: there is no certificate", named("--operator-ca", "ca.crt"))).await;
    files.write("ca.crt", &authority.pem);
    server.stream().await;
    proxy.until(|state| state.connected).await;
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_said_so() {
    let proxy = Proxy::with("http://operator.invalid:1".parse().unwrap());
    why(&proxy, "looking up operator.invalid: ").await;
}
