//! Which replica does what only one may do: the one that holds the Lease `fairlead-operator` in the operator's
//! namespace. It writes statuses; every replica serves xDS and webhooks.
//!
//! ```text
//!             free, or not renewed for its whole duration (by OUR clock, since WE saw it change)
//!  Follower ──────────────── replace, which another's change refuses ───────────────> Holder
//!     ^                                                                                 │ renews every 2 s
//!     └── taken by another | not renewed for 10 s, also while a request hangs | SIGTERM: released
//! ```
//!
//! Times are never compared between machines: a Lease counts as abandoned when its content has not changed
//! for its duration while we looked. The holder gives up 5 s before that can happen to anyone else, counted
//! from before its last successful request went out. Two clocks need only run equally fast.
//!
//! Our own and no crate's: those that exist compare the written time with the local clock, and cannot put the
//! holder's address into the very write that takes the Lease.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The Lease's name, one in a cluster.
const LEASE: &str = "fairlead-operator";
/// The annotation with the address at which the holder takes reports; written together with its name.
const ADDRESS: &str = "fairlead.dev/address";
/// Nobody else takes a Lease that was renewed within this time. As in Kubernetes' own components, like the
/// next two.
const DURATION: Duration = Duration::from_secs(15);
/// Who could not renew for so long is the holder no more.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the holder renews.
const RENEW: Duration = Duration::from_secs(2);
/// How often the others look: so soon does one of them follow a holder that ended in good order.
const LOOK: Duration = Duration::from_secs(1);
/// A request that takes longer is given up and made again.
const REQUEST: Duration = Duration::from_secs(4);
/// The end of the process does not wait longer for the release; without it, the Lease runs out.
const RELEASE: Duration = Duration::from_secs(2);

/// What this replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It holds the Lease, or there is only one replica.
    Holder,
    /// Another one does, or nobody known.
    Follower(Option<Holder>),
}

/// Who holds the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The replica's name, with the mark of its process.
    pub identity: Arc<str>,
    /// Where it takes reports.
    pub address: Option<SocketAddr>,
}

impl Role {
    /// Whether this replica is the one.
    #[must_use]
    pub fn holds(&self) -> bool {
        *self == Self::Holder
    }
}

/// One that stands for the Lease.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The operator's namespace.
    pub namespace: String,
    /// This replica's name.
    pub replica: String,
    /// Where it takes reports when it is the holder.
    pub address: SocketAddr,
}

/// Stands for the Lease and says in `role` how it goes, until `shutdown`; then a held Lease is released.
pub async fn run(
    client: Client,
    candidate: Candidate,
    role: watch::Sender<Role>,
    mut shutdown: watch::Receiver<bool>,
) {
    let leases: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let mut election = Election::new(&candidate);
    let mut failing = false;
    loop {
        let asked = Instant::now();
        let until = election.deadline().map_or(asked + REQUEST, |deadline| deadline.min(asked + REQUEST));
        let turn = tokio::select! {
            turn = timeout_at(until, turn(&leases, &mut election)) => turn,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let error = match turn {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the API server does not answer".to_owned()),
        };
        if let Some(error) = &error {
            if failing {
                tracing::debug!(error, "the lease can still not be read or written");
            } else {
                tracing::warn!(error, "the lease cannot be read or written; will be tried again");
            }
        }
        failing = error.is_some();
        tell(&role, election.role(Instant::now()));
        let next = if role.borrow().holds() {
            (asked + RENEW).min(election.deadline().unwrap_or(asked))
        } else {
            Instant::now() + LOOK
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
        // The deadline may have passed meanwhile.
        tell(&role, election.role(Instant::now()));
    }
    let held = role.borrow().holds();
    // Whoever writes stops first.
    tell(&role, Role::Follower(None));
    if held && timeout_at(Instant::now() + RELEASE, release(&leases, &election)).await.is_err() {
        tracing::warn!("the lease could not be released in time; it runs out");
    }
}

fn tell(role: &watch::Sender<Role>, now: Role) {
    role.send_if_modified(|role| {
        let changed = *role != now;
        if changed {
            match &now {
                Role::Holder => tracing::info!("this replica holds the lease"),
                Role::Follower(Some(holder)) => {
                    tracing::info!(holder = %holder.identity, "another replica holds the lease");
                }
                Role::Follower(None) => tracing::info!("nobody known holds the lease"),
            }
            *role = now;
        }
        changed
    });
}

/// Looks at the Lease, and takes or renews it if that is right.
async fn turn(leases: &Api<Lease>, election: &mut Election) -> Result<(), kube::Error> {
    let lease = leases.get_opt(LEASE).await?;
    let asked = Instant::now();
    let Some(wanted) = election.look(lease, asked, Timestamp::now()) else { return Ok(()) };
    let parameters = PostParams::default();
    let written = if wanted.metadata.resource_version.is_some() {
        leases.replace(LEASE, &parameters, &wanted).await
    } else {
        leases.create(&parameters, &wanted).await
    };
    match written {
        Ok(lease) => election.won(&lease, asked),
        // Another was quicker; who, is seen at the next look.
        Err(kube::Error::Api(response)) if response.code == 409 => election.lost(),
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn release(leases: &Api<Lease>, election: &Election) {
    let lease = match leases.get_opt(LEASE).await {
        Ok(lease) => lease,
        Err(error) => return tracing::warn!(%error, "the lease could not be released; it runs out"),
    };
    let Some(free) = lease.and_then(|lease| election.freed(lease)) else { return };
    match leases.replace(LEASE, &PostParams::default(), &free).await {
        Ok(_) => tracing::info!("the lease is released"),
        Err(error) => tracing::warn!(%error, "the lease could not be released; it runs out"),
    }
}

/// The state of a candidate: no client, no clock.
#[derive(Debug)]
struct Election {
    /// No other process has it: a restarted one must not take itself for the one before, nor two replicas of
    /// one name each other.
    identity: String,
    address: SocketAddr,
    /// What the Lease said, and since when.
    seen: Option<(LeaseSpec, Instant)>,
    holder: Option<Holder>,
    /// When the last successful request to hold it went out.
    renewed: Option<Instant>,
}

impl Election {
    fn new(candidate: &Candidate) -> Self {
        let mark = RandomState::new().hash_one(&candidate.replica);
        Self {
            identity: format!("{}_{mark:016x}", candidate.replica),
            address: candidate.address,
            seen: None,
            holder: None,
            renewed: None,
        }
    }

    /// Takes note of the Lease as it is. Gives what to write, if it may be taken or renewed.
    fn look(&mut self, lease: Option<Lease>, now: Instant, wall: Timestamp) -> Option<Lease> {
        let Lease { metadata, spec } = lease.unwrap_or_default();
        let spec = spec.unwrap_or_default();
        self.see(&metadata, &spec, now);
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        let ours = holder == Some(self.identity.as_str());
        if !ours {
            self.renewed = None;
        }
        if holder.is_some() && !ours && !self.is_abandoned(now) {
            return None;
        }
        let time = Some(MicroTime(wall));
        let transitions = spec.lease_transitions.unwrap_or_default();
        let written = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: if ours { spec.acquire_time } else { time.clone() },
            renew_time: time,
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        };
        let mut metadata = ObjectMeta { name: Some(LEASE.to_owned()), managed_fields: None, ..metadata };
        let annotations = metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(ADDRESS.to_owned(), self.address.to_string());
        Some(Lease { metadata, spec: Some(written) })
    }

    fn see(&mut self, metadata: &ObjectMeta, spec: &LeaseSpec, now: Instant) {
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != spec) {
            self.seen = Some((spec.clone(), now));
        }
        let address = metadata.annotations.as_ref().and_then(|all| all.get(ADDRESS)?.parse().ok());
        let identity = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        self.holder = identity.map(|identity| Holder { identity: identity.into(), address });
    }

    /// Whether the Lease has not changed for its whole duration while we looked.
    fn is_abandoned(&self, now: Instant) -> bool {
        let Some((spec, since)) = &self.seen else { return false };
        let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        now.duration_since(*since) >= duration.map_or(DURATION, Duration::from_secs)
    }

    /// What was asked for at that time was written.
    fn won(&mut self, lease: &Lease, asked: Instant) {
        self.see(&lease.metadata, &lease.spec.clone().unwrap_or_default(), asked);
        self.renewed = Some(asked);
    }

    /// Another changed the Lease first.
    fn lost(&mut self) {
        self.renewed = None;
    }

    /// Until when it is held, unless it is renewed.
    fn deadline(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + DEADLINE)
    }

    fn role(&mut self, now: Instant) -> Role {
        match self.deadline() {
            Some(deadline) if now < deadline => Role::Holder,
            _ => {
                self.renewed = None;
                Role::Follower(self.holder.clone().filter(|holder| *holder.identity != *self.identity))
            }
        }
    }

    /// The Lease without a holder; none if it is another's.
    fn freed(&self, lease: Lease) -> Option<Lease> {
        let Lease { mut metadata, spec } = lease;
        let spec = spec.filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))?;
        metadata.managed_fields = None;
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(ADDRESS);
        }
        Some(Lease { metadata, spec: Some(LeaseSpec { holder_identity: None, ..spec }) })
    }
}

#[cfg(test)]
mod tests;
