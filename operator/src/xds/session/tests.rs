//! Event sequences: what a client says, what changes, what goes out.

mod client;
mod property;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::xds::snapshot::NamedResource;
use ResourceKind::{Cluster, Endpoints, Listener, Route};

/// Resources as a plain map: (kind, name) to version.
#[derive(Debug, Default)]
pub(super) struct Plain {
    resources: RefCell<BTreeMap<(ResourceKind, String), String>>,
}

impl Plain {
    fn with(resources: &[(ResourceKind, &str, &str)]) -> Self {
        let plain = Self::default();
        for (kind, name, version) in resources {
            plain.put(*kind, name, version);
        }
        plain
    }

    fn put(&self, kind: ResourceKind, name: &str, version: &str) {
        self.resources.borrow_mut().insert((kind, name.to_owned()), version.to_owned());
    }

    fn remove(&self, kind: ResourceKind, name: &str) {
        self.resources.borrow_mut().remove(&(kind, name.to_owned()));
    }

    fn version(&self, kind: ResourceKind, name: &str) -> Option<String> {
        self.resources.borrow().get(&(kind, name.to_owned())).cloned()
    }
}

impl Catalog for Plain {
    fn get(&self, kind: ResourceKind, name: &str) -> Option<Arc<Resource>> {
        let version = self.version(kind, name)?;
        let any = format!("{name}@{version}").into_bytes().into();
        Some(Arc::new(Resource::new(kind, name.into(), version.as_str().into(), any)))
    }

    fn names(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        let resources = self.resources.borrow();
        let names = resources.keys().filter(|(of, name)| *of == kind && wildcard_covers(kind, name));
        names.map(|(_, name)| name.as_str().into()).collect()
    }
}

/// A session, what it reads from, and the words to talk to it.
struct Talk {
    session: Session,
    plain: Plain,
}

/// A response in short: kind, `name@version` in order, `-name` for removals, nonce.
type Short = Option<(ResourceKind, Vec<String>, String)>;

impl Talk {
    fn delta(resources: &[(ResourceKind, &str, &str)]) -> Self {
        Self { session: Session::new(Protocol::Delta, Limits::default()), plain: Plain::with(resources) }
    }

    fn state(resources: &[(ResourceKind, &str, &str)]) -> Self {
        Self { session: Session::new(Protocol::State, Limits::default()), plain: Plain::with(resources) }
    }

    fn subscribe(&mut self, kind: ResourceKind, names: &[&str]) -> &mut Self {
        self.session
            .delta(DeltaDiscoveryRequest { resource_names_subscribe: owned(names), ..delta(kind) })
            .unwrap();
        self
    }

    fn unsubscribe(&mut self, kind: ResourceKind, names: &[&str]) -> &mut Self {
        let request = DeltaDiscoveryRequest { resource_names_unsubscribe: owned(names), ..delta(kind) };
        self.session.delta(request).unwrap();
        self
    }

    fn resume(&mut self, kind: ResourceKind, names: &[&str], has: &[(&str, &str)]) -> &mut Self {
        let has = has.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: owned(names),
            initial_resource_versions: has,
            ..delta(kind)
        };
        self.session.delta(request).unwrap();
        self
    }

    fn ack(&mut self, kind: ResourceKind, nonce: &str) -> &mut Self {
        let request = DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..delta(kind) };
        self.session.delta(request).unwrap();
        self
    }

    fn nack(&mut self, kind: ResourceKind, nonce: &str, message: &str) -> &mut Self {
        let error = RpcStatus { code: 3, message: message.to_owned(), ..RpcStatus::default() };
        let request = DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            error_detail: Some(error),
            ..delta(kind)
        };
        self.session.delta(request).unwrap();
        self
    }

    fn ask(&mut self, kind: ResourceKind, names: &[&str], version: &str, nonce: &str) -> &mut Self {
        let request = DiscoveryRequest {
            node: Some(node()),
            type_url: kind.type_url().to_owned(),
            resource_names: owned(names),
            version_info: version.to_owned(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        };
        self.session.state(request).unwrap();
        self
    }

    fn put(&mut self, kind: ResourceKind, name: &str, version: &str) -> &mut Self {
        self.plain.put(kind, name, version);
        self.session.changed(kind, &name.into());
        self
    }

    fn remove(&mut self, kind: ResourceKind, name: &str) -> &mut Self {
        self.plain.remove(kind, name);
        self.session.changed(kind, &name.into());
        self
    }

    fn next(&mut self) -> Short {
        self.session.next(&self.plain).map(short)
    }

    fn sends(&mut self, kind: ResourceKind, resources: &[&str]) -> String {
        let (sent, names, nonce) =
            self.next().unwrap_or_else(|| panic!("nothing is sent instead of {resources:?}"));
        assert_eq!((sent, names), (kind, owned(resources)));
        nonce
    }

    #[track_caller]
    fn sends_nothing(&mut self) -> &mut Self {
        assert_eq!(self.next(), None);
        self
    }

    /// Sends and acks these.
    fn passes(&mut self, kind: ResourceKind, resources: &[&str]) -> &mut Self {
        let nonce = self.sends(kind, resources);
        self.ack(kind, &nonce)
    }

    fn changes(&mut self) -> Vec<Change> {
        self.session.take_changes()
    }
}

fn delta(kind: ResourceKind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: kind.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn node() -> Node {
    Node { id: "shop/frontend-1".to_owned(), ..Node::default() }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn short(response: Response) -> (ResourceKind, Vec<String>, String) {
    let (type_url, bytes, removed, nonce) = match response {
        Response::Delta(delta) => {
            let read = |it: Bytes| NamedResource::decode(it).unwrap().resource.unwrap().value;
            let bytes: Vec<_> = delta.resources.into_iter().map(read).collect();
            (delta.type_url, bytes, delta.removed_resources, delta.nonce)
        }
        Response::State(state) => (
            state.type_url,
            state.resources.into_iter().map(|it| it.value).collect(),
            Vec::new(),
            state.nonce,
        ),
    };
    let mut names: Vec<String> =
        bytes.iter().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect();
    names.extend(removed.iter().map(|name| format!("-{name}")));
    names.sort();
    (ResourceKind::from_type_url(&type_url).unwrap(), names, nonce)
}

#[test]
fn a_name_is_answered_and_followed() {
    let mut talk = Talk::delta(&[(Cluster, "a", "1")]);
    talk.subscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]).sends_nothing();
    talk.put(Cluster, "a", "2").passes(Cluster, &["a@2"]);
    talk.put(Cluster, "b", "1").sends_nothing();
    talk.put(Cluster, "a", "2").sends_nothing();
}

#[test]
fn an_unknown_name_is_answered_too_and_follows_when_it_comes() {
    let mut talk = Talk::delta(&[]);
    talk.subscribe(Listener, &["10.0.0.9:80"]).passes(Listener, &["-10.0.0.9:80"]).sends_nothing();
    talk.subscribe(Listener, &["10.0.0.9:80"]).passes(Listener, &["-10.0.0.9:80"]);
    talk.put(Listener, "10.0.0.9:80", "1").passes(Listener, &["10.0.0.9:80@1"]);
    talk.remove(Listener, "10.0.0.9:80").passes(Listener, &["-10.0.0.9:80"]).sends_nothing();
}

#[test]
fn a_name_asked_for_again_is_sent_again() {
    let mut talk = Talk::delta(&[(Cluster, "a", "1")]);
    talk.subscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]);
    talk.subscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]).sends_nothing();
}

#[test]
fn changes_meanwhile_go_out_once_in_their_latest_version() {
    let mut talk = Talk::delta(&[(Endpoints, "a", "1")]);
    let nonce = talk.subscribe(Endpoints, &["a"]).sends(Endpoints, &["a@1"]);
    talk.put(Endpoints, "a", "2").sends_nothing();
    talk.put(Endpoints, "a", "3").sends_nothing();
    talk.ack(Endpoints, &nonce).passes(Endpoints, &["a@3"]).sends_nothing();
}

#[test]
fn a_change_back_to_what_the_client_has_is_not_sent() {
    let mut talk = Talk::delta(&[(Endpoints, "a", "1")]);
    let nonce = talk.subscribe(Endpoints, &["a"]).sends(Endpoints, &["a@1"]);
    talk.put(Endpoints, "a", "2").put(Endpoints, "a", "1").ack(Endpoints, &nonce).sends_nothing();
}

#[test]
fn stale_nonces_count_for_nothing() {
    let mut talk = Talk::delta(&[(Endpoints, "a", "1")]);
    let first = talk.subscribe(Endpoints, &["a"]).sends(Endpoints, &["a@1"]);
    talk.ack(Endpoints, &first);
    let second = talk.put(Endpoints, "a", "2").sends(Endpoints, &["a@2"]);
    talk.put(Endpoints, "a", "3").ack(Endpoints, &first).ack(Endpoints, "rubbish").sends_nothing();
    talk.changes();
    talk.ack(Endpoints, &second);
    assert_eq!(talk.changes(), [Change::Acked(Endpoints, "a".into(), Some("2".into()))]);
    talk.passes(Endpoints, &["a@3"]);
}

#[test]
fn an_empty_first_request_means_everything_for_listeners_and_clusters() {
    let all = [
        (Listener, "10.0.0.1:80", "1"),
        (Listener, "shop/a:80", "1"),
        (Cluster, "a", "1"),
        (Endpoints, "a", "1"),
    ];
    let mut talk = Talk::delta(&all);
    talk.subscribe(Cluster, &[]).passes(Cluster, &["a@1"]);
    talk.subscribe(Listener, &[]).passes(Listener, &["10.0.0.1:80@1"]);
    talk.subscribe(Endpoints, &[]).sends_nothing();
    talk.put(Listener, "10.0.0.2:80", "1").passes(Listener, &["10.0.0.2:80@1"]);
    talk.put(Listener, "shop/b:80", "1").sends_nothing();
    // Naming one keeps the rest.
    talk.subscribe(Listener, &["shop/a:80"]).passes(Listener, &["shop/a:80@1"]);
    talk.remove(Listener, "10.0.0.1:80").passes(Listener, &["-10.0.0.1:80"]);
}

#[test]
fn an_empty_wildcard_is_answered_with_nothing() {
    let mut talk = Talk::delta(&[]);
    talk.subscribe(Listener, &["*"]).passes(Listener, &[]).sends_nothing();
    talk.put(Listener, "10.0.0.2:80", "1").passes(Listener, &["10.0.0.2:80@1"]);
}

#[test]
fn the_wildcard_comes_and_goes() {
    let mut talk = Talk::delta(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    talk.subscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]);
    talk.subscribe(Cluster, &["*"]).passes(Cluster, &["b@1"]);
    // Still covered: its state is told.
    talk.unsubscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]);
    talk.subscribe(Cluster, &["b"]).passes(Cluster, &["b@1"]);
    talk.unsubscribe(Cluster, &["*"]).sends_nothing();
    talk.put(Cluster, "a", "2").sends_nothing();
    talk.put(Cluster, "b", "2").passes(Cluster, &["b@2"]);
}

#[test]
fn a_name_the_wildcard_does_not_cover_goes_when_it_is_unsubscribed() {
    let mut talk = Talk::delta(&[(Listener, "shop/a:80", "1"), (Listener, "10.0.0.1:80", "1")]);
    talk.subscribe(Listener, &["*", "shop/a:80"]).passes(Listener, &["10.0.0.1:80@1", "shop/a:80@1"]);
    talk.unsubscribe(Listener, &["shop/a:80"]).passes(Listener, &["-shop/a:80"]);
}

#[test]
fn what_is_unsubscribed_is_followed_no_longer() {
    let mut talk = Talk::delta(&[(Route, "a", "1")]);
    let nonce = talk.subscribe(Route, &["a"]).sends(Route, &["a@1"]);
    talk.put(Route, "a", "2").unsubscribe(Route, &["a"]).ack(Route, &nonce).sends_nothing();
    assert_eq!(talk.changes(), [Change::Subscribed(Route, "a".into()), Change::Forgotten(Route, "a".into())]);
    talk.unsubscribe(Route, &["a", "never"]).put(Route, "a", "3").sends_nothing();
}

#[test]
fn a_reconnecting_client_gets_the_difference() {
    let mut talk = Talk::delta(&[(Route, "same", "1"), (Route, "new", "2"), (Route, "more", "1")]);
    let names = ["same", "new", "gone", "more"];
    talk.resume(Route, &names, &[("same", "1"), ("new", "1"), ("gone", "1"), ("other", "1")]);
    talk.passes(Route, &["-gone", "more@1", "new@2"]).sends_nothing();
    assert!(talk.changes().contains(&Change::Acked(Route, "same".into(), Some("1".into()))));
}

#[test]
fn a_reconnecting_wildcard_client_gets_the_difference() {
    let mut talk = Talk::delta(&[(Cluster, "same", "1"), (Cluster, "new", "2"), (Route, "r", "1")]);
    talk.resume(Cluster, &[], &[("same", "1"), ("new", "1"), ("gone", "1")]);
    // The route that used it may change first; the client has yet to ask for it.
    talk.passes(Cluster, &["new@2"]).sends_nothing();
    assert!(talk.session.holds());
    talk.subscribe(Route, &["r"]).sends(Route, &["r@1"]);
    talk.sends_nothing();
    talk.ack(Route, "2").passes(Cluster, &["-gone"]).sends_nothing();
    assert!(!talk.session.holds());
}

#[test]
fn a_reconnecting_client_that_has_everything_gets_nothing() {
    let mut talk = Talk::delta(&[(Listener, "10.0.0.1:80", "1")]);
    talk.resume(Listener, &[], &[("10.0.0.1:80", "1")]).sends_nothing();
    talk.put(Listener, "10.0.0.1:80", "2").passes(Listener, &["10.0.0.1:80@2"]);
}

#[test]
fn new_clusters_are_taken_before_routes_that_may_use_them() {
    let mut talk = Talk::delta(&[(Route, "r", "1")]);
    talk.subscribe(Cluster, &["*"]).passes(Cluster, &[]);
    talk.subscribe(Route, &["r"]).passes(Route, &["r@1"]);
    talk.put(Route, "r", "2").put(Cluster, "a", "1").put(Endpoints, "a", "1");
    let nonce = talk.sends(Cluster, &["a@1"]);
    talk.sends_nothing();
    // As Envoy does it: first ask for the endpoints, then ack the cluster.
    let endpoints = talk.subscribe(Endpoints, &["a"]).sends(Endpoints, &["a@1"]);
    talk.ack(Cluster, &nonce).sends_nothing();
    talk.ack(Endpoints, &endpoints).passes(Route, &["r@2"]).sends_nothing();
}

#[test]
fn a_refused_cluster_does_not_hold_routes_for_good() {
    let mut talk = Talk::delta(&[(Route, "r", "1")]);
    talk.subscribe(Cluster, &["*"]).passes(Cluster, &[]).subscribe(Route, &["r"]).passes(Route, &["r@1"]);
    let nonce = talk.put(Route, "r", "2").put(Cluster, "a", "1").sends(Cluster, &["a@1"]);
    talk.sends_nothing().nack(Cluster, &nonce, "no").passes(Route, &["r@2"]);
}

#[test]
fn a_silent_client_blocks_itself_only_until_the_release() {
    let mut talk = Talk::delta(&[(Route, "r", "1")]);
    talk.subscribe(Cluster, &["*"]).passes(Cluster, &[]).subscribe(Route, &["r"]).passes(Route, &["r@1"]);
    talk.put(Route, "r", "2").put(Cluster, "a", "1").sends(Cluster, &["a@1"]);
    talk.sends_nothing();
    assert!(talk.session.holds());
    talk.session.release();
    talk.passes(Route, &["r@2"]);
    assert!(!talk.session.holds());
}

#[test]
fn changed_clusters_and_endpoints_hold_nothing() {
    let mut talk = Talk::delta(&[(Route, "r", "1"), (Cluster, "a", "1"), (Endpoints, "a", "1")]);
    talk.subscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]);
    talk.subscribe(Endpoints, &["a"]).passes(Endpoints, &["a@1"]);
    talk.subscribe(Route, &["r"]).passes(Route, &["r@1"]);
    talk.put(Route, "r", "2").put(Endpoints, "a", "2").put(Cluster, "a", "2");
    talk.sends(Cluster, &["a@2"]);
    talk.sends(Endpoints, &["a@2"]);
    talk.sends(Route, &["r@2"]);
}

#[test]
fn clusters_go_after_the_routes_that_used_them() {
    for protocol in [Protocol::Delta, Protocol::State] {
        let resources = [(Route, "r", "1"), (Cluster, "a", "1"), (Cluster, "b", "1")];
        let mut talk =
            if protocol == Protocol::Delta { Talk::delta(&resources) } else { Talk::state(&resources) };
        if protocol == Protocol::Delta {
            talk.subscribe(Cluster, &["*"]).passes(Cluster, &["a@1", "b@1"]);
            talk.subscribe(Route, &["r"]).passes(Route, &["r@1"]);
        } else {
            let nonce = talk.ask(Cluster, &[], "", "").sends(Cluster, &["a@1", "b@1"]);
            talk.ask(Cluster, &[], "x", &nonce);
            let nonce = talk.ask(Route, &["r"], "", "").sends(Route, &["r@1"]);
            talk.ask(Route, &["r"], "x", &nonce);
        }
        // The cluster goes, a new one comes, and the route changes over.
        talk.remove(Cluster, "b").put(Cluster, "c", "1").put(Route, "r", "2");
        if protocol == Protocol::Delta {
            talk.passes(Cluster, &["c@1"]);
            let nonce = talk.sends(Route, &["r@2"]);
            talk.sends_nothing();
            talk.ack(Route, &nonce).passes(Cluster, &["-b"]).sends_nothing();
        } else {
            let nonce = talk.sends(Cluster, &["a@1", "b@1", "c@1"]);
            talk.sends_nothing();
            talk.ask(Cluster, &[], "x", &nonce);
            let nonce = talk.sends(Route, &["r@2"]);
            talk.sends_nothing();
            talk.ask(Route, &["r"], "x", &nonce);
            talk.sends(Cluster, &["a@1", "c@1"]);
        }
    }
}

#[test]
fn what_is_asked_for_never_waits() {
    let mut talk = Talk::delta(&[(Listener, "10.0.0.1:80", "1")]);
    talk.subscribe(Cluster, &["*"]).passes(Cluster, &[]);
    talk.put(Cluster, "a", "1").sends(Cluster, &["a@1"]);
    talk.subscribe(Listener, &["10.0.0.1:80", "10.0.0.2:80"]);
    talk.sends(Listener, &["-10.0.0.2:80", "10.0.0.1:80@1"]);
}

#[test]
fn acks_and_nacks_are_kept_by_resource() {
    let mut talk = Talk::delta(&[(Cluster, "shop/a:80", "1"), (Cluster, "shop/a:8080", "1")]);
    let nonce = talk
        .subscribe(Cluster, &["shop/a:80", "shop/a:8080"])
        .sends(Cluster, &["shop/a:8080@1", "shop/a:80@1"]);
    talk.changes();
    talk.nack(Cluster, &nonce, "shop/a:80: bad. More words");
    let message: Arc<str> = "shop/a:80: bad. More words".into();
    let one = Some("1".into());
    let mut changes = talk.changes();
    changes.sort_by_key(|change| matches!(change, Change::Acked(..)));
    assert_eq!(
        changes,
        [
            Change::Nacked(Cluster, "shop/a:80".into(), one.clone(), message),
            Change::Acked(Cluster, "shop/a:8080".into(), one)
        ]
    );
    // A refused version is not sent again; the next one is.
    talk.put(Cluster, "shop/a:80", "1").sends_nothing();
    talk.put(Cluster, "shop/a:80", "2").passes(Cluster, &["shop/a:80@2"]);
}

#[test]
fn a_nack_that_names_nothing_is_about_everything() {
    let mut talk = Talk::delta(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let nonce = talk.subscribe(Cluster, &["a", "b"]).sends(Cluster, &["a@1", "b@1"]);
    talk.changes();
    talk.nack(Cluster, &nonce, "?!");
    assert_eq!(talk.changes().iter().filter(|change| matches!(change, Change::Nacked(..))).count(), 2);
}

#[test]
fn a_long_list_goes_out_in_pieces() {
    let names: Vec<String> = (0..10).map(|n| format!("cluster-{n}")).collect();
    let resources: Vec<_> = names.iter().map(|name| (Cluster, name.as_str(), "1")).collect();
    let mut talk = Talk::delta(&resources);
    talk.session = Session::new(Protocol::Delta, Limits { response_bytes: 800, ..Limits::default() });
    talk.subscribe(Cluster, &["*"]);
    let mut pieces = Vec::new();
    while let Some((kind, names, nonce)) = talk.next() {
        pieces.push(names.len());
        talk.sends_nothing().ack(kind, &nonce);
    }
    assert_eq!(pieces, [4, 4, 2]);
}

#[test]
fn what_a_sidecar_reports_with_its_node_is_told_on_and_asks_for_nothing() {
    let reporting = |clusters: &[&str]| {
        let ours = serde_json::json!({"fairlead.dev": {"panicking": clusters}});
        Node { metadata: Some(structure(&ours)), ..node() }
    };
    let report = |node: Node| DeltaDiscoveryRequest { node: Some(node), ..delta(Cluster) };
    let reported = |talk: &mut Talk| -> Vec<Vec<String>> {
        let changes = talk.changes().into_iter().filter_map(|change| match change {
            Change::Panicking(clusters) => Some(clusters.iter().map(ToString::to_string).collect()),
            _ => None,
        });
        changes.collect()
    };
    let mut talk = Talk::delta(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    talk.subscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]);
    assert!(reported(&mut talk).is_empty());
    talk.session.delta(report(reporting(&["b", "a", "a"]))).unwrap();
    assert_eq!(reported(&mut talk), [["a", "b"]]);
    talk.sends_nothing();
    talk.session.delta(report(reporting(&["a", "b"]))).unwrap();
    talk.session.delta(report(node())).unwrap();
    assert!(reported(&mut talk).is_empty(), "nothing new, and nothing said");
    talk.session.delta(report(reporting(&[]))).unwrap();
    assert_eq!(reported(&mut talk), [[""; 0]]);
    talk.put(Cluster, "a", "2").passes(Cluster, &["a@2"]);
    let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    talk.session.delta(report(reporting(&many.iter().map(String::as_str).collect::<Vec<_>>()))).unwrap();
    assert_eq!(reported(&mut talk)[0].len(), 64);
}

#[test]
fn a_sidecar_that_started_without_us_says_so_once() {
    let ours = serde_json::json!({"fairlead.dev": {"startedWithoutConfig": true}});
    let node = Node { metadata: Some(structure(&ours)), ..node() };
    let report = || DeltaDiscoveryRequest { node: Some(node.clone()), ..delta(Cluster) };
    let mut talk = Talk::delta(&[(Cluster, "a", "1")]);
    talk.subscribe(Cluster, &["a"]).passes(Cluster, &["a@1"]);
    talk.changes();
    talk.session.delta(report()).unwrap();
    assert_eq!(talk.changes(), [Change::StartedWithoutConfig]);
    talk.session.delta(report()).unwrap();
    assert!(talk.changes().is_empty());
}

/// JSON as protobuf has it.
fn structure(value: &serde_json::Value) -> Struct {
    fn convert(value: &serde_json::Value) -> Value {
        let kind = match value {
            serde_json::Value::String(text) => Kind::StringValue(text.clone()),
            serde_json::Value::Bool(yes) => Kind::BoolValue(*yes),
            serde_json::Value::Array(values) => {
                Kind::ListValue(ListValue { values: values.iter().map(convert).collect() })
            }
            other => Kind::StructValue(structure(other)),
        };
        Value { kind: Some(kind) }
    }
    let fields = value.as_object().unwrap().iter();
    Struct { fields: fields.map(|(name, value)| (name.clone(), convert(value))).collect() }
}

#[test]
fn a_resource_that_is_larger_than_a_response_travels_alone() {
    let long = "1".repeat(1000);
    let resources = [(Endpoints, "a", "1"), (Endpoints, "b", long.as_str()), (Endpoints, "c", "1")];
    let limits = Limits { response_bytes: 800, ..Limits::default() };
    let large = format!("b@{long}");
    let mut talk = Talk::delta(&resources);
    talk.session = Session::new(Protocol::Delta, limits);
    talk.subscribe(Endpoints, &["a", "b", "c"]).passes(Endpoints, &["a@1", "c@1"]);
    talk.passes(Endpoints, &[&large]).sends_nothing();
    // Endpoints and routes go out in pieces in state of the world, too.
    let mut talk = Talk::state(&resources);
    talk.session = Session::new(Protocol::State, limits);
    talk.ask(Endpoints, &["b"], "", "");
    let nonce = talk.sends(Endpoints, &[&large]);
    talk.ask(Endpoints, &["b", "a", "c"], "v", &nonce);
    let nonce = talk.sends(Endpoints, &["a@1", "c@1"]);
    let nonce = talk
        .put(Endpoints, "b", &format!("{long}2"))
        .ask(Endpoints, &["a", "b", "c"], "v", &nonce)
        .sends(Endpoints, &[&format!("{large}2")]);
    talk.ask(Endpoints, &["a", "b", "c"], "v", &nonce).sends_nothing();
    talk.put(Endpoints, "a", "2").put(Endpoints, "b", &long).put(Endpoints, "c", "2");
    let nonce = talk.sends(Endpoints, &["a@2", "c@2"]);
    talk.ask(Endpoints, &["a", "b", "c"], "v", &nonce).sends(Endpoints, &[&large]);
}

#[test]
fn state_of_the_world_sends_all_listeners_and_only_changed_endpoints() {
    let mut talk = Talk::state(&[
        (Listener, "10.0.0.1:80", "1"),
        (Listener, "10.0.0.2:80", "1"),
        (Listener, "shop/a:80", "1"),
        (Endpoints, "a", "1"),
        (Endpoints, "b", "1"),
    ]);
    let nonce = talk.ask(Listener, &[], "", "").sends(Listener, &["10.0.0.1:80@1", "10.0.0.2:80@1"]);
    talk.ask(Listener, &[], "v", &nonce).sends_nothing();
    talk.put(Listener, "10.0.0.1:80", "2").sends(Listener, &["10.0.0.1:80@2", "10.0.0.2:80@1"]);
    let nonce = talk.ask(Endpoints, &["a", "b"], "", "").sends(Endpoints, &["a@1", "b@1"]);
    talk.ask(Endpoints, &["a", "b"], "v", &nonce).sends_nothing();
    let nonce = talk.put(Endpoints, "a", "2").sends(Endpoints, &["a@2"]);
    // Interest grows with the ack.
    talk.put(Endpoints, "c", "1").ask(Endpoints, &["a", "b", "c"], "v", &nonce).sends(Endpoints, &["c@1"]);
}

#[test]
fn state_of_the_world_answers_for_a_listener_that_does_not_exist() {
    let mut talk = Talk::state(&[]);
    let nonce = talk.ask(Listener, &["a.shop.svc.cluster.local:80"], "", "").sends(Listener, &[]);
    talk.ask(Listener, &["a.shop.svc.cluster.local:80"], "v", &nonce).sends_nothing();
    let nonce = talk
        .put(Listener, "a.shop.svc.cluster.local:80", "1")
        .sends(Listener, &["a.shop.svc.cluster.local:80@1"]);
    talk.ask(Listener, &["a.shop.svc.cluster.local:80"], "v", &nonce).sends_nothing();
    let nonce = talk.remove(Listener, "a.shop.svc.cluster.local:80").sends(Listener, &[]);
    talk.changes();
    talk.ask(Listener, &["a.shop.svc.cluster.local:80"], "v", &nonce).sends_nothing();
    assert_eq!(talk.changes(), [Change::Acked(Listener, "a.shop.svc.cluster.local:80".into(), None)]);
    // Nothing is said about a route that does not exist, so nobody waits for an answer either.
    talk.ask(Route, &["a"], "", "").sends_nothing();
    assert!(talk.changes().contains(&Change::Acked(Route, "a".into(), None)));
}

#[test]
fn state_of_the_world_forgets_what_is_no_longer_named() {
    let mut talk = Talk::state(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let nonce = talk.ask(Cluster, &["a", "b"], "", "").sends(Cluster, &["a@1", "b@1"]);
    talk.ask(Cluster, &["b"], "v", &nonce).sends_nothing();
    talk.put(Cluster, "a", "2").sends_nothing();
    // Asking again is answered, also when the version is known.
    let nonce = talk.ask(Cluster, &["a", "b"], "v", &nonce).sends(Cluster, &["a@2", "b@1"]);
    // An empty list after a named one is no wildcard.
    talk.ask(Cluster, &[], "v", &nonce).put(Cluster, "a", "3").sends_nothing();
}

#[test]
fn state_of_the_world_ignores_what_was_overtaken() {
    let mut talk = Talk::state(&[(Endpoints, "a", "1"), (Endpoints, "b", "1")]);
    let first = talk.ask(Endpoints, &["a"], "", "").sends(Endpoints, &["a@1"]);
    talk.ask(Endpoints, &["a"], "v", &first);
    let second = talk.put(Endpoints, "a", "2").sends(Endpoints, &["a@2"]);
    talk.ask(Endpoints, &["a", "b"], "v", &first).sends_nothing();
    talk.ask(Endpoints, &["a", "b"], "v", &second).sends(Endpoints, &["b@1"]);
}

#[test]
fn state_of_the_world_repeats_itself_in_equal_versions_on_a_reconnect() {
    let resources = [(Cluster, "a", "1"), (Cluster, "b", "1")];
    let answer = |version: &str| {
        let mut talk = Talk::state(&resources);
        talk.ask(Cluster, &[], version, "");
        let Some(Response::State(sent)) = talk.session.next(&talk.plain) else { panic!("nothing sent") };
        sent.version_info
    };
    let version = answer("");
    assert_eq!(answer(&version), version);
}

#[test]
fn rubbish_is_refused_with_what_to_write() {
    let refuse = |request: DeltaDiscoveryRequest| {
        let limits = Limits { names: 3, name_bytes: 20, ..Limits::default() };
        Session::new(Protocol::Delta, limits).delta(request).unwrap_err().to_string()
    };
    let unnamed = DeltaDiscoveryRequest { node: None, ..delta(Cluster) };
    assert!(refuse(unnamed).contains("carries no node.id; write NAMESPACE/POD"));
    let named = |id: &str| Some(Node { id: id.to_owned(), ..Node::default() });
    assert!(
        refuse(DeltaDiscoveryRequest { node: named("shop/a\n"), ..delta(Cluster) })
            .contains("printable ASCII")
    );
    assert!(
        refuse(DeltaDiscoveryRequest { node: named(&"x".repeat(99)), ..delta(Cluster) }).contains("too long")
    );
    let typed = DeltaDiscoveryRequest { type_url: "Secret".to_owned(), ..delta(Cluster) };
    assert!(refuse(typed).contains("is not served here; ask for"));
    let subscribe =
        |names: &[&str]| DeltaDiscoveryRequest { resource_names_subscribe: owned(names), ..delta(Cluster) };
    assert!(refuse(subscribe(&["a", "b", "c", "d"])).contains("4 resource names, at most 3"));
    assert!(refuse(subscribe(&[""])).contains("is empty"));
    assert!(refuse(subscribe(&["é".repeat(100).as_str()])).contains("more than 20 bytes"));
    let had = HashMap::from([("y".repeat(30), "1".to_owned())]);
    assert!(
        refuse(DeltaDiscoveryRequest { initial_resource_versions: had, ..delta(Cluster) })
            .contains("more than 20")
    );
}

#[test]
fn a_name_inside_another_is_not_mentioned() {
    assert!(mentions("cluster shop/a:80: bad", "shop/a:80"));
    assert!(mentions("it is shop/a:80.", "shop/a:80"));
    assert!(!mentions("cluster shop/a:8080: bad", "shop/a:80"));
    assert!(!mentions("listener inbound/10.0.0.1:80", "10.0.0.1:80"));
    assert!(mentions("inbound/10.0.0.1:80, 10.0.0.1:80", "10.0.0.1:80"));
    assert!(mentions("\"é\" shop/a:80", "shop/a:80"));
}
