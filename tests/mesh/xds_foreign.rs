//! The sidecar under another xDS server: plain Envoy resources without our metadata, then rubbish.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, SocketAddress, TransportSocket, address, config_source,
    socket_address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster, route,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::{Any, Duration as EnvoyDuration, UInt32Value};
use envoy_types::util::pack_any;
use fairlead_tests::ads::Server;
use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Call, call, get};
use fairlead_tests::load::{Load, Summary, burst};
use fairlead_tests::until::{eventually, holds};
use fairlead_tests::world::{Sidecar, SidecarFlags, World};
use prost::Name;

// -- A sidecar, its server, and what stands behind ----------------------------------------------------------

/// Inline routes to a static cluster and to one from EDS; the same over RDS; bytes.
struct Foreign {
    world: World,
    server: Server,
    old: Backend,
    new: Backend,
}

const INLINE: &str = "shop/inline:80";
const NAMED: &str = "shop/named:80";
const BYTES: &str = "shop/bytes:80";

impl Foreign {
    async fn start() -> Self {
        let mut world = World::new();
        let mut backend =
            async |name: &str| Backend::start(name, SocketAddr::new(world.host(), 80), Behaviour::Ok).await;
        let (old, new) = (backend("old").await, backend("new").await);
        let server = Server::start().await;
        server.set("static", static_cluster(&[old.address]));
        server.set("dynamic", eds_cluster());
        server.set("endpoints-of-dynamic", assignment("endpoints-of-dynamic", &[new.address]));
        server.set(INLINE, http_listener(INLINE, RouteSpecifier::RouteConfig(routes("", rules()))));
        let rds = Rds { route_config_name: "rules".to_owned(), config_source: Some(ads()) };
        server.set(NAMED, http_listener(NAMED, RouteSpecifier::Rds(rds)));
        server.set("rules", routes("rules", rules()));
        let proxy = TcpProxy {
            stat_prefix: "bytes".to_owned(),
            cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("static".to_owned())),
            ..Default::default()
        };
        server.set(BYTES, listener(BYTES, "envoy.filters.network.tcp_proxy", pack_any(proxy)));
        Self { world, server, old, new }
    }

    async fn sidecar(&self, upstreams: &[&str]) -> Sidecar {
        let flags = SidecarFlags {
            operator: Some(self.server.address),
            ..SidecarFlags::calling("shop/frontend", upstreams)
        };
        self.world.sidecar(&flags).await
    }
}

fn rules() -> Vec<Route> {
    let strip = RouteAction { prefix_rewrite: "/".to_owned(), ..to("static") };
    let weight = |name: &str, weight| ClusterWeight {
        name: name.to_owned(),
        weight: Some(UInt32Value { value: weight }),
        ..Default::default()
    };
    let split =
        WeightedCluster { clusters: vec![weight("static", 3), weight("dynamic", 1)], ..Default::default() };
    let split = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(split)),
        ..Default::default()
    };
    let retried = RouteAction {
        retry_policy: Some(RetryPolicy {
            retry_on: "connect-failure,refused-stream,5xx".to_owned(),
            num_retries: Some(UInt32Value { value: 2 }),
            ..Default::default()
        }),
        ..to("dynamic")
    };
    vec![rule("/strip/", strip), rule("/split", split), rule("/retried", retried), rule("/", to("static"))]
}

// -- Envoy's resources, as small as they come ----------------------------------------------------------------

fn to(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    }
}

fn rule(prefix: &str, action: RouteAction) -> Route {
    let path =
        RouteMatch { path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())), ..Default::default() };
    Route { r#match: Some(path), action: Some(route::Action::Route(action)), ..Default::default() }
}

fn routes(name: &str, routes: Vec<Route>) -> RouteConfiguration {
    let host =
        VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes, ..Default::default() };
    RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..Default::default() }
}

fn http_listener(name: &str, routes: RouteSpecifier) -> Listener {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "calls".to_owned(),
        http_filters: vec![router],
        route_specifier: Some(routes),
        ..Default::default()
    };
    listener(name, "envoy.filters.network.http_connection_manager", pack_any(manager))
}

fn listener(name: &str, filter: &str, config: Any) -> Listener {
    let config_type = Some(filter::ConfigType::TypedConfig(config));
    let chain =
        FilterChain { filters: vec![Filter { name: filter.to_owned(), config_type }], ..Default::default() };
    Listener {
        name: name.to_owned(),
        address: Some(socket(SocketAddr::from(([0, 0, 0, 0], 80)))),
        filter_chains: vec![chain],
        ..Default::default()
    }
}

fn static_cluster(endpoints: &[SocketAddr]) -> Cluster {
    Cluster {
        name: "static".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        lb_policy: LbPolicy::RoundRobin.into(),
        load_assignment: Some(assignment("static", endpoints)),
        ..Default::default()
    }
}

fn eds_cluster() -> Cluster {
    Cluster {
        name: "dynamic".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: "endpoints-of-dynamic".to_owned(),
        }),
        ..Default::default()
    }
}

fn assignment(name: &str, endpoints: &[SocketAddr]) -> ClusterLoadAssignment {
    let endpoint = |address: &SocketAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket(*address)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let locality =
        LocalityLbEndpoints { lb_endpoints: endpoints.iter().map(endpoint).collect(), ..Default::default() };
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![locality], ..Default::default() }
}

fn socket(address: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    }
}

fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

// -- What must hold ------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_inline_and_by_rds_carry_calls() {
    let foreign = Foreign::start().await;
    let sidecar = foreign.sidecar(&[INLINE, NAMED, BYTES]).await;
    for service in [INLINE, NAMED] {
        let address = sidecar.upstream(service).await;
        let answer = get(address, "/strip/a/b?c").await.unwrap();
        assert_eq!((answer.backend(), &answer.json()["path"]), ("old", &"/a/b?c".into()), "{service}");
        let summary = Summary::of(burst(address, 40, 1, |_| Call::get("/split")).await);
        assert_eq!((summary.backends["old"], summary.backends["new"]), (30, 10), "{service}: {summary:?}");
    }
    // Bytes go to one endpoint, whatever they mean.
    let answer = get(sidecar.upstream(BYTES).await, "/bytes").await.unwrap();
    assert_eq!((answer.backend(), &answer.json()["path"]), ("old", &"/bytes".into()));

    // An endpoint that comes over EDS, a rule that comes over RDS.
    let address = sidecar.upstream(NAMED).await;
    let both = [foreign.old.address, foreign.new.address];
    foreign.server.set("endpoints-of-dynamic", assignment("endpoints-of-dynamic", &both));
    foreign.server.set("rules", routes("rules", vec![rule("/", to("dynamic"))]));
    holds("both are called", || async {
        let summary = Summary::of(burst(address, 4, 1, |_| Call::get("/")).await);
        summary.backends.values().eq(&[2, 2])
    })
    .await;
    assert_eq!(foreign.server.nacks(), []);
    assert!(foreign.server.acks() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_are_envoys_but_never_of_what_may_have_been_processed() {
    let foreign = Foreign::start().await;
    let both = [foreign.old.address, foreign.new.address];
    foreign.server.set("endpoints-of-dynamic", assignment("endpoints-of-dynamic", &both));
    let sidecar = foreign.sidecar(&[NAMED]).await;
    let address = sidecar.upstream(NAMED).await;

    foreign.old.set(Behaviour::Status(503));
    for _ in 0..10 {
        assert_eq!(get(address, "/retried").await.unwrap().status, 200, "a GET is sent to the other one");
    }
    let before = foreign.old.total() + foreign.new.total();
    let posts = Summary::of(burst(address, 10, 1, |_| Call::post("/retried", "x")).await);
    assert_eq!(foreign.old.total() + foreign.new.total() - before, 10, "no POST is sent twice");
    assert_eq!((posts.status(200), posts.status(503)), (5, 5), "{posts:?}");

    // What provably was not processed is another matter.
    let Foreign { old, new, .. } = foreign;
    old.stop().await;
    for _ in 0..4 {
        assert_eq!(call(address, &Call::post("/retried", "x")).await.unwrap().status, 200);
    }
    drop(new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn circuit_breakers_and_outlier_detection_hold() {
    let foreign = Foreign::start().await;
    let one = |value| Some(UInt32Value { value });
    let second = Some(EnvoyDuration { seconds: 1, nanos: 0 });
    let both = [foreign.old.address, foreign.new.address];
    let breakers = Thresholds { max_connections: one(1), max_pending_requests: one(1), ..Default::default() };
    let limited = Cluster {
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![breakers], ..Default::default() }),
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: one(3),
            base_ejection_time: second,
            max_ejection_percent: one(50),
            // Envoy's own defaults would need a hundred requests to eject by success rate.
            enforcing_success_rate: one(0),
            ..Default::default()
        }),
        ..static_cluster(&both)
    };
    foreign.server.set("static", limited);
    let sidecar = foreign.sidecar(&[INLINE]).await;
    let address = sidecar.upstream(INLINE).await;

    // Three errors in a row, out; after its time, in again.
    foreign.old.set(Behaviour::Status(500));
    let met = Summary::of(burst(address, 20, 1, |_| Call::get("/")).await);
    assert_eq!((met.status(500), met.status(200)), (3, 17), "{met:?}");
    let ejected = Instant::now();
    foreign.old.set(Behaviour::Ok);
    let back = || async { get(address, "/").await.unwrap().backend() == "old" };
    holds("it is back", back).await;
    assert!(ejected.elapsed() > Duration::from_millis(800), "{:?}", ejected.elapsed());

    // One call under way, one waiting, the third refused at once.
    foreign.old.set(Behaviour::Stall);
    foreign.new.set(Behaviour::Stall);
    let before = foreign.old.total() + foreign.new.total();
    let waiting = tokio::spawn(burst(address, 2, 2, |_| Call::get("/")));
    holds("one is under way", || async { foreign.old.total() + foreign.new.total() == before + 1 }).await;
    let ((), took) = eventually("a third is refused", || async {
        let third = tokio::time::timeout(Duration::from_millis(500), get(address, "/")).await;
        third.is_ok_and(|answer| answer.unwrap().status == 503).then_some(())
    })
    .await;
    println!("refused after {took:?}");
    foreign.old.set(Behaviour::Ok);
    foreign.new.set(Behaviour::Ok);
    foreign.old.release();
    foreign.new.release();
    let met = Summary::of(waiting.await.unwrap());
    assert_eq!(met.status(200), 2, "{met:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_without_a_timeout_has_envoys_fifteen_seconds() {
    let foreign = Foreign::start().await;
    let sidecar = foreign.sidecar(&[INLINE]).await;
    foreign.old.set(Behaviour::Stall);
    let start = Instant::now();
    let answer = get(sidecar.upstream(INLINE).await, "/").await.unwrap();
    let took = start.elapsed();
    assert_eq!(answer.status, 504);
    assert!((Duration::from_secs(14)..Duration::from_secs(20)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_is_refused_by_name_and_the_last_good_stays() {
    let foreign = Foreign::start().await;
    let server = &foreign.server;
    let sidecar = foreign.sidecar(&[NAMED]).await;
    let address = sidecar.upstream(NAMED).await;
    let load = Load::start(address, 2, Duration::from_millis(2), |_| Call::get("/strip/x"));

    let tls = TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), ..Default::default() };
    let tls = Cluster { transport_socket: Some(tls), ..static_cluster(&[foreign.old.address]) };
    let header = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::ClusterHeader("x-cluster".to_owned())),
        ..Default::default()
    };
    let bytes = |type_url: String| Any { type_url, value: vec![0xff; 40] };
    let cluster = Cluster::type_url();
    let unknown = bytes("type.googleapis.com/example.Unknown".to_owned());
    let port = SocketAddr::new(foreign.old.address.ip(), 0);
    let rubbish: [(String, &str, Any, &str); 6] = [
        (
            cluster.clone(),
            "static",
            bytes(cluster.clone()),
            "cannot be read as a envoy.config.cluster.v3.Cluster",
        ),
        (cluster.clone(), "static", unknown, "example.Unknown"),
        (cluster.clone(), "static", pack_any(tls), "transport_socket"),
        (
            RouteConfiguration::type_url(),
            "rules",
            pack_any(routes("rules", vec![rule("/", header)])),
            "cluster_specifier",
        ),
        (
            ClusterLoadAssignment::type_url(),
            "endpoints-of-dynamic",
            pack_any(assignment("endpoints-of-dynamic", &[port])),
            "port_value 0",
        ),
        (Listener::type_url(), NAMED, pack_any(Listener::default()), "no filter chain"),
    ];
    for (type_url, name, any, reason) in rubbish {
        let before = server.nacks().len();
        server.set_any(&type_url, name, any);
        let (nack, _) =
            eventually(&format!("{name} is refused"), || async { server.nacks().get(before).cloned() }).await;
        assert_eq!(nack.type_url, type_url);
        assert!(nack.message.contains(name) && nack.message.contains(reason), "{reason:?}: {}", nack.message);
    }

    // Nobody asked for these; nothing happens, on the same stream.
    let before = server.nacks().len();
    let nobodys =
        Resource { name: "x".to_owned(), resource: Some(bytes(cluster.clone())), ..Default::default() };
    server.send(DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/example.Unknown".to_owned(),
        resources: vec![nobodys.clone()],
        ..Default::default()
    });
    server.send(DeltaDiscoveryResponse { type_url: cluster, resources: vec![nobodys], ..Default::default() });

    // The good ones of a response are used though a neighbour is refused, and what is mended is taken.
    let made = load.made();
    holds("calls go on", || async { load.made() > made + 50 }).await;
    let summary = load.stop().await;
    assert!(summary.failed.is_empty(), "{summary:?}");
    assert_eq!(summary.backends.len(), 1, "{summary:?}");
    server.set("static", static_cluster(&[foreign.new.address]));
    server.set("rules", routes("rules", rules()));
    holds("what is mended is used", || async { get(address, "/").await.unwrap().backend() == "new" }).await;
    assert_eq!(server.nacks().len(), before, "{:?}", server.nacks());
}
