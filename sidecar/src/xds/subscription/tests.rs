//! Sequences of events: names wanted, responses received, streams lost.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::service::discovery::v3::ResourceName;

use super::*;
use crate::config::pieces::Piece;
use crate::xds::testing::{cluster, endpoints, listener, resource, response, wrapped};

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn node() -> Node {
    Node { id: "shop/frontend".to_owned(), cluster: "shop".to_owned(), ..Node::default() }
}

/// Everything that is to be sent now, in short.
fn sent(subscription: &mut Subscription) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(request) = subscription.request(start()) {
        all.push(short(&request));
    }
    assert!(!subscription.has_request());
    all
}

fn short(request: &DeltaDiscoveryRequest) -> String {
    let mut text = request.type_url.rsplit('.').next().unwrap().to_owned();
    if request.node.is_some() {
        text.push_str(" node");
    }
    let mut versions: Vec<_> = request.initial_resource_versions.iter().collect();
    versions.sort();
    for (sign, list) in [("+", &request.resource_names_subscribe), ("-", &request.resource_names_unsubscribe)]
    {
        for name in list {
            text.push_str(&format!(" {sign}{name}"));
        }
    }
    for (name, version) in versions {
        text.push_str(&format!(" {name}={version}"));
    }
    if !request.response_nonce.is_empty() {
        text.push_str(&format!(" ack {}", request.response_nonce));
    }
    if let Some(error) = &request.error_detail {
        text.push_str(&format!(" error {} {}", error.code, error.message));
    }
    text
}

/// Asked for these clusters on an open stream.
fn clusters(wanted: &[&str]) -> Subscription {
    let mut subscription = Subscription::default();
    subscription.opened(node());
    assert_eq!(subscription.want(Kind::Cluster, names(wanted)), 0);
    sent(&mut subscription);
    subscription
}

fn news(received: &Received) -> Vec<String> {
    let text = |update: &Update| match &update.news {
        News::Here(_) => format!("{} here", update.name),
        News::Absent => format!("{} absent", update.name),
        News::Refused(reason) => format!("{} refused: {reason}", update.name),
    };
    received.updates.iter().map(text).collect()
}

/// A cluster that cannot be used.
fn bad(name: &str) -> Resource {
    let mut bad = cluster(name);
    bad.lb_policy = 2;
    resource(name, "bad", bad)
}

#[test]
fn asks_for_names_and_acknowledges_what_it_gets() {
    let mut subscription = Subscription::default();
    subscription.want(Kind::Listener, names(&["a", "b"]));
    assert!(!subscription.has_request());
    assert!(subscription.request(start()).is_none());

    subscription.opened(node());
    assert_eq!(sent(&mut subscription), ["Listener node +a +b"]);

    let received = subscription.receive(response(
        Kind::Listener,
        "1",
        vec![resource("a", "v1", listener("a", "r"))],
        &["b"],
    ));
    assert_eq!(news(&received), ["a here", "b absent"]);
    assert!(received.meaningful && received.nack.is_none());
    assert!(matches!(&received.updates[0].news, News::Here(Piece::Listener(_))));
    assert_eq!(sent(&mut subscription), ["Listener ack 1"]);
}

#[test]
fn sends_nothing_for_a_type_without_names_lest_it_be_taken_for_a_wildcard() {
    let mut subscription = Subscription::default();
    subscription.opened(node());
    assert!(sent(&mut subscription).is_empty());
    subscription.want(Kind::Cluster, names(&["*", ""]));
    assert!(sent(&mut subscription).is_empty());
    subscription.want(Kind::Cluster, names(&["a"]));
    subscription.want(Kind::Cluster, names(&[]));
    assert!(sent(&mut subscription).is_empty());

    let unasked = response(Kind::Cluster, "1", vec![resource("a", "v1", cluster("a"))], &[]);
    let received = subscription.receive(unasked);
    assert!(!received.meaningful && received.updates.is_empty());
    assert!(sent(&mut subscription).is_empty());
}

#[test]
fn names_come_and_go() {
    let mut subscription = clusters(&["a", "b"]);
    subscription.want(Kind::Cluster, names(&["b", "c"]));
    assert_eq!(sent(&mut subscription), ["Cluster +c -a"]);
    subscription.want(Kind::Cluster, names(&[]));
    assert_eq!(sent(&mut subscription), ["Cluster -b -c"]);
    // What was asked for once may be acknowledged still.
    let received =
        subscription.receive(response(Kind::Cluster, "9", vec![resource("a", "1", cluster("a"))], &["b"]));
    assert!(received.meaningful && received.updates.is_empty());
    assert_eq!(sent(&mut subscription), ["Cluster ack 9"]);
}

#[test]
fn a_name_taken_back_before_it_was_sent_is_not_sent() {
    let mut subscription = clusters(&["a"]);
    subscription.want(Kind::Cluster, names(&["a", "b"]));
    subscription.want(Kind::Cluster, names(&["a"]));
    assert!(sent(&mut subscription).is_empty());
}

#[test]
fn a_name_taken_back_and_asked_for_again_is_sent_in_two_requests() {
    let mut subscription = clusters(&["a"]);
    subscription.receive(response(Kind::Cluster, "1", vec![resource("a", "v1", cluster("a"))], &[]));
    sent(&mut subscription);
    subscription.want(Kind::Cluster, names(&[]));
    subscription.want(Kind::Cluster, names(&["a"]));
    assert_eq!(sent(&mut subscription), ["Cluster -a", "Cluster +a"]);
    subscription.want(Kind::Cluster, names(&[]));
    subscription.want(Kind::Cluster, names(&["a"]));
    subscription.want(Kind::Cluster, names(&[]));
    assert_eq!(sent(&mut subscription), ["Cluster -a"]);
}

#[test]
fn a_new_stream_asks_for_everything_with_the_versions_held() {
    let mut subscription = clusters(&["a", "b", "c"]);
    subscription.receive(response(
        Kind::Cluster,
        "1",
        vec![resource("a", "v1", cluster("a")), resource("b", "", cluster("b"))],
        &["c"],
    ));
    subscription.want(Kind::Endpoints, names(&["a"]));
    subscription.closed();
    assert!(!subscription.has_request());
    subscription.want(Kind::Cluster, names(&["a", "b", "d"]));

    subscription.opened(node());
    assert_eq!(
        sent(&mut subscription),
        ["Cluster node +a +b +d a=v1", "ClusterLoadAssignment +a"],
        "acknowledgements of the old stream are gone, unsubscriptions too"
    );
    let received = subscription.receive(response(Kind::Cluster, "1", vec![], &["a"]));
    assert_eq!(news(&received), ["a absent"]);
    subscription.closed();
    subscription.opened(node());
    assert_eq!(sent(&mut subscription), ["Cluster node +a +b +d", "ClusterLoadAssignment +a"]);
}

#[test]
fn what_can_be_used_of_a_response_is_used_and_the_rest_named() {
    let mut subscription = clusters(&["a", "b", "c"]);
    subscription.receive(response(Kind::Cluster, "1", vec![resource("b", "good", cluster("b"))], &[]));
    sent(&mut subscription);

    let resources = vec![resource("a", "v2", cluster("a")), bad("b"), bad("c")];
    let received = subscription.receive(response(Kind::Cluster, "2", resources, &[]));
    let reason = "lb_policy is not supported; it must be ROUND_ROBIN, LEAST_REQUEST or RANDOM";
    assert_eq!(news(&received), ["a here", &format!("b refused: {reason}"), &format!("c refused: {reason}")]);
    assert_eq!(sent(&mut subscription), [format!("Cluster ack 2 error 3 b: {reason}; c: {reason}")]);

    // On the next stream the server learns what is really used.
    subscription.closed();
    subscription.opened(node());
    assert_eq!(sent(&mut subscription), ["Cluster node +a +b +c a=v2 b=good"]);
}

#[test]
fn a_refused_resource_that_becomes_good_is_taken() {
    let mut subscription = clusters(&["a"]);
    subscription.receive(response(Kind::Cluster, "1", vec![bad("a")], &[]));
    let received =
        subscription.receive(response(Kind::Cluster, "2", vec![resource("a", "v2", cluster("a"))], &[]));
    assert_eq!(news(&received), ["a here"]);
    let acks = sent(&mut subscription);
    assert!(acks[0].starts_with("Cluster ack 1 error") && acks[1] == "Cluster ack 2", "{acks:?}");
}

#[test]
fn what_is_sent_again_unchanged_changes_nothing() {
    let mut subscription = clusters(&["a"]);
    subscription.receive(response(Kind::Cluster, "1", vec![resource("a", "v1", cluster("a"))], &[]));
    let received =
        subscription.receive(response(Kind::Cluster, "2", vec![resource("a", "v2", cluster("a"))], &[]));
    assert!(received.updates.is_empty() && received.nack.is_none());
    subscription.closed();
    subscription.opened(node());
    assert_eq!(sent(&mut subscription), ["Cluster node +a a=v2"]);
}

#[test]
fn a_heartbeat_is_no_update() {
    let mut subscription = clusters(&["a", "b"]);
    subscription.receive(response(Kind::Cluster, "1", vec![resource("a", "v1", cluster("a"))], &[]));
    let empty =
        |name: &str| Resource { name: name.to_owned(), version: "v1".to_owned(), ..Resource::default() };
    let received = subscription.receive(response(Kind::Cluster, "2", vec![empty("a"), empty("b")], &[]));
    assert_eq!(news(&received), ["b refused: it is empty"]);
}

#[test]
fn rubbish_is_refused_by_name_or_ignored() {
    let mut subscription = clusters(&["a", "b", "c"]);
    let garbage = Any { type_url: decode::type_url(Kind::Cluster).to_owned(), value: vec![0xff; 30] };
    let wrong =
        Any { type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".to_owned(), value: vec![] };
    let resources = vec![
        wrapped("a", "1", garbage),
        wrapped("b", "1", wrong),
        wrapped("", "1", Any::default()),
        wrapped(&"x".repeat(5_000), "1", Any::default()),
        wrapped("stranger", "1", Any { type_url: "nonsense".to_owned(), value: vec![1, 2, 3] }),
        resource("c", "1", cluster("c")),
        resource("c", "1", cluster("c")),
    ];
    let received = subscription.receive(response(Kind::Cluster, "1", resources, &["nobody", ""]));
    let nack = received.nack.unwrap().to_string();
    assert!(nack.contains("a: it cannot be read as a envoy.config.cluster.v3.Cluster"), "{nack}");
    assert!(nack.contains("b: it is a \"type.googleapis.com/envoy.config.listener.v3.Listener\""), "{nack}");
    assert!(nack.contains("(no name): "), "{nack}");
    assert!(nack.contains("c: it stands twice in this response"), "{nack}");
    assert!(!nack.contains("stranger"), "{nack}");

    let unknown = DeltaDiscoveryResponse {
        type_url: "nonsense".to_owned(),
        nonce: "2".to_owned(),
        ..Default::default()
    };
    assert!(!subscription.receive(unknown).meaningful);
    let acks = sent(&mut subscription);
    assert_eq!(acks.len(), 1, "{acks:?}");
}

#[test]
fn a_response_without_a_nonce_is_used_and_not_acknowledged() {
    let mut subscription = clusters(&["a"]);
    let received =
        subscription.receive(response(Kind::Cluster, "", vec![resource("a", "v1", cluster("a"))], &[]));
    assert_eq!(news(&received), ["a here"]);
    assert!(sent(&mut subscription).is_empty());
}

#[test]
fn what_a_nack_says_is_bounded() {
    let wanted: Vec<String> = (0..2_000).map(|index| format!("cluster-{index:04}")).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut subscription = clusters(&wanted);
    let resources = wanted.iter().map(|name| bad(name)).collect();
    let nack = subscription.receive(response(Kind::Cluster, "1", resources, &[])).nack.unwrap();
    assert!(nack.len() < 6_000, "{}", nack.len());
    assert!(nack.contains("cluster-0000") && nack.ends_with(" more"), "{nack}");
}

#[test]
fn names_are_bounded() {
    let mut subscription = Subscription::default();
    let many = (0..MAX_NAMES + 7).map(|index| Arc::from(format!("{index:06}"))).collect();
    assert_eq!(subscription.want(Kind::Cluster, many), 7);
    let long = BTreeSet::from([Arc::from("y".repeat(MAX_NAME + 1))]);
    assert_eq!(subscription.want(Kind::Cluster, long), 1);
}

#[test]
fn a_long_version_is_not_kept() {
    let mut subscription = clusters(&["a"]);
    let long = resource("a", &"v".repeat(MAX_VERSION + 1), cluster("a"));
    assert_eq!(news(&subscription.receive(response(Kind::Cluster, "1", vec![long], &[]))), ["a here"]);
    subscription.closed();
    subscription.opened(node());
    assert_eq!(sent(&mut subscription), ["Cluster node +a"]);
}

#[test]
fn what_is_never_answered_counts_as_absent_after_a_while() {
    let begin = start();
    let mut subscription = Subscription::default();
    subscription.opened(node());
    subscription.want(Kind::Listener, names(&["l"]));
    subscription.want(Kind::Endpoints, names(&["a", "b", "c"]));
    assert_eq!(subscription.next_expiry(), None);
    while subscription.request(begin).is_some() {}
    assert_eq!(subscription.next_expiry(), Some(begin + UNANSWERED));

    let resources = vec![resource("a", "1", endpoints("a", &[1]))];
    subscription.receive(response(Kind::Endpoints, "1", resources, &["b"]));
    assert!(subscription.expire(begin + UNANSWERED - Duration::from_millis(1)).is_empty());
    let expired = subscription.expire(begin + UNANSWERED);
    assert_eq!(expired.len(), 1);
    assert_eq!((expired[0].kind, expired[0].name.as_ref()), (Kind::Endpoints, "c"));
    assert!(matches!(expired[0].news, News::Absent));
    assert_eq!(subscription.next_expiry(), None);

    // It may still come.
    let late = vec![resource("c", "1", endpoints("c", &[3]))];
    assert_eq!(news(&subscription.receive(response(Kind::Endpoints, "2", late, &[]))), ["c here"]);
}

#[test]
fn a_new_stream_that_is_silent_takes_nothing_away() {
    let begin = start();
    let mut subscription = clusters(&["a", "b"]);
    subscription.receive(response(Kind::Cluster, "1", vec![resource("a", "1", cluster("a"))], &[]));
    subscription.closed();
    assert_eq!(subscription.next_expiry(), None);
    subscription.opened(node());
    while subscription.request(begin).is_some() {}
    let expired = subscription.expire(begin + UNANSWERED * 2);
    assert_eq!(expired.iter().map(|update| update.name.as_ref()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn the_servers_own_errors_are_told_apart() {
    let mut subscription = clusters(&["a", "b"]);
    let error = |name: &str, code| ResourceError {
        resource_name: Some(ResourceName { name: name.to_owned(), ..ResourceName::default() }),
        error_detail: Some(Status { code, message: "sorry".to_owned(), details: Vec::new() }),
    };
    let mut response = response(Kind::Cluster, "1", vec![], &[]);
    response.resource_errors = vec![error("a", NOT_FOUND), error("b", 7), error("z", 7)];
    let received = subscription.receive(response);
    assert_eq!(news(&received), ["a absent", "b refused: the server has an error for it: sorry (code 7)"]);
    assert!(received.nack.is_none());
}

#[test]
fn removal_by_resource_name_counts() {
    let mut subscription = clusters(&["a"]);
    let mut response = response(Kind::Cluster, "1", vec![], &[]);
    response.removed_resource_names = vec![ResourceName { name: "a".to_owned(), ..ResourceName::default() }];
    assert_eq!(news(&subscription.receive(response)), ["a absent"]);
}

/// A server as the specification describes it, for endpoints alone. What it sends is the port of the only
/// endpoint, which is the version too.
#[derive(Default)]
struct Model {
    resources: BTreeMap<&'static str, u32>,
    subscribed: BTreeSet<String>,
    /// What it takes the client to have.
    told: BTreeMap<String, Option<u32>>,
    spoken: bool,
    nonce: u32,
    queue: VecDeque<DeltaDiscoveryResponse>,
}

impl Model {
    fn request(&mut self, request: &DeltaDiscoveryRequest) {
        assert!(request.error_detail.is_none());
        if !std::mem::replace(&mut self.spoken, true) {
            assert!(!request.resource_names_subscribe.is_empty(), "that would be a wildcard");
            assert!(request.node.is_some());
            let held = &request.initial_resource_versions;
            self.told = held.iter().map(|(name, version)| (name.clone(), version.parse().ok())).collect();
        } else {
            assert!(request.initial_resource_versions.is_empty());
            // A name asked for anew is always sent.
            for name in &request.resource_names_subscribe {
                self.told.remove(name);
            }
        }
        for name in &request.resource_names_unsubscribe {
            self.subscribed.remove(name);
            self.told.remove(name);
        }
        self.subscribed.extend(request.resource_names_subscribe.iter().cloned());
        self.send();
    }

    /// Sends what the client does not have yet.
    fn send(&mut self) {
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for name in &self.subscribed {
            let now = self.resources.get(name.as_str()).copied();
            if self.told.get(name) == Some(&now) {
                continue;
            }
            self.told.insert(name.clone(), now);
            match now {
                Some(port) => here.push(resource(name, &port.to_string(), endpoints(name, &[port]))),
                None => gone.push(name.as_str()),
            }
        }
        if !here.is_empty() || !gone.is_empty() {
            self.nonce += 1;
            self.queue.push_back(response(Kind::Endpoints, &self.nonce.to_string(), here, &gone));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Want(Vec<&'static str>),
    Change(&'static str, Option<u32>),
    /// The client's next request reaches the server.
    Request,
    /// The server's next response reaches the client.
    Response,
    Reconnect,
}

fn any_step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    let name = prop::sample::select(&["a", "b", "c"][..]);
    prop_oneof![
        2 => prop::sample::subsequence(&["a", "b", "c"][..], 0..=3).prop_map(Step::Want),
        2 => (name, prop::option::of(1..9_u32)).prop_map(|(name, port)| Step::Change(name, port)),
        4 => Just(Step::Request),
        4 => Just(Step::Response),
        1 => Just(Step::Reconnect),
    ]
}

proptest::proptest! {
    /// Whatever happens in whatever order: when all is delivered, the client has of what it wants exactly
    /// what the server has.
    #[test]
    fn the_client_ends_up_with_what_the_server_has(steps in proptest::collection::vec(any_step(), 0..80)) {
        let now = start();
        let mut client = Subscription::default();
        let mut server = Model::default();
        let mut view: BTreeMap<Arc<str>, Option<u16>> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        client.opened(node());
        let request = |client: &mut Subscription, server: &mut Model| {
            let request = client.request(now);
            request.is_some_and(|request| { server.request(&request); true })
        };
        let deliver = |client: &mut Subscription, server: &mut Model, view: &mut BTreeMap<_, _>| {
            let Some(response) = server.queue.pop_front() else { return false };
            for update in client.receive(response).updates {
                let port = match update.news {
                    News::Here(Piece::Endpoints(endpoints)) => Some(endpoints[0].address.port()),
                    News::Absent => None,
                    other => panic!("{other:?}"),
                };
                view.insert(update.name, port);
            }
            true
        };
        for step in steps {
            match step {
                Step::Want(some) => {
                    wanted = names(&some);
                    client.want(Kind::Endpoints, wanted.clone());
                    view.retain(|name, _| wanted.contains(name));
                }
                Step::Change(name, Some(port)) => { server.resources.insert(name, port); server.send(); }
                Step::Change(name, None) => { server.resources.remove(name); server.send(); }
                Step::Request => { request(&mut client, &mut server); }
                Step::Response => { deliver(&mut client, &mut server, &mut view); }
                Step::Reconnect => {
                    client.closed();
                    server = Model { resources: std::mem::take(&mut server.resources), ..Model::default() };
                    client.opened(node());
                }
            }
        }
        while request(&mut client, &mut server) || deliver(&mut client, &mut server, &mut view) {}
        for name in wanted {
            let has = view.get(&name).unwrap_or_else(|| panic!("{name} was never answered"));
            assert_eq!(has.map(u32::from), server.resources.get(&*name).copied(), "{name}");
        }
        assert!(client.next_expiry().is_none());
    }
}

/// The clusters in panic that the node in a request names.
fn panicking(request: &DeltaDiscoveryRequest) -> Vec<String> {
    let ours = &request.node.as_ref().unwrap().metadata.as_ref().unwrap().fields["fairlead.dev"];
    let Some(value::Kind::StructValue(ours)) = &ours.kind else { panic!("{ours:?}") };
    let Some(value::Kind::ListValue(list)) = &ours.fields["panicking"].kind else { panic!("{ours:?}") };
    let text = |value: &Value| match &value.kind {
        Some(value::Kind::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    list.values.iter().map(text).collect()
}

#[test]
fn panic_is_told_once_a_change_and_again_on_a_new_stream() {
    let mut subscription = clusters(&["a", "b"]);
    assert!(!subscription.panic(names(&[])));
    assert!(!subscription.has_request());
    assert!(subscription.panic(names(&["a"])));
    let request = subscription.request(start()).unwrap();
    assert_eq!((short(&request).as_str(), panicking(&request)), ("Cluster node", vec!["a".to_owned()]));
    assert!(!subscription.panic(names(&["a"])));
    assert!(!subscription.has_request() && subscription.request(start()).is_none());
    // With what is sent anyway.
    subscription.panic(names(&["a", "b"]));
    subscription.want(Kind::Cluster, names(&["a", "b", "c"]));
    let request = subscription.request(start()).unwrap();
    assert_eq!((short(&request).as_str(), panicking(&request).len()), ("Cluster node +c", 2));
    assert!(!subscription.has_request());

    subscription.closed();
    subscription.panic(names(&["b"]));
    assert!(!subscription.has_request());
    subscription.opened(node());
    let request = subscription.request(start()).unwrap();
    assert_eq!(
        (short(&request).as_str(), panicking(&request)),
        ("Cluster node +a +b +c", vec!["b".to_owned()])
    );
    subscription.panic((0..100).map(|n| Arc::from(format!("c{n}"))).collect());
    assert_eq!(panicking(&subscription.request(start()).unwrap()).len(), MAX_PANICKING);
}

#[test]
fn panic_alone_asks_for_nothing() {
    let mut subscription = Subscription::default();
    subscription.opened(node());
    subscription.panic(names(&["a"]));
    assert!(!subscription.has_request(), "a first request that names nothing asks for everything");
    subscription.want(Kind::Listener, names(&["l"]));
    assert_eq!(sent(&mut subscription), ["Listener node +l"]);
    subscription.panic(names(&[]));
    assert_eq!(sent(&mut subscription), [""; 0], "no cluster was asked for yet");
    subscription.want(Kind::Cluster, names(&["a"]));
    assert_eq!(sent(&mut subscription), ["Cluster node +a"]);
}

#[test]
fn a_start_without_the_server_is_told_on_every_stream() {
    let started = |request: &DeltaDiscoveryRequest| {
        let ours = &request.node.as_ref().unwrap().metadata.as_ref().unwrap().fields[decode::METADATA];
        let Some(value::Kind::StructValue(ours)) = &ours.kind else { panic!("{ours:?}") };
        ours.fields.contains_key("startedWithoutConfig")
    };
    let mut subscription = Subscription::default();
    subscription.want(Kind::Cluster, names(&["a"]));
    subscription.opened(node());
    assert!(!started(&subscription.request(start()).unwrap()));
    subscription.started_without_config();
    assert!(subscription.has_request());
    assert!(started(&subscription.request(start()).unwrap()));
    assert!(!subscription.has_request());
    subscription.opened(node());
    assert!(started(&subscription.request(start()).unwrap()));
}
