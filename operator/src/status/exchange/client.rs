//! The follower's side: finds the holder and tells it what this replica's clients said, for ever.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::wire::{Thanks, Update};
use super::{ENTRIES, PATH};
use crate::certificates::peers::Peers;
use crate::leader::Role;
use crate::status::said::{self, Said};

/// A connection stands within milliseconds, or something is wrong.
const CONNECT: Duration = Duration::from_secs(2);
/// A holder that has gone without a word is found out within the sum.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
/// The first wait is at most this long, every later one at most twice as long as the one before...
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// ...up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Reports as `replica` to whoever holds the Lease, while that is another replica; over TLS where `peers` says
/// how.
pub async fn run(
    replica: Arc<str>,
    mut role: watch::Receiver<Role>,
    said: watch::Receiver<Said>,
    peers: Option<Peers>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let holder = match &*role.borrow_and_update() {
            Role::Follower(Some(holder)) => holder.address,
            Role::Holder | Role::Follower(None) => None,
        };
        let Some(address) = holder else {
            wait = FIRST_WAIT;
            match role.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            }
        };
        let started = Instant::now();
        let reporting = async {
            let status = report(address, &replica, said.clone(), peers.as_ref()).await;
            let why = status.message();
            if wait == FIRST_WAIT {
                tracing::info!(%address, code = ?status.code(), why, "the holder of the lease takes no report; will be tried again");
            } else {
                tracing::debug!(%address, code = ?status.code(), why, "the holder of the lease still takes no report");
            }
            if started.elapsed() >= LONGEST_WAIT {
                return FIRST_WAIT;
            }
            tokio::time::sleep(wait.mul_f64(fastrand::f64())).await;
            (wait * 2).min(LONGEST_WAIT)
        };
        // Whatever was under way is of no use to another holder.
        wait = tokio::select! {
            next = reporting => next,
            alive = role.changed() => match alive {
                Ok(()) => FIRST_WAIT,
                Err(_) => return,
            },
        };
    }
}

/// Reports to this address, until something is in the way.
async fn report(
    address: SocketAddr,
    replica: &str,
    said: watch::Receiver<Said>,
    peers: Option<&Peers>,
) -> Status {
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint.connect_timeout(CONNECT),
        Err(error) => return Status::internal(error.to_string()),
    };
    let endpoint = endpoint.http2_keep_alive_interval(PING).keep_alive_timeout(PONG);
    let connected = match peers.map(|peers| peers.connector(address)).transpose() {
        Ok(Some(connector)) => endpoint.connect_with_connector(connector).await,
        Ok(None) => endpoint.connect().await,
        Err(error) => return Status::internal(error.to_string()),
    };
    let channel = match connected {
        Ok(channel) => channel,
        Err(error) => return Status::unavailable(error.to_string()),
    };
    let mut client = Grpc::new(channel);
    if let Err(error) = client.ready().await {
        return Status::unavailable(error.to_string());
    }
    let codec: ProstCodec<Update, Thanks> = ProstCodec::default();
    let mut updates = tonic::Request::new(updates(replica.to_owned(), said));
    if let Some(peers) = peers {
        let value = match peers.authorization().await {
            Ok(value) => value,
            Err(error) => return Status::unauthenticated(error),
        };
        let Ok(value) = value.parse() else { return Status::unauthenticated("the token is no text") };
        updates.metadata_mut().insert("authorization", value);
    }
    match client.client_streaming(updates, PathAndQuery::from_static(PATH), codec).await {
        Ok(_) => Status::unavailable("it ended the stream"),
        Err(status) => status,
    }
}

/// Everything, then what changes; made when the transport has room for it.
fn updates(replica: String, said: watch::Receiver<Said>) -> impl futures::Stream<Item = Update> {
    let teller = Teller { replica, said, told: None, batch: VecDeque::new() };
    futures::stream::unfold(teller, |mut teller| async move {
        let update = teller.next().await?;
        Some((Update::write(std::mem::take(&mut teller.replica), update), teller))
    })
}

/// What was told, and what is to be.
struct Teller {
    /// Empty once it was said.
    replica: String,
    said: watch::Receiver<Said>,
    told: Option<Said>,
    batch: VecDeque<said::Update>,
}

impl Teller {
    async fn next(&mut self) -> Option<said::Update> {
        loop {
            if let Some(update) = self.batch.pop_front() {
                return Some(update);
            }
            if self.told.is_some() {
                self.said.changed().await.ok()?;
            }
            let now = self.said.borrow_and_update().clone();
            self.batch = now.since(self.told.as_ref(), ENTRIES).into();
            self.told = Some(now);
        }
    }
}
