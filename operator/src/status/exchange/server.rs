//! The holder's side: takes what other replicas say, and lays it on the desk.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tonic::codegen::{Service, http};
use tonic::server::{ClientStreamingService, Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::wire::{Thanks, Update};
use super::{MESSAGE_BYTES, PATH};
use crate::identity::Identities;
use crate::leader::Role;
use crate::status::desk::Desk;
use crate::tls::accept::Guest;

/// The service account of the operator's pods, one in a cluster.
const SERVICE_ACCOUNT: &str = "fairlead-operator";

/// Lets only replicas of the operator in.
#[derive(Clone, Debug)]
pub struct Gate {
    identities: Arc<Identities>,
    namespace: Arc<str>,
}

impl Gate {
    /// Replicas run in this namespace.
    #[must_use]
    pub fn new(identities: Arc<Identities>, namespace: &str) -> Self {
        Self { identities, namespace: namespace.into() }
    }

    /// For how long the caller may report.
    async fn admit<T>(&self, request: &Request<T>) -> Result<Duration, Status> {
        let now = Timestamp::now();
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let caller = self.identities.identify(authorization, now).await;
        let caller = caller.map_err(|unknown| Status::unauthenticated(unknown.to_string()))?;
        if (&*caller.namespace, &*caller.service_account) != (&*self.namespace, SERVICE_ACCOUNT) {
            return Err(Status::permission_denied("only replicas of the operator report here"));
        }
        if let Some(guest) = request.extensions().get::<Guest>() {
            guest.introduce();
        }
        Ok(caller.expires.duration_since(now).try_into().unwrap_or_default())
    }
}

/// The gRPC service.
#[derive(Clone, Debug)]
pub struct Reports {
    desk: Arc<Desk>,
    role: watch::Receiver<Role>,
    /// `None`: nobody is asked who he is.
    gate: Option<Gate>,
    shutdown: watch::Receiver<bool>,
}

impl Reports {
    /// Takes reports while this replica holds the Lease, until `shutdown`.
    #[must_use]
    pub fn new(
        desk: Arc<Desk>,
        role: watch::Receiver<Role>,
        gate: Option<Gate>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self { desk, role, gate, shutdown }
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
        Box::pin(async move {
            let Some(gate) = reports.gate.clone() else { return reports.take(request.into_inner()).await };
            let left = gate.admit(&request).await?;
            match tokio::time::timeout(left, reports.take(request.into_inner())).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::unavailable("the token is over; come again with the next one")),
            }
        })
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
