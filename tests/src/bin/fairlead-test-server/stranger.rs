//! Somebody with a pod who wants more from the operator than is due to it: by xDS with the pod's own token, and by
//! the webhook's port. The pod mounts both token and roots itself, as whoever may make pods can.

use std::future::pending;
use std::sync::Arc;

use anyhow::Context;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status;
use fairlead_operator::tls::connect::Connector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Endpoint;

use super::load::say;

/// Where the pod mounts `token` and `ca.crt`.
const FOLDER: &str = "/var/run/mine";

/// Subscribes to `count` names, `NAME` or `NAME0`, `NAME1` ..., and says in a line of JSON what comes of it. With a
/// refusal every answer is refused in these words, for as long as the pod lives.
pub async fn subscribe(
    address: &str,
    node: &str,
    kind: &str,
    name: &str,
    count: usize,
    refusal: Option<String>,
) -> anyhow::Result<()> {
    let token = tokio::fs::read_to_string(format!("{FOLDER}/token")).await?;
    let channel =
        Endpoint::from_static("http://fairlead").connect_with_connector(connector(address).await?).await?;
    let (send, requests) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(requests));
    request.metadata_mut().insert("authorization", format!("Bearer {}", token.trim()).parse()?);
    let names =
        if count == 1 { vec![name.to_owned()] } else { (0..count).map(|n| format!("{name}{n}")).collect() };
    let type_url = format!("type.googleapis.com/envoy.config.{kind}");
    let node = Node { id: node.to_owned(), ..Node::default() };
    let first = DeltaDiscoveryRequest {
        node: Some(node),
        type_url: type_url.clone(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    };
    send.send(first).await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let answered = async {
        let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
        let first = responses.message().await?;
        Ok::<_, tonic::Status>((responses, first))
    };
    let (mut responses, mut next) = match answered.await {
        Ok((responses, first)) => (responses, first.context("the stream ended")?),
        Err(status) => {
            say(&json!({"refused": format!("{:?}", status.code()), "why": status.message()}).to_string());
            return Ok(());
        }
    };
    let names: Vec<_> = next.resources.iter().map(|one| one.name.as_str()).collect();
    say(&json!({"resources": names, "removed": next.removed_resources.len()}).to_string());
    let Some(refusal) = refusal else { return Ok(()) };
    let refused = async {
        loop {
            let nack = DeltaDiscoveryRequest {
                type_url: type_url.clone(),
                response_nonce: next.nonce,
                error_detail: Some(Status { code: 3, message: refusal.clone(), details: Vec::new() }),
                ..DeltaDiscoveryRequest::default()
            };
            send.send(nack).await?;
            next = responses.message().await?.context("the stream ended")?;
        }
    };
    tokio::select! {
        ended = refused => ended,
        ended = super::terminated() => ended,
    }
}

/// Posts so many bytes to the webhook, without saying before how many, and says in a line of JSON how many it took
/// and what it answered.
pub async fn flood(address: &str, length: usize) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&tokio::fs::read(format!("{FOLDER}/ca.crt")).await?) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let (host, _) = address.rsplit_once(':').context("ADDR is HOST:PORT")?;
    let stream = TcpStream::connect(super::serve::resolve(address).await?).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(host.to_owned().try_into()?, stream).await?;
    let (mut read, mut write) = tokio::io::split(stream);
    write.write_all(b"POST /inject HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let (mut taken, mut answer) = (0, Vec::new());
    let feeding = async {
        let chunk = [b"10000\r\n", &[b' '; 1 << 16][..], b"\r\n"].concat();
        while taken < length {
            write.write_all(&chunk).await?;
            taken += 1 << 16;
        }
        pending::<std::io::Result<()>>().await
    };
    tokio::select! {
        _ = read.read_to_end(&mut answer) => {}
        _ = feeding => {} // It takes no more.
    }
    // What it said before it closed.
    let _ = read.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    say(&json!({"taken": taken, "answer": answer.lines().next()}).to_string());
    Ok(())
}

/// To the operator at HOST:PORT, whose certificate names HOST.
async fn connector(address: &str) -> anyhow::Result<Connector> {
    let roots = tokio::fs::read_to_string(format!("{FOLDER}/ca.crt")).await?;
    let (host, _) = address.rsplit_once(':').context("ADDR is HOST:PORT")?;
    Ok(Connector::new(super::serve::resolve(address).await?, host, &roots)?)
}
