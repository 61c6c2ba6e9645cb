//! An xDS client as simple as can be, on a connection of its own.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::LONG;
use crate::xds::session::Protocol;
pub(super) use crate::xds::snapshot::ResourceKind as Kind;

/// What came in one response.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) names: Vec<String>,
    pub(super) removed: Vec<String>,
    /// Delta only.
    pub(super) versions: HashMap<String, String>,
}

enum Stream {
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
    State(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
}

/// The client; it answers every response at once.
pub(super) struct Client {
    node: Node,
    stream: Stream,
    /// State of the world repeats what it wants.
    wants: HashMap<Kind, Vec<String>>,
    /// Responses of other types that came meanwhile.
    later: Vec<(Kind, Sent)>,
    /// Whether it refuses what comes.
    pub(super) refuses: bool,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr, protocol: Protocol, node: &str) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::new(channel(address).await);
        let stream = match protocol {
            Protocol::Delta => {
                let (send, requests) = mpsc::channel(16);
                let responses =
                    client.delta_aggregated_resources(ReceiverStream::new(requests)).await.unwrap();
                Stream::Delta(send, responses.into_inner())
            }
            Protocol::State => {
                let (send, requests) = mpsc::channel(16);
                let responses =
                    client.stream_aggregated_resources(ReceiverStream::new(requests)).await.unwrap();
                Stream::State(send, responses.into_inner())
            }
        };
        let node = Node { id: node.to_owned(), ..Node::default() };
        Self { node, stream, wants: HashMap::new(), later: Vec::new(), refuses: false }
    }

    pub(super) async fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        self.resume(kind, names, HashMap::new()).await;
    }

    pub(super) async fn resume(&mut self, kind: Kind, names: &[&str], has: HashMap<String, String>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.wants.insert(kind, names.clone());
        let (node, type_url) = (Some(self.node.clone()), kind.type_url().to_owned());
        // A refused stream is noticed where its end is awaited.
        match &self.stream {
            Stream::Delta(send, _) => {
                let request = DeltaDiscoveryRequest {
                    node,
                    type_url,
                    resource_names_subscribe: names,
                    initial_resource_versions: has,
                    ..DeltaDiscoveryRequest::default()
                };
                let _ = send.send(request).await;
            }
            Stream::State(send, _) => {
                let request =
                    DiscoveryRequest { node, type_url, resource_names: names, ..DiscoveryRequest::default() };
                let _ = send.send(request).await;
            }
        }
    }

    /// The next response of that type, answered.
    pub(super) async fn receive(&mut self, kind: Kind) -> Sent {
        if let Some(at) = self.later.iter().position(|(of, _)| *of == kind) {
            return self.later.remove(at).1;
        }
        loop {
            let (of, sent) =
                tokio::time::timeout(LONG, self.message()).await.expect("a response in time").unwrap();
            if of == kind {
                return sent;
            }
            self.later.push((of, sent));
        }
    }

    /// How the stream ends.
    pub(super) async fn ends(&mut self) -> Status {
        let end = async {
            loop {
                if let Err(status) = self.message().await {
                    return status;
                }
            }
        };
        tokio::time::timeout(LONG, end).await.expect("an end in time")
    }

    /// Says goodbye, and waits until the operator has heard it.
    pub(super) async fn close(self) {
        match self.stream {
            Stream::Delta(send, mut responses) => {
                drop(send);
                while let Ok(Some(_)) = responses.message().await {}
            }
            Stream::State(send, mut responses) => {
                drop(send);
                while let Ok(Some(_)) = responses.message().await {}
            }
        }
    }

    async fn message(&mut self) -> Result<(Kind, Sent), Status> {
        let over = || Status::ok("the stream is over");
        let error_detail = self.refuses.then(|| RpcStatus {
            code: 3,
            message: "refused by the test".to_owned(),
            ..RpcStatus::default()
        });
        match &mut self.stream {
            Stream::Delta(send, responses) => {
                let response = responses.message().await?.ok_or_else(over)?;
                let kind = Kind::from_type_url(&response.type_url).unwrap();
                let answer = DeltaDiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                };
                let _ = send.send(answer).await;
                let resources = response.resources.into_iter();
                let versions: HashMap<_, _> = resources.map(|it| (it.name, it.version)).collect();
                let names = versions.keys().cloned().collect();
                Ok((kind, Sent { names, removed: response.removed_resources, versions }))
            }
            Stream::State(send, responses) => {
                let response = responses.message().await?.ok_or_else(over)?;
                let kind = Kind::from_type_url(&response.type_url).unwrap();
                let names = self.wants.get(&kind).cloned().unwrap_or_default();
                let answer = DiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    version_info: response.version_info,
                    resource_names: names.clone(),
                    error_detail,
                    ..DiscoveryRequest::default()
                };
                let _ = send.send(answer).await;
                Ok((kind, Sent { names, ..Sent::default() }))
            }
        }
    }
}

async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Sends a request that is none, and gives the answer.
pub(super) async fn send_rubbish(address: SocketAddr) -> Status {
    let mut client = tonic::client::Grpc::new(channel(address).await);
    client.ready().await.unwrap();
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let requests = tonic::Request::new(tokio_stream::once(b"\xff\xff\xff rubbish".to_vec()));
    let responses = client.streaming(requests, PathAndQuery::from_static(path), Raw).await.unwrap();
    responses.into_inner().message().await.unwrap_err()
}

/// Bytes as they are.
#[derive(Clone)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}
