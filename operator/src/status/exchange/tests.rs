//! Two replicas over a real connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

use super::client;
use super::server::Reports;
use super::wire::Update;
use crate::leader::{Holder, Role};
use crate::model::{Kind, ObjectKey, ObjectRef};
use crate::publish::presence::Presence;
use crate::status::desk::Desk;
use crate::status::report::{ClientState, Edition, Report};
use crate::status::said::{self, Client, Said};
use crate::xds::hub::Hub;
use crate::xds::snapshot::Snapshot;

/// Whatever is awaited comes long before.
const LONG: Duration = Duration::from_secs(30);

fn object() -> ObjectRef {
    ObjectRef::new(Kind::RateLimitPolicy, ObjectKey::new("shop", "reviews"))
}

fn edition() -> Edition {
    Edition { uid: "u".into(), generation: 3 }
}

/// So many clients, of which one is not there yet.
fn said(clients: u64) -> Said {
    let node = |number: u64| Arc::<str>::from(format!("shop/{number}"));
    let state = |number| match number {
        0 => ClientState::Pending,
        1 => ClientState::Nacked("no".into()),
        2 => ClientState::Panicking("shop/reviews:80".into()),
        _ => ClientState::Acked,
    };
    let client = |number| Client { stream: (number != 2).then_some(number), open: number != 3 };
    let report = Report {
        edition: edition(),
        clients: (0..clients).map(|number| (node(number), state(number))).collect(),
    };
    Said {
        clients: Arc::new(
            (0..clients).map(|number| (node(number), client(number))).collect::<BTreeMap<_, _>>(),
        ),
        objects: [(object(), Arc::new(report))].into(),
    }
}

#[allow(clippy::disallowed_methods, reason = "ends with the test")]
fn start(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}

struct Replica {
    desk: Arc<Desk>,
    hub: Arc<Hub>,
    role: watch::Sender<Role>,
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Replica {
    async fn start(name: &str, role: Role) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hub = Arc::new(Hub::new(Arc::new(Snapshot::new(Arc::default(), None))));
        let desk = Arc::new(Desk::new(name, Arc::new(Presence::new("fairlead-system")), hub.clone()));
        let ((role, seen), (shutdown, ending)) = (watch::channel(role), watch::channel(false));
        let reports = Reports::new(desk.clone(), seen, None, ending);
        let serving = start(async move {
            let server = tonic::transport::Server::builder().add_service(reports);
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self { desk, hub, role, address, shutdown, serving }
    }

    /// Subscribed and acked, as soon as the tally satisfies.
    async fn until(&self, subscribed: u32, replicas: usize) -> u32 {
        let wait = async {
            loop {
                let needed = self.desk.records().needed(&self.desk.presence);
                let tally = self.desk.records().tally(&object(), &edition(), &needed);
                if (tally.rollout.subscribed, tally.replicas) == (subscribed, replicas) {
                    return tally.rollout.acked;
                }
                self.hub.moves().await;
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn followed(replica: &Replica) -> Role {
    Role::Follower(Some(Holder { identity: "holder_1".into(), address: Some(replica.address) }))
}

#[tokio::test]
async fn the_holder_hears_everything_and_then_what_changes() {
    let holder = Replica::start("a", Role::Holder).await;
    let (tell, heard) = watch::channel(said(5_000));
    let (_role, role) = watch::channel(followed(&holder));
    let reporter = start(client::run("b".into(), role, heard, None));
    assert_eq!(holder.until(5_000, 2).await, 4_998);
    tell.send_replace(said(2));
    assert_eq!(holder.until(2, 2).await, 0);
    // A replica that is gone is not needed, but what it said holds for a while.
    reporter.abort();
    assert_eq!(holder.until(2, 1).await, 0);
}

#[tokio::test]
async fn a_follower_goes_to_the_next_holder() {
    let (a, c) = (Replica::start("a", Role::Holder).await, Replica::start("c", Role::Follower(None)).await);
    let (_tell, heard) = watch::channel(said(7));
    let (role, seen) = watch::channel(Role::Follower(None));
    let reporter = start(client::run("b".into(), seen, heard, None));
    role.send_replace(followed(&a));
    a.until(7, 2).await;
    // It does not hold it yet: it is asked again until it does.
    a.role.send_replace(Role::Follower(None));
    role.send_replace(followed(&c));
    a.until(7, 1).await;
    c.role.send_replace(Role::Holder);
    c.until(7, 2).await;
    // It ends: the follower asks on.
    c.shutdown.send_replace(true);
    c.until(7, 1).await;
    assert!(!reporter.is_finished());
    reporter.abort();
}

#[tokio::test]
async fn two_replicas_of_one_name_do_not_overwrite_each_other() {
    let holder = Replica::start("a", Role::Holder).await;
    let (_tell, heard) = watch::channel(said(7));
    let (_role, role) = watch::channel(followed(&holder));
    let impostor = start(client::run("a".into(), role.clone(), heard.clone(), None));
    let other = start(client::run("b".into(), role, heard, None));
    holder.until(7, 2).await;
    impostor.abort();
    other.abort();
}

#[test]
fn messages_mean_what_was_meant() {
    let update = said::Update {
        removed: vec![object()],
        gone: vec!["shop/old".into()],
        ..said(5).since(None, 100).remove(0)
    };
    assert_eq!(Update::write("b".to_owned(), update.clone()).read(), update);
}
