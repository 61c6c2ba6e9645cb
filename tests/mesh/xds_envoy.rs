//! Real Envoy under the operator's rules: it takes everything that the operator says, and does what the
//! demo shows.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use fairlead_tests::backend::{Backend, Behaviour};
use fairlead_tests::client::{Answer, Call};
use fairlead_tests::envoy::{Envoy, Protocol};
use fairlead_tests::load::burst;
use fairlead_tests::until::{eventually, holds};
use fairlead_tests::world::{SidecarFlags, World};

const REVIEWS: &str = "shop/reviews:9080";
const ORDERS: &str = "shop/orders:9080";

/// The demo's files, as the operator reads them.
const DEMO: [(&str, &str); 5] = [
    ("services", include_str!("../../examples/demo/services.yaml")),
    ("reviews-endpoints", include_str!("../../examples/demo/reviews-endpoints.yaml")),
    ("reviews-route", include_str!("../../examples/demo/reviews-route.yaml")),
    ("reviews-outlier", include_str!("../../examples/demo/reviews-outlier.yaml")),
    ("orders-limit", include_str!("../../examples/demo/orders-limit.yaml")),
];

/// The demo's system, with Envoy in the place of the callers' sidecar.
struct Demo {
    world: World,
    reviews: Vec<Backend>,
    orders: Backend,
    network: [u8; 2],
}

impl Demo {
    async fn start() -> Self {
        let mut world = World::new();
        let IpAddr::V4(some) = world.host() else { panic!("a world is IPv4") };
        let [_, a, b, _] = some.octets();
        for (file, yaml) in DEMO {
            world.apply(file, &yaml.replace("127.77.0.", &format!("127.{a}.{b}.")));
        }
        let listen = |host, port| SocketAddr::new(Ipv4Addr::new(127, a, b, host).into(), port);
        let mut reviews = Vec::new();
        for (name, host) in [("reviews-1", 11), ("reviews-2", 12), ("reviews-3", 13), ("reviews-v2", 21)] {
            reviews.push(Backend::start(name, listen(host, 9080), Behaviour::Ok).await);
        }
        let orders = Backend::start("orders-1", listen(31, 19080), Behaviour::Ok).await;
        world.start_operator().await;
        Self { world, reviews, orders, network: [a, b] }
    }

    fn processed(&self) -> usize {
        self.reviews.iter().map(Backend::total).sum()
    }
}

/// Makes the calls one after the other, and counts who answered; what is no 200 counts as its status.
async fn count(address: SocketAddr, calls: usize, call: Call) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers(address, calls, call).await {
        let who = if answer.status == 200 { answer.backend().to_owned() } else { answer.status.to_string() };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

async fn answers(address: SocketAddr, calls: usize, call: Call) -> Vec<Answer> {
    let outcomes = burst(address, calls, 1, move |_| call.clone()).await;
    outcomes.into_iter().map(Result::unwrap).collect()
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.map(|(name, count)| (name.to_owned(), count)).into()
}

async fn carries_the_demo(protocol: Protocol) {
    let mut demo = Demo::start().await;
    let envoy = Envoy::start(&demo.world, protocol, &[REVIEWS, ORDERS]).await;
    let address = envoy.upstream(REVIEWS).await;
    let info = || Call::get("/info");

    let all = counts([("reviews-1", 10), ("reviews-2", 10), ("reviews-3", 10)]);
    assert_eq!(count(address, 30, info()).await, all, "round robin");
    let tester = info().header("x-tester", "yes");
    assert_eq!(count(address, 10, tester).await, counts([("reviews-v2", 10)]), "a header beats the rest");
    // Envoy draws each request's backend: five standard deviations around a tenth.
    let canary = count(address, 1000, Call::get("/canary")).await;
    assert!((50..=150).contains(&canary["reviews-v2"]), "a tenth to the next version: {canary:?}");
    assert_eq!(canary.values().sum::<usize>(), 1000);
    assert_eq!(canary.len(), 4, "{canary:?}");

    ejects_and_takes_back(&demo, &envoy, address).await;
    retries_what_was_not_processed(&mut demo, address).await;
    limits_reach_its_calls(&demo, envoy.upstream(ORDERS).await).await;
    follows_changes(&demo, address).await;
    envoy.took_everything().await;
}

/// Five errors in a row, out; after its time, in again.
async fn ejects_and_takes_back(demo: &Demo, envoy: &Envoy, address: SocketAddr) {
    demo.reviews[0].set(Behaviour::Status(503));
    let met = count(address, 60, Call::get("/info")).await;
    let ejected = Instant::now();
    // Envoy ejects on another thread than it calls on, so some calls more may meet it; without an ejection, 20 would.
    let errors = met.get("503").copied().unwrap_or(0);
    assert!((5..15).contains(&errors), "five errors, then none: {met:?}");
    let stats = envoy.stats("outlier_detection.ejections_enforced_total").await;
    assert_eq!(stats.values().sum::<u64>(), 1, "{stats:?}");
    demo.reviews[0].set(Behaviour::Ok);
    holds("reviews-1 gets calls again", || async {
        let one = count(address, 1, Call::get("/info")).await;
        assert!(!one.contains_key("503"));
        one.contains_key("reviews-1")
    })
    .await;
    let back = ejected.elapsed();
    println!("back after {back:?}");
    assert!(back > Duration::from_millis(1500), "it was out for its base time of 2 s, not {back:?}");
}

/// A refused connection is tried elsewhere, whatever the method; a POST that was sent is not.
async fn retries_what_was_not_processed(demo: &mut Demo, address: SocketAddr) {
    let gone = demo.reviews.remove(1);
    let (name, listen) = (gone.name.clone(), gone.address);
    gone.stop().await;
    let before = demo.processed();
    for call in [Call::get("/info"), Call::post("/info", "x")] {
        let met = count(address, 15, call).await;
        assert!(!met.contains_key("503"), "hidden by a retry: {met:?}");
    }
    assert_eq!(demo.processed() - before, 30);
    demo.reviews.insert(1, Backend::start(&name, listen, Behaviour::Ok).await);

    for backend in &demo.reviews {
        backend.set(Behaviour::ResetBeforeHead);
    }
    let before = demo.processed();
    let met = count(address, 1, Call::post("/info", "x")).await;
    assert_eq!(met, counts([("503", 1)]));
    assert_eq!(demo.processed() - before, 1, "a POST that was read is not sent again");
    for backend in &demo.reviews {
        backend.set(Behaviour::Ok);
    }
}

/// The limit is the target's sidecar's: Envoy calls the endpoint, and in front of it stands the sidecar.
async fn limits_reach_its_calls(demo: &Demo, address: SocketAddr) {
    let [a, b] = demo.network;
    let listen = SocketAddr::from(([127, a, b, 31], 9080));
    let flags = SidecarFlags::serving("shop/orders-0", listen, demo.orders.address);
    let _sidecar = demo.world.sidecar(&flags).await;
    let answers = answers(address, 6, Call::post("/orders", "one")).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429], "{answers:?}");
    assert_eq!(demo.orders.total(), 5);
    let refused = answers.last().unwrap();
    assert_eq!(refused.number("ratelimit-limit"), Some(5));
    assert_eq!(refused.number("ratelimit-remaining"), Some(0));
    // Five in ten seconds are one in two, rounded up; a busy machine may have used some of them.
    let wait = refused.number("retry-after").unwrap();
    assert!((1..=2).contains(&wait), "Retry-After: {wait}");
}

/// Edited on disk, in force in Envoy, and the operator knows.
async fn follows_changes(demo: &Demo, address: SocketAddr) {
    let route = DEMO[2].1.replace("x-tester", "x-taster");
    demo.world.apply("reviews-route", &route);
    let ((), took) = eventually("the changed rule is in force", || async {
        let met = count(address, 1, Call::get("/info").header("x-taster", "yes")).await;
        met.contains_key("reviews-v2").then_some(())
    })
    .await;
    let acked = demo.world.programmed("ServiceRoute", "shop", "reviews").await;
    println!("a changed rule: {took:?} to the first call, {acked:?} more until acked");

    let [a, b] = demo.network;
    let only = "- {addresses: [127.77.0.12], conditions: {ready: true}}\n";
    let (head, _) = DEMO[1].1.split_once("endpoints:\n").unwrap();
    let yaml = format!("{head}endpoints:\n{only}").replace("127.77.0.", &format!("127.{a}.{b}."));
    demo.world.apply("reviews-endpoints", &yaml);
    let took = holds("only reviews-2 is called", || async {
        count(address, 6, Call::get("/info")).await == counts([("reviews-2", 6)])
    })
    .await;
    println!("changed endpoints: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_carries_the_demo_by_delta() {
    carries_the_demo(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_carries_the_demo_by_state_of_the_world() {
    carries_the_demo(Protocol::StateOfTheWorld).await;
}

/// What the references of testdata and examples name, with every protocol that a port can have.
pub const SERVICES: [(&str, &[(&str, u16)]); 10] = [
    ("reviews", &[("http", 9080), ("http-more", 9090)]),
    ("reviews-v1", &[("http", 9080)]),
    ("reviews-v2", &[("http2", 9080)]),
    ("ratings", &[("http", 9080)]),
    ("articles", &[("http", 80)]),
    ("orders", &[("http", 8080)]),
    ("product", &[("unnamed", 9080)]),
    ("shop", &[("http", 80)]),
    ("cache", &[("tcp-redis", 6379)]),
    ("calls", &[("grpc", 50051)]),
];

/// Every file of valid objects, each in a namespace of its own with the Services that it names; returns
/// namespace and file.
pub fn apply_all_valid(world: &World) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = ["crds/testdata/valid", "examples"].map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let mut files: Vec<_> = files.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() > 20, "{files:?}");
    let mut all = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let namespace = format!("case-{number}");
        let yaml =
            fs::read_to_string(file).unwrap().replace("namespace: shop", &format!("namespace: {namespace}"));
        world.apply(&namespace, &yaml);
        world.apply(&format!("{namespace}.services"), &services(&namespace, number));
        if file.file_name().unwrap().to_string_lossy().starts_with("limit-") {
            let rules = "rules: [{name: create, backendRefs: [{name: orders, port: 8080}]}]";
            let spec = format!("parentRefs: [{{name: orders}}], {rules}");
            let head = "apiVersion: fairlead.dev/v1alpha1\nkind: ServiceRoute\n";
            let metadata = format!("metadata: {{name: orders, namespace: {namespace}}}\n");
            world.apply(&format!("{namespace}.route"), &format!("{head}{metadata}spec: {{{spec}}}\n"));
        }
        all.push((namespace, file.file_name().unwrap().to_string_lossy().into_owned()));
    }
    all
}

/// The Services of one namespace, two of them with an IPv6 address too, and one headless.
fn services(namespace: &str, number: usize) -> String {
    let mut all = Vec::new();
    for (index, (name, ports)) in SERVICES.iter().enumerate() {
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port)| match *name {
                "unnamed" => format!("{{port: {port}}}"),
                name => format!("{{name: {name}, port: {port}}}"),
            })
            .collect();
        let ports = ports.join(", ");
        let six = if index < 2 { format!(", 'fd79::{number:x}:{index}'") } else { String::new() };
        let addresses =
            format!("clusterIP: 10.97.{number}.{index}, clusterIPs: [10.97.{number}.{index}{six}]");
        all.push(format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{addresses}, ports: [{ports}]}}\n"
        ));
        let slice = format!(
            "{{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}"
        );
        let endpoints = (0..3).map(|zone| {
            format!(
                "{{addresses: [127.98.{number}.{}], conditions: {{ready: true}}, zone: zone-{}}}",
                index * 3 + zone + 1,
                zone % 2
            )
        });
        all.push(format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {slice}\naddressType: IPv4\nports: [{ports}]\nendpoints: [{}]\n",
            endpoints.collect::<Vec<_>>().join(", ")
        ));
    }
    all.push(format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: headless, namespace: {namespace}}}\nspec: {{clusterIP: None, ports: [{{name: http, port: 80}}]}}\n"
    ));
    all.push(format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: headless-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: headless}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [127.99.{number}.1], conditions: {{ready: true}}}}]\n"
    ));
    all.join("---\n")
}

/// Nothing in the test data was refused by the operator itself: what follows would prove little.
pub async fn all_accepted(world: &World) {
    let (objects, _) = eventually("every object has a status", || async {
        let objects = world.objects().await;
        objects.iter().all(|object| object["status"]["conditions"].is_array()).then_some(objects)
    })
    .await;
    assert!(objects.len() > 20);
    for object in objects {
        let conditions = object["status"]["conditions"].as_array().unwrap();
        for kind in ["Accepted", "ResolvedRefs"] {
            let fine = conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
            assert!(fine, "{kind}: {object}");
        }
    }
}

async fn takes_every_field(protocol: Protocol) {
    let mut world = World::new();
    let cases = apply_all_valid(&world);
    world.start_operator().await;
    all_accepted(&world).await;
    let envoy = Envoy::start(&world, protocol, &[]).await;

    let ports: usize = SERVICES.iter().map(|(_, ports)| ports.len()).sum();
    // The first two Services, with three ports, have two addresses; the headless one that of its endpoint.
    let expected = cases.len() * (ports + 3 + 1);
    eventually("all listeners are in force", || async {
        let there = envoy.in_force("listeners").await.len();
        envoy.took_everything().await;
        (there == expected).then_some(())
    })
    .await;
    let clusters = envoy.in_force("clusters").await;
    assert_eq!(clusters.len(), cases.len() * (ports + 2), "{clusters:?}");

    // A cluster whose settings change is made anew, and wants its endpoints again, which have not changed.
    let modified = "cluster_manager.cluster_modified";
    let before = envoy.stats(modified).await[modified];
    let pool = "spec: {parentRefs: [{name: shop}], connectionPool: {maxConnections: 7}}";
    let metadata = format!("metadata: {{name: later, namespace: {}}}", cases[0].0);
    world.apply(
        "later",
        &format!("apiVersion: fairlead.dev/v1alpha1\nkind: ServiceRoute\n{metadata}\n{pool}\n"),
    );
    let ((), took) = eventually("changed settings are in force", || async {
        let warming = envoy.stats("cluster_manager.warming_clusters").await;
        let changed = envoy.stats(modified).await[modified] > before;
        (changed && warming.values().all(|count| *count == 0)).then_some(())
    })
    .await;
    println!("changed settings: {took:?}");
    let gave_up = envoy.stats("init_fetch_timeout").await;
    assert!(!gave_up.is_empty() && gave_up.values().all(|count| *count == 0), "gave up waiting: {gave_up:?}");

    // A Service that comes, and goes again.
    world.service("shop/late", 7000, "http");
    eventually("it is there", || async {
        envoy.in_force("clusters").await.contains(&"shop/late:7000".to_owned()).then_some(())
    })
    .await;
    world.remove("shop.late.service");
    eventually("it is gone", || async {
        (!envoy.in_force("clusters").await.contains(&"shop/late:7000".to_owned())).then_some(())
    })
    .await;
    envoy.took_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_takes_every_field_by_delta() {
    takes_every_field(Protocol::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_takes_every_field_by_state_of_the_world() {
    takes_every_field(Protocol::StateOfTheWorld).await;
}
