//! Clients that move, replicas that die, pods that go: what counts of what was said.

use std::collections::BTreeMap;

use super::*;
use crate::model::{EndpointSlice, Kind, ObjectKey, Pod};
use crate::status::report::Report;

use ClientState::{Acked, Pending};

fn object() -> ObjectRef {
    ObjectRef::new(Kind::ServiceRoute, ObjectKey::new("shop", "reviews"))
}

fn edition(generation: i64) -> Edition {
    Edition { uid: "u".into(), generation }
}

/// What a replica says of the one object: clients with the numbers of their streams.
fn said(generation: i64, clients: &[(&str, Option<u64>, ClientState)]) -> Said {
    let report = Report {
        edition: edition(generation),
        clients: clients.iter().map(|(node, _, state)| ((*node).into(), state.clone())).collect(),
    };
    let client = |stream| Client { stream, open: true };
    let clients: BTreeMap<_, _> = clients.iter().map(|(node, it, _)| ((*node).into(), client(*it))).collect();
    Said { clients: Arc::new(clients), objects: [(object(), Arc::new(report))].into() }
}

/// What a replica says of whom it lost.
fn lost(mut said: Said) -> Said {
    Arc::make_mut(&mut said.clients).values_mut().for_each(|client| client.open = false);
    said
}

/// The records of replica "a".
struct Fixture {
    records: Records,
    presence: Presence,
    now: Instant,
    connections: BTreeMap<&'static str, (u64, Option<Said>)>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            records: Records::new("a".into()),
            presence: Presence::new("fairlead-system"),
            now: Instant::now(),
            connections: BTreeMap::new(),
        }
    }

    fn own(&mut self, said: Said) {
        self.records.own(said, &self.presence, self.now);
    }

    fn connect(&mut self, replica: &'static str) {
        self.connections.insert(replica, (self.records.connect(&replica.into()), None));
    }

    /// Another replica says this, connected before or now.
    fn says(&mut self, replica: &'static str, said: Said) {
        if !self.connections.contains_key(replica) {
            self.connect(replica);
        }
        let (connection, known) = self.connections.get_mut(replica).unwrap();
        for update in said.since(known.as_ref(), 1) {
            self.records.update(&replica.into(), *connection, update, &self.presence, self.now);
        }
        *known = Some(said);
    }

    fn dies(&mut self, replica: &'static str) {
        let (connection, _) = self.connections.remove(replica).unwrap();
        self.records.disconnect(&replica.into(), connection, self.now);
    }

    fn passes(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.records.expire(&self.presence, self.now);
    }

    fn runs(&self, pod: &str) {
        let (namespace, name) = pod.split_once('/').unwrap();
        self.presence.pod(&ObjectKey::new(namespace, name), Some(&Pod::default()));
    }

    /// "acked/subscribed of generation", with the replicas that are behind.
    fn tally(&self, generation: i64) -> String {
        let needed = self.records.needed(&self.presence);
        let tally = self.records.tally(&object(), &edition(generation), &needed);
        let behind: String = tally.behind.iter().map(|name| format!(" {name} behind")).collect();
        format!("{}/{}{behind}", tally.rollout.acked, tally.rollout.subscribed)
    }
}

#[test]
fn clients_of_all_replicas_count() {
    let mut fixture = Fixture::new();
    fixture.own(said(1, &[("shop/x", Some(5), Acked)]));
    assert_eq!(fixture.tally(1), "1/1");
    fixture.says("b", said(1, &[("shop/y", Some(7), Pending)]));
    assert_eq!(fixture.tally(1), "1/2");
    // The follower's client is what it waits for, however long.
    fixture.passes(1_000);
    assert_eq!(fixture.tally(1), "1/2");
    fixture.says("b", said(1, &[("shop/y", Some(7), Acked)]));
    assert_eq!(fixture.tally(1), "2/2");
    assert_eq!(fixture.records.take_touched(), [object()].into());
    assert_eq!(fixture.records.take_touched().len(), 0);
}

#[test]
fn a_replica_that_has_not_compiled_the_generation_is_behind() {
    let mut fixture = Fixture::new();
    fixture.own(said(2, &[("shop/x", Some(5), Acked)]));
    fixture.says("b", said(1, &[("shop/y", Some(7), Acked)]));
    // What its clients run is not this generation.
    assert_eq!(fixture.tally(2), "1/2 b behind");
    fixture.says("b", said(2, &[("shop/y", Some(7), Acked)]));
    assert_eq!(fixture.tally(2), "2/2");
    // An object of the same name and generation, made anew.
    let needed = fixture.records.needed(&fixture.presence);
    let other = Edition { uid: "other".into(), generation: 2 };
    assert_eq!(fixture.records.tally(&object(), &other, &needed).behind, ["a".into(), "b".into()]);
}

#[test]
fn half_a_batch_counts_as_nothing() {
    let mut fixture = Fixture::new();
    fixture.own(said(1, &[]));
    fixture.connect("b");
    let (connection, _) = fixture.connections["b"];
    let whole = said(1, &[("shop/x", Some(1), Acked), ("shop/y", Some(2), Pending)]);
    let updates = whole.since(None, 1);
    let pieces = updates.len();
    for (at, update) in updates.into_iter().enumerate() {
        assert_eq!(fixture.tally(1), "0/0", "{at} of {pieces}");
        fixture.records.update(&"b".into(), connection, update, &fixture.presence, fixture.now);
    }
    assert_eq!(fixture.tally(1), "1/2");
}

#[test]
fn a_ready_replica_that_says_nothing_is_behind() {
    let mut fixture = Fixture::new();
    fixture.own(said(1, &[]));
    let slice = serde_json::json!({
        "metadata": {"name": "s", "namespace": "fairlead-system", "labels": {"kubernetes.io/service-name": "fairlead-operator"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}},
            {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "b"}},
        ],
    });
    let slice = EndpointSlice::from_api(&serde_json::from_value(slice).unwrap()).unwrap();
    fixture.presence.slice(&slice.key, Some(&slice));
    assert!(fixture.records.is_partial(&fixture.presence));
    assert_eq!(fixture.tally(1), "0/0 b behind");
    fixture.says("b", said(1, &[]));
    assert!(!fixture.records.is_partial(&fixture.presence));
    assert_eq!(fixture.tally(1), "0/0");
    // It is being rolled: its word holds until its clients have had the time to appear elsewhere.
    fixture.dies("b");
    fixture.passes(29);
    assert_eq!(fixture.tally(1), "0/0");
    fixture.passes(1);
    assert_eq!(fixture.tally(1), "0/0 b behind");
    fixture.presence.slice(&slice.key, None);
    assert_eq!(fixture.tally(1), "0/0");
}

#[test]
fn a_client_that_moved_counts_by_its_later_stream() {
    let mut fixture = Fixture::new();
    // Replica b believes that it still has the client, which never answers it again.
    fixture.says("b", said(1, &[("shop/x", Some(5), Pending)]));
    fixture.own(said(1, &[("shop/x", Some(6), Acked)]));
    assert_eq!(fixture.tally(1), "1/1");
    // The other way round: what it said to the replica that it left is old.
    fixture.says("b", said(1, &[("shop/x", Some(5), Acked)]));
    fixture.own(said(1, &[("shop/x", Some(6), Pending)]));
    assert_eq!(fixture.tally(1), "0/1");
    fixture.passes(100);
    assert_eq!(fixture.tally(1), "0/1");
}

#[test]
fn a_client_that_moved_and_wants_it_no_more_is_out_when_it_has_said_everything() {
    let mut fixture = Fixture::new();
    fixture.says("b", said(1, &[("shop/x", Some(5), Pending)]));
    let mut only_there = said(1, &[]);
    only_there.clients = said(1, &[("shop/x", Some(6), Acked)]).clients;
    fixture.own(only_there);
    // It may not have asked for it here yet.
    assert_eq!(fixture.tally(1), "0/1");
    fixture.records.take_touched();
    fixture.passes(2);
    assert_eq!(fixture.tally(1), "0/0");
    assert_eq!(fixture.records.take_touched(), [object()].into());
}

#[test]
fn of_clients_without_numbers_the_worst_counts_and_the_open_stream() {
    let mut fixture = Fixture::new();
    fixture.own(said(1, &[("envoy", None, Acked)]));
    fixture.says("b", said(1, &[("envoy", None, Pending)]));
    assert_eq!(fixture.tally(1), "0/1");
    fixture.says("b", lost(said(1, &[("envoy", None, Pending)])));
    assert_eq!(fixture.tally(1), "1/1");
    fixture.own(lost(said(1, &[("envoy", None, Acked)])));
    assert_eq!(fixture.tally(1), "0/1");
    // Its replica forgets it after a while, and so does everybody.
    fixture.says("b", said(1, &[]));
    fixture.own(said(1, &[]));
    assert_eq!(fixture.tally(1), "0/0");
}

#[test]
fn a_dead_replicas_clients_are_waited_for_while_their_pods_run() {
    let mut fixture = Fixture::new();
    fixture.runs("shop/x");
    fixture.runs("shop/y");
    fixture.own(said(1, &[]));
    let clients = [
        ("shop/x", Some(5), Acked),
        ("shop/y", Some(5), Acked),
        ("laptop", Some(5), Acked),
        ("envoy", None, Acked),
    ];
    fixture.says("b", said(1, &clients));
    fixture.dies("b");
    // They run on with what they took.
    assert_eq!(fixture.tally(1), "4/4");
    // One appears here.
    fixture.own(said(1, &[("shop/x", Some(6), Acked)]));
    assert_eq!(fixture.tally(1), "4/4");
    // A change that it cannot have told anybody is not in force there.
    fixture.own(said(2, &[("shop/x", Some(6), Acked)]));
    assert_eq!(fixture.tally(2), "1/4");
    fixture.passes(30);
    // Nobody has shop/y, but its pod runs, and so does its sidecar.
    assert_eq!(fixture.tally(2), "1/2");
    fixture.passes(10_000);
    assert_eq!(fixture.tally(2), "1/2");
    fixture.records.take_touched();
    fixture.records.dismiss("shop/y");
    assert_eq!(fixture.tally(2), "1/1");
    assert_eq!(fixture.records.take_touched(), [object()].into());
}

#[test]
fn who_was_waited_for_and_is_back_counts_again() {
    let mut fixture = Fixture::new();
    fixture.runs("shop/x");
    fixture.own(said(1, &[("shop/x", Some(5), Acked)]));
    fixture.own(said(1, &[]));
    assert_eq!(fixture.tally(1), "0/1");
    fixture.says("b", said(1, &[("shop/x", Some(6), Acked)]));
    assert_eq!(fixture.tally(1), "1/1");
    fixture.passes(2);
    fixture.says("b", said(1, &[]));
    // Again nobody has it.
    assert_eq!(fixture.tally(1), "0/1");
    // A pod that is about to end does not come back.
    let leaving = Pod { terminating: true, ..Pod::default() };
    fixture.presence.pod(&ObjectKey::new("shop", "x"), Some(&leaving));
    fixture.passes(1);
    assert_eq!(fixture.tally(1), "0/0");
}

#[test]
fn a_deleted_pod_of_a_dead_replica_is_not_waited_for() {
    let mut fixture = Fixture::new();
    fixture.own(said(1, &[]));
    fixture.says("b", said(1, &[("shop/x", Some(5), Pending), ("shop/y", Some(5), Acked)]));
    fixture.dies("b");
    assert_eq!(fixture.tally(1), "1/2");
    fixture.records.dismiss("shop/x");
    assert_eq!(fixture.tally(1), "1/1");
}

#[test]
fn a_replica_that_comes_back_replaces_what_it_said() {
    let mut fixture = Fixture::new();
    fixture.own(said(1, &[]));
    fixture.says("b", said(1, &[("shop/x", Some(5), Acked)]));
    // Its new connection is there before the old one is known to be broken.
    let old = fixture.connections["b"].0;
    fixture.connect("b");
    assert_eq!(fixture.tally(1), "1/1");
    fixture.records.disconnect(&"b".into(), old, fixture.now);
    fixture.passes(60);
    assert_eq!(fixture.tally(1), "1/1");
    fixture.says("b", said(1, &[("shop/y", Some(1), Pending)]));
    assert_eq!(fixture.tally(1), "0/1");
    // What still arrives on the old connection is void.
    let late = said(1, &[("shop/z", Some(1), Acked)]).since(None, 100).remove(0);
    fixture.records.update(&"b".into(), old, late, &fixture.presence, fixture.now);
    assert_eq!(fixture.tally(1), "0/1");
}

#[test]
fn a_new_holder_knows_only_its_own() {
    let mut fixture = Fixture::new();
    fixture.own(said(1, &[("shop/x", Some(6), Acked)]));
    fixture.says("b", said(1, &[("shop/y", Some(5), Acked)]));
    fixture.records.start_over(fixture.now);
    assert_eq!(fixture.tally(1), "1/1");
    // And still knows which stream of its own clients is the later.
    fixture.passes(2);
    fixture.connections.clear();
    fixture.says("b", said(1, &[("shop/x", Some(5), Pending)]));
    assert_eq!(fixture.tally(1), "1/1");
}
