//! From a snapshot and what clients said of it to the board.

use serde_json::json;

use super::*;
use crate::model::{Inputs, Kind, ObjectKey, Service};
use crate::watch::{Declared, Typed};
use crate::xds::registry::StreamId;
use crate::xds::session::{Change, Protocol};
use crate::xds::snapshot::ResourceKind;

struct Fixture {
    keeper: Keeper,
    hub: Arc<Hub>,
    published: Published,
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
        let keeper = Keeper::new("r", hub.clone(), Arc::default(), Arc::default());
        Self { keeper, hub, published, now: Instant::now() }
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
        let (id, _) = registry.open(Protocol::Delta, None);
        registry.name(id, &node.into());
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
