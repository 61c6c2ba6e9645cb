//! The holder's side: takes what other replicas say, and lays it on the desk.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::codegen::{Service, http};
use tonic::server::{ClientStreamingService, Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::wire::{Thanks, Update};
use super::{MESSAGE_BYTES, PATH};
use crate::leader::Role;
use crate::status::desk::Desk;

/// The gRPC service.
#[derive(Clone, Debug)]
pub struct Reports {
    desk: Arc<Desk>,
    role: watch::Receiver<Role>,
    shutdown: watch::Receiver<bool>,
}

impl Reports {
    /// Takes reports while this replica holds the Lease, until `shutdown`.
    #[must_use]
    pub fn new(desk: Arc<Desk>, role: watch::Receiver<Role>, shutdown: watch::Receiver<bool>) -> Self {
        Self { desk, role, shutdown }
    }
}

impl NamedService for Reports {
    const NAME: &'static str = "fairlead.internal.v1.Reports";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<tonic::body::Body>> for Reports {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let reports = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("only Report is served").into_http());
            }
            let codec: ProstCodec<Thanks, Update> = ProstCodec::default();
            let mut server = Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES);
            Ok(server.client_streaming(reports, request).await)
        })
    }
}

impl ClientStreamingService<Update> for Reports {
    type Response = Thanks;
    type Future = Answer<Result<Response<Thanks>, Status>>;

    fn call(&mut self, request: Request<Streaming<Update>>) -> Self::Future {
        let reports = self.clone();
        Box::pin(async move { reports.take(request.into_inner()).await })
    }
}

impl Reports {
    async fn take(mut self, mut updates: Streaming<Update>) -> Result<Response<Thanks>, Status> {
        if !self.role.borrow().holds() {
            return Err(Status::failed_precondition("this replica does not hold the lease"));
        }
        let Some(first) = updates.message().await? else { return Ok(Response::new(Thanks {})) };
        let replica: Arc<str> = first.replica.as_str().into();
        if replica.is_empty() || replica == *self.desk.own() {
            let message =
                format!("the replica is called {replica:?}; each needs a name of its own, see --replica");
            return Err(Status::invalid_argument(message));
        }
        let counter = self.desk.connect(replica);
        counter.update(first.read());
        loop {
            tokio::select! {
                update = updates.message() => match update? {
                    Some(update) => counter.update(update.read()),
                    None => return Ok(Response::new(Thanks {})),
                },
                _ = self.role.wait_for(|role| !role.holds()) => {
                    return Err(Status::failed_precondition("this replica does not hold the lease any more"));
                }
                _ = self.shutdown.wait_for(|stop| *stop) => {
                    return Err(Status::unavailable("the operator is shutting down"));
                }
            }
        }
    }
}
