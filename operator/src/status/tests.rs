//! From a snapshot and what clients said of it to the board.

use serde_json::json;

use super::*;
use crate::model::{Inputs, Kind, ObjectKey, Pod, Service};
use crate::publish::presence::Presence;
use crate::watch::{Declared, Typed};
use crate::xds::registry::StreamId;
use crate::xds::session::{Change, Protocol};
use crate::xds::snapshot::ResourceKind;

struct Fixture {
    keeper: Keeper,
    hub: Arc<Hub>,
    published: Published,
    presence: Arc<Presence>,
    desk: Arc<Desk>,
    role: watch::Sender<Role>,
    now: Instant,
}

fn object() -> ObjectRef {
    ObjectRef::new(Kind::ServiceRoute, ObjectKey::new("shop", "reviews"))
}

/// What is published of one Service with a route of that timeout.
fn published(timeout: &str, generation: i64, edition: u64, previous: Option<&Published>) -> Published {
    let written = json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "ServiceRoute",
        "metadata": {"name": "reviews", "namespace": "shop", "generation": generation},
        "spec": {"parentRefs": [{"name": "reviews"}],
                 "rules": [{"backendRefs": [{"name": "reviews", "port": 9080}], "timeouts": {"request": timeout}}]},
    });
    let route = Arc::new(serde_json::from_value(written.clone()).unwrap());
    let api = json!({"metadata": {"name": "reviews", "namespace": "shop"},
                     "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 9080, "name": "http"}]}});
    let service = Service::from_api(&serde_json::from_value(api).unwrap()).unwrap();
    let mut inputs = Inputs::default();
    inputs.services.insert(service.key.clone(), Arc::new(service));
    inputs.service_routes.insert(object().key, Arc::clone(&route));
    let (mesh, problems) = crate::model::compile(&inputs);
    assert_eq!(problems, []);
    let declared = Declared {
        generation,
        content: Ok(Typed::ServiceRoute(route)),
        written: Arc::new(written),
        status: Status::default(),
    };
    Published {
        snapshot: Arc::new(Snapshot::new(Arc::new(mesh), previous.map(|previous| &*previous.snapshot))),
        declared: Arc::new([(object(), Arc::new(declared))].into()),
        problems: Arc::default(),
        faults: Arc::default(),
        edition,
    }
}

impl Fixture {
    fn new() -> Self {
        let published = published("1s", 1, 1, None);
        let hub = Arc::new(Hub::new(published.snapshot.clone()));
        let presence = Arc::new(Presence::new("fairlead-system"));
        let desk = Arc::new(Desk::new("r", presence.clone(), hub.clone()));
        let (role, seen) = watch::channel(Role::Holder);
        let keeper = Keeper::new(hub.clone(), Arc::default(), desk.clone(), seen, Arc::default());
        Self { keeper, hub, published, presence, desk, role, now: Instant::now() }
    }

    /// "Programmed" in short, with acked of subscribed.
    fn programmed(&mut self) -> String {
        self.keeper.update(&self.published, self.now, Timestamp::UNIX_EPOCH);
        let status = &self.keeper.statuses[&object()];
        let (programmed, rollout) = (status.conditions.last().unwrap(), status.rollout.clone().unwrap());
        format!("{} {}/{} of {}", programmed.reason, rollout.acked, rollout.subscribed, rollout.generation)
    }

    fn publish(&mut self, timeout: &str, generation: i64) {
        let edition = self.published.edition + 1;
        self.published = published(timeout, generation, edition, Some(&self.published));
        self.hub.publish(&self.published.snapshot);
    }

    fn client(&self, node: &str) -> StreamId {
        let mut registry = self.hub.registry();
        let (id, _) = registry.open(Protocol::Delta, None, None);
        registry.name(id, &node.into(), None, self.now);
        registry.apply(id, vec![Change::Subscribed(ResourceKind::Route, "shop/reviews:9080".into())]);
        id
    }

    /// The client takes what is served now.
    fn acks(&self, id: StreamId) {
        let name: Arc<str> = "shop/reviews:9080".into();
        let version =
            self.hub.snapshot().get(ResourceKind::Route, &name).map(|resource| resource.version.clone());
        self.hub.registry().apply(id, vec![Change::Acked(ResourceKind::Route, name, version)]);
    }
}

#[test]
fn a_generation_is_programmed_when_all_have_acked_its_versions() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.programmed(), "NoSubscribers 0/0 of 1");
    let (a, b) = (fixture.client("shop/a"), fixture.client("shop/b"));
    assert_eq!(fixture.programmed(), "Pending 0/2 of 1");
    fixture.acks(a);
    assert_eq!(fixture.programmed(), "Pending 1/2 of 1");
    fixture.acks(b);
    assert_eq!(fixture.programmed(), "Programmed 2/2 of 1");
    fixture.publish("2s", 2);
    assert_eq!(fixture.programmed(), "Pending 0/2 of 2");
    fixture.acks(a);
    fixture.acks(b);
    assert_eq!(fixture.programmed(), "Programmed 2/2 of 2");
}

#[test]
fn a_generation_that_changes_no_bytes_is_acked_at_once() {
    let mut fixture = Fixture::new();
    let a = fixture.client("shop/a");
    fixture.acks(a);
    assert_eq!(fixture.programmed(), "Programmed 1/1 of 1");
    fixture.publish("1000ms", 2);
    assert_eq!(fixture.programmed(), "Programmed 1/1 of 2");
}

#[test]
fn who_is_lost_is_waited_for_a_while() {
    let mut fixture = Fixture::new();
    let a = fixture.client("shop/a");
    fixture.acks(a);
    fixture.hub.registry().close(a, crate::xds::registry::Ending::Lost, fixture.now);
    // It runs what it acked.
    assert_eq!(fixture.programmed(), "Programmed 1/1 of 1");
    fixture.publish("2s", 2);
    assert_eq!(fixture.programmed(), "Pending 0/1 of 2");
    fixture.now += Duration::from_secs(60);
    assert_eq!(fixture.programmed(), "NoSubscribers 0/0 of 2");
}

#[test]
fn what_is_gone_has_no_status() {
    let mut fixture = Fixture::new();
    fixture.programmed();
    fixture.published.declared = Arc::default();
    fixture.published.edition += 1;
    assert!(fixture.keeper.update(&fixture.published, fixture.now, Timestamp::UNIX_EPOCH));
    assert!(fixture.keeper.statuses.is_empty());
}

#[test]
fn whose_pod_is_gone_is_not_waited_for() {
    let mut fixture = Fixture::new();
    let key = ObjectKey::new("shop", "a");
    fixture.presence.pod(&key, Some(&Pod::default()));
    let a = fixture.client("shop/a");
    fixture.hub.registry().close(a, crate::xds::registry::Ending::Lost, fixture.now);
    assert_eq!(fixture.programmed(), "Pending 0/1 of 1");
    fixture.presence.pod(&key, None);
    assert_eq!(fixture.programmed(), "NoSubscribers 0/0 of 1");
}

/// What another replica says of the one object.
fn another(declared: &Declared, node: &str, state: report::ClientState) -> Said {
    let report = report::Report { edition: edition(declared), clients: [(node.into(), state)].into() };
    let client = Client { stream: Some(1), open: true };
    Said { clients: Arc::new([(node.into(), client)].into()), objects: [(object(), Arc::new(report))].into() }
}

#[test]
fn the_holder_counts_the_clients_of_all_and_a_follower_its_own() {
    let mut fixture = Fixture::new();
    let a = fixture.client("shop/a");
    fixture.acks(a);
    assert_eq!(fixture.programmed(), "Programmed 1/1 of 1");
    let counter = fixture.desk.connect("other".into());
    let declared = fixture.published.declared[&object()].clone();
    let mut said = another(&declared, "shop/b", report::ClientState::Pending);
    said.since(None, 100).into_iter().for_each(|update| counter.update(update));
    assert_eq!(fixture.programmed(), "Pending 1/2 of 1");
    let acked = another(&declared, "shop/b", report::ClientState::Acked);
    acked.since(Some(&said), 100).into_iter().for_each(|update| counter.update(update));
    said = acked;
    assert_eq!(fixture.programmed(), "Programmed 2/2 of 1");
    // The other has not compiled what this one has.
    fixture.publish("2s", 2);
    fixture.acks(a);
    assert_eq!(fixture.programmed(), "ReplicaBehind 1/2 of 2");
    let declared = fixture.published.declared[&object()].clone();
    let acked = another(&declared, "shop/b", report::ClientState::Acked);
    acked.since(Some(&said), 100).into_iter().for_each(|update| counter.update(update));
    assert_eq!(fixture.programmed(), "Programmed 2/2 of 2");
    // It is the holder no more.
    fixture.role.send_replace(Role::Follower(None));
    assert_eq!(fixture.programmed(), "Programmed 1/1 of 2");
    assert_eq!(fixture.keeper.tenure.writes(), None);
}

/// The same object, with a status that another replica wrote.
fn had_subscribers_before(published: &mut Published) {
    let mut declared = Declared::clone(&published.declared[&object()]);
    declared.status.rollout =
        Some(fairlead_crds::Rollout { subscribed: 3, ..fairlead_crds::Rollout::default() });
    published.declared = Arc::new([(object(), Arc::new(declared))].into());
}

#[test]
fn a_new_holder_writes_nothing_until_who_was_there_has_had_the_time_to_appear() {
    let mut fixture = Fixture::new();
    fixture.role.send_replace(Role::Follower(None));
    had_subscribers_before(&mut fixture.published);
    fixture.programmed();
    assert_eq!(fixture.keeper.tenure.writes(), None);
    fixture.role.send_replace(Role::Holder);
    fixture.programmed();
    assert_eq!(fixture.keeper.tenure.writes(), None);
    fixture.now += RECONNECT;
    fixture.programmed();
    assert_eq!(fixture.keeper.tenure.writes(), Some(1));
    // Another time is another number.
    fixture.role.send_replace(Role::Follower(None));
    fixture.programmed();
    fixture.role.send_replace(Role::Holder);
    fixture.programmed();
    fixture.now += RECONNECT;
    fixture.programmed();
    assert_eq!(fixture.keeper.tenure.writes(), Some(2));
}

#[test]
fn a_new_holder_waits_for_a_ready_replica_and_not_for_ever() {
    let mut fixture = Fixture::new();
    let slice = json!({
        "metadata": {"name": "s", "namespace": "fairlead-system", "labels": {"kubernetes.io/service-name": "fairlead-operator"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "other"}}],
    });
    let slice = crate::model::EndpointSlice::from_api(&serde_json::from_value(slice).unwrap()).unwrap();
    fixture.presence.slice(&slice.key, Some(&slice));
    assert_eq!(fixture.programmed(), "ReplicaBehind 0/0 of 1");
    fixture.now += RECONNECT;
    fixture.programmed();
    assert_eq!(fixture.keeper.tenure.writes(), None);
    fixture.now += RECONNECT;
    assert_eq!(fixture.programmed(), "ReplicaBehind 0/0 of 1");
    assert_eq!(fixture.keeper.tenure.writes(), Some(1));
}

#[test]
fn where_nobody_subscribed_there_is_nobody_to_wait_for() {
    let mut fixture = Fixture::new();
    fixture.programmed();
    assert_eq!(fixture.keeper.tenure.writes(), Some(1));
}

#[test]
fn a_new_holder_keeps_the_times_that_were_written() {
    let mut fixture = Fixture::new();
    had_subscribers_before(&mut fixture.published);
    let a = fixture.client("shop/a");
    fixture.acks(a);
    let mut declared = Declared::clone(&fixture.published.declared[&object()]);
    fixture.programmed();
    declared.status = fixture.keeper.statuses[&object()].clone();
    fixture.published.declared = Arc::new([(object(), Arc::new(declared))].into());
    fixture.role.send_replace(Role::Follower(None));
    fixture.programmed();
    // For a while it sees the object as Pending, and says so to nobody.
    fixture.role.send_replace(Role::Holder);
    fixture
        .hub
        .registry()
        .apply(a, vec![Change::Acked(ResourceKind::Route, "shop/reviews:9080".into(), None)]);
    let later = Timestamp::from_second(1_000).unwrap();
    fixture.keeper.update(&fixture.published, fixture.now, later);
    assert_eq!(fixture.keeper.statuses[&object()].conditions.last().unwrap().status, "False");
    fixture.acks(a);
    fixture.keeper.update(&fixture.published, fixture.now, later);
    fixture.now += RECONNECT;
    fixture.keeper.update(&fixture.published, fixture.now, later);
    assert_eq!(fixture.keeper.tenure.writes(), Some(2));
    assert_eq!(fixture.keeper.statuses[&object()], fixture.published.declared[&object()].status);
}
