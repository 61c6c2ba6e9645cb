//! Pieces in, configurations out, in every order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cluster::{Balance, BudgetSettings, Cluster, UpstreamProtocol};
use crate::config::Protocol;
use crate::config::pieces::{News, Piece};
use crate::pool::PoolSettings;
use crate::retry::RetryPolicy;
use crate::route::{
    Action, Backend, Backends, HeaderChanges, PathMatcher, Rewrite, Route, RouteMatcher, VirtualHost,
};

fn listener(protocol: Protocol, routes: Option<&str>, opaque: Option<&str>) -> Piece {
    let routes = routes.map(|name| RouteSource::Named(name.into()));
    Piece::Listener(Arc::new(Listener::Outbound { protocol, routes, opaque: opaque.map(Arc::from) }))
}

fn http(routes: &str) -> Piece {
    listener(Protocol::Http, Some(routes), None)
}

fn table(name: &str, clusters: &[&str]) -> Arc<RouteTable> {
    let backend = |(cluster, _)| Backend {
        cluster,
        weight: 1,
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
    };
    let route = Route {
        name: "rule".into(),
        target: None,
        matcher: RouteMatcher {
            path: PathMatcher::Prefix("/".to_owned()),
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        },
        action: Action::Forward {
            backends: Backends::new(clusters.iter().enumerate().map(backend).collect()),
            rewrite: Rewrite::default(),
        },
        timeout: None,
        per_try_timeout: None,
        idle_timeout: None,
        retry: RetryPolicy::never(),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        handles: std::sync::OnceLock::new(),
    };
    let host = VirtualHost { domains: vec!["*".to_owned()], routes: vec![route] };
    let clusters = clusters.iter().map(|name| Arc::from(*name)).collect();
    Arc::new(RouteTable::new(name.into(), vec![host], clusters, false).unwrap())
}

fn routes(name: &str, clusters: &[&str]) -> Piece {
    Piece::Routes(table(name, clusters))
}

fn settings(name: &str, endpoints: EndpointSource) -> ClusterSettings {
    ClusterSettings {
        name: name.into(),
        endpoints,
        balance: Balance::RoundRobin,
        pool: PoolSettings {
            max_connections: None,
            max_pending_requests: None,
            pending_timeout: Duration::from_secs(3),
            max_requests: None,
            max_requests_per_connection: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: None,
        },
        outlier: None,
        budget: BudgetSettings {
            percent: 20.0,
            interval: Duration::from_secs(10),
            min_retries: 10,
            min_retries_interval: Duration::from_secs(1),
        },
        protocol: UpstreamProtocol::Http1,
        panic_threshold: 0.0,
    }
}

fn eds(name: &str) -> Piece {
    Piece::Cluster(Arc::new(settings(name, EndpointSource::Eds(name.into()))))
}

fn endpoints(ports: impl IntoIterator<Item = u16>) -> Piece {
    let one = |port| EndpointSettings {
        address: SocketAddr::from(([10, 0, 0, 1], port)),
        weight: 1,
        zone: "".into(),
        healthy: true,
    };
    Piece::Endpoints(ports.into_iter().map(one).collect())
}

fn here(name: &str, piece: Piece) -> Update {
    let kind = match &piece {
        Piece::Listener(_) => Kind::Listener,
        Piece::Routes(_) => Kind::Route,
        Piece::Cluster(_) => Kind::Cluster,
        Piece::Endpoints(_) => Kind::Endpoints,
    };
    Update { kind, name: name.into(), news: News::Here(piece) }
}

fn absent(kind: Kind, name: &str) -> Update {
    Update { kind, name: name.into(), news: News::Absent }
}

fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// An assembler that is asked for these listeners.
fn asked(listeners: &[&str]) -> Assembler {
    let mut assembler = Assembler::default();
    assembler.want(&names(listeners));
    assert!(assembler.assemble().is_none());
    assembler
}

/// One update at a time; the last configuration that came of them.
fn feed(assembler: &mut Assembler, updates: Vec<Update>) -> Option<Assembled> {
    let mut last = None;
    for update in updates {
        assembler.apply([update]);
        last = assembler.assemble().or(last);
    }
    last
}

/// `a` in force, with one cluster `a` of two endpoints.
fn running() -> (Assembler, Assembled) {
    let mut assembler = asked(&["a"]);
    let updates = vec![
        here("a", http("a")),
        here("a", routes("a", &["a"])),
        here("a", eds("a")),
        here("a", endpoints([1, 2])),
    ];
    let assembled = feed(&mut assembler, updates).unwrap();
    (assembler, assembled)
}

fn service<'c>(config: &'c ProxyConfig, name: &str) -> &'c Service {
    match config.destinations[name].as_ref() {
        Destination::Known(service) => service,
        Destination::Unknown => panic!("{name} is unknown"),
    }
}

fn ports(cluster: Option<&Arc<Cluster>>) -> Vec<u16> {
    cluster.unwrap().endpoints.iter().map(|endpoint| endpoint.address().port()).collect()
}

#[test]
fn a_destination_comes_into_force_when_all_that_it_leads_to_is_there() {
    let mut assembler = asked(&["a"]);
    assert_eq!(assembler.known()["a"], Known::Awaited("waits for the listener a".to_owned()));

    assert!(feed(&mut assembler, vec![here("a", http("r"))]).is_none());
    assert_eq!(assembler.wanted(Kind::Route), names(&["r"]));
    assert_eq!(assembler.known()["a"], Known::Awaited("waits for the route configuration r".to_owned()));

    assert!(feed(&mut assembler, vec![here("r", routes("r", &["c", "d"]))]).is_none());
    assert_eq!(assembler.wanted(Kind::Cluster), names(&["c", "d"]));

    assert!(feed(&mut assembler, vec![here("c", eds("c")), here("d", eds("d"))]).is_none());
    assert_eq!(assembler.wanted(Kind::Endpoints), names(&["c", "d"]));

    assert!(feed(&mut assembler, vec![here("d", endpoints([4]))]).is_none());
    assert_eq!(assembler.known()["a"], Known::Awaited("waits for the endpoints c".to_owned()));

    let assembled = feed(&mut assembler, vec![here("c", endpoints([1, 2, 3]))]).unwrap();
    let service = service(&assembled.config, "a");
    assert_eq!(service.protocol, Protocol::Http);
    assert_eq!(service.routes.as_ref().unwrap().name.as_ref(), "r");
    assert_eq!(ports(service.clusters[0].as_ref()), [1, 2, 3]);
    assert_eq!(ports(service.clusters[1].as_ref()), [4]);
    assert_eq!(assembler.known()["a"], Known::InForce);
    assert!(assembled.retired.is_empty());
}

#[test]
fn what_changes_nothing_makes_no_configuration() {
    let (mut assembler, _) = running();
    assert!(assembler.assemble().is_none());
    let again = vec![here("a", eds("a")), here("a", endpoints([1, 2]))];
    assert!(feed(&mut assembler, again).is_none());
    let strangers = vec![here("b", eds("b")), here("b", endpoints([9])), absent(Kind::Listener, "b")];
    assert!(feed(&mut assembler, strangers).is_none());
}

#[test]
fn a_change_of_endpoints_shares_the_routes_and_hands_the_live_state_on() {
    let (mut assembler, before) = running();
    let after = feed(&mut assembler, vec![here("a", endpoints([2, 3]))]).unwrap();
    let (before, now) = (service(&before.config, "a"), service(&after.config, "a"));
    assert!(Arc::ptr_eq(before.routes.as_ref().unwrap(), now.routes.as_ref().unwrap()));
    let (old, new) = (before.clusters[0].as_ref().unwrap(), now.clusters[0].as_ref().unwrap());
    assert_eq!(ports(Some(new)), [2, 3]);
    assert!(Arc::ptr_eq(&old.live, &new.live));
    assert_eq!(after.retired.len(), 1);
    assert_eq!(after.retired[0].addresses, [SocketAddr::from(([10, 0, 0, 1], 1))]);
    assert!(Arc::ptr_eq(&after.retired[0].cluster, new));
}

#[test]
fn a_change_of_one_destination_leaves_the_others_as_they_are() {
    let mut assembler = asked(&["a", "b"]);
    let all = ["a", "b"].into_iter().flat_map(|name| {
        [
            here(name, http(name)),
            here(name, routes(name, &[name])),
            here(name, eds(name)),
            here(name, endpoints([1])),
        ]
    });
    let before = feed(&mut assembler, all.collect()).unwrap().config;
    let after = feed(&mut assembler, vec![here("b", endpoints([2]))]).unwrap().config;
    assert!(Arc::ptr_eq(&before.destinations["a"], &after.destinations["a"]));
    assert!(!Arc::ptr_eq(&before.destinations["b"], &after.destinations["b"]));
}

#[test]
fn ten_thousand_endpoints_of_which_one_goes_are_one_new_cluster() {
    let (mut assembler, _) = running();
    let before = feed(&mut assembler, vec![here("a", endpoints(1..10_001))]).unwrap();
    let after = feed(&mut assembler, vec![here("a", endpoints(1..10_000))]).unwrap();
    let old = service(&before.config, "a").clusters[0].as_ref().unwrap();
    let new = service(&after.config, "a").clusters[0].as_ref().unwrap();
    assert_eq!(new.endpoints.len(), 9_999);
    assert!(Arc::ptr_eq(&old.live, &new.live));
    assert_eq!(after.retired[0].addresses, [SocketAddr::from(([10, 0, 0, 1], 10_000))]);
}

#[test]
fn new_routes_wait_for_their_clusters_while_the_old_keep_their_endpoints_fresh() {
    let (mut assembler, before) = running();
    assert!(feed(&mut assembler, vec![here("a", routes("a", &["b"]))]).is_none());
    assert_eq!(assembler.wanted(Kind::Cluster), names(&["a", "b"]));

    let fresh = feed(&mut assembler, vec![here("a", endpoints([7]))]).unwrap();
    let old = service(&before.config, "a").routes.as_ref().unwrap();
    let kept = service(&fresh.config, "a");
    assert!(Arc::ptr_eq(old, kept.routes.as_ref().unwrap()));
    assert_eq!(ports(kept.clusters[0].as_ref()), [7]);

    let updates = vec![here("b", eds("b")), here("b", endpoints([8]))];
    let switched = feed(&mut assembler, updates).unwrap();
    let now = service(&switched.config, "a");
    assert_eq!(now.routes.as_ref().unwrap().clusters, [Arc::from("b")]);
    assert_eq!(ports(now.clusters[0].as_ref()), [8]);
    assert_eq!(switched.retired[0].addresses, [SocketAddr::from(([10, 0, 0, 1], 7))]);
    assert_eq!(assembler.wanted(Kind::Cluster), names(&["b"]));
    assert_eq!(assembler.wanted(Kind::Endpoints), names(&["b"]));
}

#[test]
fn a_cluster_that_goes_while_its_successor_is_awaited_stays_in_force() {
    let (mut assembler, _) = running();
    let updates =
        vec![here("a", routes("a", &["b"])), absent(Kind::Cluster, "a"), absent(Kind::Endpoints, "a")];
    assert!(feed(&mut assembler, updates).is_none());
    assert_eq!(assembler.known()["a"], Known::InForce);
    let updates = vec![here("b", eds("b")), here("b", endpoints([8]))];
    let switched = feed(&mut assembler, updates).unwrap();
    assert_eq!(ports(service(&switched.config, "a").clusters[0].as_ref()), [8]);
    assert_eq!(switched.retired.len(), 1);
}

#[test]
fn a_cluster_that_goes_and_comes_back_while_routes_wait_keeps_its_live_state() {
    let (mut assembler, before) = running();
    let updates = vec![
        here("a", routes("a", &["b"])),
        absent(Kind::Cluster, "a"),
        here("a", eds("a")),
        here("a", endpoints([5])),
    ];
    let after = feed(&mut assembler, updates).unwrap();
    let old = service(&before.config, "a").clusters[0].as_ref().unwrap();
    let new = service(&after.config, "a").clusters[0].as_ref().unwrap();
    assert_eq!(ports(Some(new)), [5]);
    assert!(Arc::ptr_eq(&old.live, &new.live));
}

#[test]
fn new_cluster_settings_wait_for_their_endpoints() {
    let (mut assembler, _) = running();
    let moved = Piece::Cluster(Arc::new(settings("a", EndpointSource::Eds("elsewhere".into()))));
    assert!(feed(&mut assembler, vec![here("a", moved)]).is_none());
    assert_eq!(assembler.wanted(Kind::Endpoints), names(&["a", "elsewhere"]));
    let fresh = feed(&mut assembler, vec![here("a", endpoints([5]))]).unwrap();
    assert_eq!(ports(service(&fresh.config, "a").clusters[0].as_ref()), [5]);
    let moved = feed(&mut assembler, vec![here("elsewhere", endpoints([6]))]).unwrap();
    assert_eq!(ports(service(&moved.config, "a").clusters[0].as_ref()), [6]);
    assert_eq!(assembler.wanted(Kind::Endpoints), names(&["elsewhere"]));
}

#[test]
fn what_does_not_exist_is_known() {
    let mut assembler = asked(&["a"]);
    let updates = vec![
        here("a", http("a")),
        here("a", routes("a", &["invalid/x", "empty"])),
        absent(Kind::Cluster, "invalid/x"),
        here("empty", eds("empty")),
        absent(Kind::Endpoints, "empty"),
    ];
    let assembled = feed(&mut assembler, updates).unwrap();
    let service = service(&assembled.config, "a");
    assert!(service.clusters[0].is_none());
    assert!(service.clusters[1].as_ref().unwrap().endpoints.is_empty());
}

#[test]
fn a_listener_that_does_not_exist_is_an_unknown_destination() {
    let mut assembler = asked(&["a"]);
    let assembled = feed(&mut assembler, vec![absent(Kind::Listener, "a")]).unwrap();
    assert!(matches!(assembled.config.destinations["a"].as_ref(), Destination::Unknown));
    assert_eq!(assembler.known()["a"], Known::Absent);
    assert!(feed(&mut assembler, vec![absent(Kind::Listener, "a")]).is_none());
}

#[test]
fn a_listener_that_goes_retires_its_endpoints() {
    let (mut assembler, _) = running();
    let assembled = feed(&mut assembler, vec![absent(Kind::Listener, "a")]).unwrap();
    assert!(matches!(assembled.config.destinations["a"].as_ref(), Destination::Unknown));
    assert_eq!(assembled.retired[0].addresses.len(), 2);
    assert!(assembler.wanted(Kind::Cluster).is_empty());
}

#[test]
fn routes_that_do_not_exist_match_nothing() {
    let mut assembler = asked(&["a"]);
    let assembled = feed(&mut assembler, vec![here("a", http("a")), absent(Kind::Route, "a")]).unwrap();
    assert!(service(&assembled.config, "a").routes.as_ref().unwrap().virtual_hosts.is_empty());
}

#[test]
fn bytes_need_a_cluster_and_no_routes() {
    let mut assembler = asked(&["a"]);
    let updates = vec![
        here("a", listener(Protocol::Opaque, None, Some("c"))),
        here("c", eds("c")),
        here("c", endpoints([1])),
    ];
    let assembled = feed(&mut assembler, updates).unwrap();
    let service = service(&assembled.config, "a");
    assert!(service.routes.is_none() && service.clusters.is_empty());
    assert_eq!(ports(service.opaque.as_ref()), [1]);
}

#[test]
fn inline_routes_and_endpoints_need_nothing_else() {
    let mut assembler = asked(&["a"]);
    let Piece::Endpoints(list) = endpoints([1]) else { unreachable!() };
    let inline = EndpointSource::Inline(list.to_vec());
    let routes = Some(RouteSource::Inline(table("inside", &["c"])));
    let listener =
        Piece::Listener(Arc::new(Listener::Outbound { protocol: Protocol::Http, routes, opaque: None }));
    let updates = vec![here("a", listener), here("c", Piece::Cluster(Arc::new(settings("c", inline))))];
    let assembled = feed(&mut assembler, updates).unwrap();
    assert_eq!(ports(service(&assembled.config, "a").clusters[0].as_ref()), [1]);
    assert!(assembler.wanted(Kind::Route).is_empty() && assembler.wanted(Kind::Endpoints).is_empty());
}

#[test]
fn what_is_asked_for_no_more_leaves_with_all_that_only_it_used() {
    let (mut assembler, _) = running();
    assembler.want(&names(&["b"]));
    let assembled = assembler.assemble().unwrap();
    assert!(assembled.config.destinations.is_empty());
    assert_eq!(assembled.retired[0].addresses.len(), 2);
    for kind in [Kind::Route, Kind::Cluster, Kind::Endpoints] {
        assert!(assembler.wanted(kind).is_empty(), "{kind}");
    }
    assert!(assembler.references_followed());
    assert!(!assembler.references_followed());
}

#[test]
fn a_refused_update_keeps_what_was_and_a_refused_first_one_is_told() {
    let (mut assembler, _) = running();
    let refused =
        |kind, name: &str| Update { kind, name: name.into(), news: News::Refused("no good".into()) };
    assert!(feed(&mut assembler, vec![refused(Kind::Cluster, "a"), refused(Kind::Listener, "a")]).is_none());
    assert_eq!(assembler.known()["a"], Known::InForce);

    let mut assembler = asked(&["b"]);
    assert!(feed(&mut assembler, vec![here("b", http("b")), refused(Kind::Route, "b")]).is_none());
    let reason = "the route configuration b was refused: no good".to_owned();
    assert_eq!(assembler.known()["b"], Known::Awaited(reason));
}

#[test]
fn limits_of_an_endpoint_are_put_in_force_by_its_address() {
    let mut assembler = asked(&["inbound/10.0.0.1:80"]);
    let piece = || {
        let address = "10.0.0.1:80".parse().unwrap();
        let limits = InboundSettings { services: vec!["shop/a:80".to_owned()], ..InboundSettings::default() };
        Piece::Listener(Arc::new(Listener::Inbound { address, protocol: Protocol::Http, limits }))
    };
    let assembled = feed(&mut assembler, vec![here("inbound/10.0.0.1:80", piece())]).unwrap();
    assert!(assembled.config.destinations.is_empty());
    assert_eq!(assembled.config.inbound.len(), 1);
    assert_eq!(assembler.known()["inbound/10.0.0.1:80"], Known::InForce);
    assert!(assembler.wanted(Kind::Cluster).is_empty());
    let gone = feed(&mut assembler, vec![absent(Kind::Listener, "inbound/10.0.0.1:80")]).unwrap();
    assert!(gone.config.inbound.is_empty());
}

#[test]
fn limits_that_are_enforced_make_an_undeclared_port_http() {
    let settings = |shadow: bool| -> InboundSettings {
        let policy = serde_json::json!({
            "name": "shop/a",
            "shadow": shadow,
            "limits": [{"name": "few", "requests": 1, "perMs": 1000, "burst": 1, "algorithm": "TokenBucket"}],
            "response": {"status": 429},
        });
        serde_json::from_value(serde_json::json!({
            "services": ["shop/a:80"], "policies": [policy], "targets": {"shop/a:80": ["shop/a"]},
        }))
        .unwrap()
    };
    for (said, limits, wanted) in [
        (Protocol::Detect, settings(false), Protocol::Http),
        (Protocol::Detect, settings(true), Protocol::Detect),
        (Protocol::Detect, InboundSettings::default(), Protocol::Detect),
        (Protocol::Opaque, settings(false), Protocol::Opaque),
    ] {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let piece = Piece::Listener(Arc::new(Listener::Inbound { address, protocol: said, limits }));
        let mut assembler = asked(&["inbound/10.0.0.1:80"]);
        let assembled = feed(&mut assembler, vec![here("inbound/10.0.0.1:80", piece)]).unwrap();
        assert_eq!(assembled.config.inbound[&address].protocol, wanted);
    }
}

/// What a configuration leads to, to compare.
fn summary(config: &ProxyConfig) -> Vec<String> {
    let mut all: Vec<String> = config
        .destinations
        .iter()
        .map(|(name, destination)| match destination.as_ref() {
            Destination::Unknown => format!("{name} unknown"),
            Destination::Known(service) => {
                let clusters: Vec<_> = service
                    .clusters
                    .iter()
                    .map(|cluster| cluster.as_ref().map(|cluster| ports(Some(cluster))))
                    .collect();
                format!(
                    "{name} {:?} {clusters:?}",
                    service.routes.as_ref().map(|table| table.clusters.clone())
                )
            }
        })
        .collect();
    all.sort();
    all
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn any_update() -> impl Strategy<Value = Update> {
    let name = prop::sample::select(&NAMES[..]);
    let some = prop::sample::subsequence(&NAMES[..], 0..=3);
    prop_oneof![
        (name.clone(), name.clone()).prop_map(|(name, to)| here(name, http(to))),
        (name.clone(), some).prop_map(|(name, to)| here(name, routes(name, &to))),
        name.clone().prop_map(|name| here(name, eds(name))),
        (name.clone(), prop::collection::btree_set(1_u16..5, 0..3))
            .prop_map(|(name, to)| here(name, endpoints(to))),
        (prop::sample::select(&Kind::ALL[..]), name).prop_map(|(kind, name)| absent(kind, name)),
    ]
}

proptest! {
    /// Whatever the order in which pieces came and went: once the last word on all of them is known, the
    /// configuration is that of a proxy which has heard nothing else. And never on the way does what was in
    /// force vanish without the server's word.
    #[test]
    fn the_configuration_does_not_depend_on_its_history(
        updates in prop::collection::vec(any_update(), 0..60),
        last in prop::collection::vec(any_update(), 0..12),
    ) {
        let mut old = asked(&NAMES);
        let mut config = Arc::new(ProxyConfig::default());
        let feed = |assembler: &mut Assembler, config: &mut Arc<ProxyConfig>, update: Update| {
            let gone = update.kind == Kind::Listener && matches!(update.news, News::Absent);
            let name = Arc::clone(&update.name);
            assembler.apply([update]);
            if let Some(next) = assembler.assemble() {
                for (other, destination) in &config.destinations {
                    let known = |config: &ProxyConfig| matches!(
                        config.destinations.get(other).map(AsRef::as_ref), Some(Destination::Known(_))
                    );
                    if matches!(destination.as_ref(), Destination::Known(_)) && !(gone && *other == name) {
                        assert!(known(&next.config), "{other} vanished");
                    }
                }
                *config = next.config;
            }
        };
        for update in updates {
            feed(&mut old, &mut config, update);
        }
        // The last word on everything, from the top down, as often as references ask for more.
        let mut word: Vec<Update> = last;
        for kind in Kind::ALL {
            for name in NAMES {
                if !word.iter().any(|update| update.kind == kind && &*update.name == name) {
                    word.push(absent(kind, name));
                }
            }
        }
        word.sort_by_key(|update| update.kind);
        let mut fresh = asked(&NAMES);
        let mut fresh_config = Arc::new(ProxyConfig::default());
        for _ in 0..3 {
            for update in &word {
                feed(&mut old, &mut config, update.clone());
                feed(&mut fresh, &mut fresh_config, update.clone());
            }
        }
        prop_assert_eq!(summary(&config), summary(&fresh_config));
        for kind in Kind::ALL {
            prop_assert_eq!(old.wanted(kind), fresh.wanted(kind));
        }
    }
}
