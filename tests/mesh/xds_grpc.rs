//! gRPC's own xDS client, which knows nothing of us: it resolves a Service through the operator alone and
//! calls its endpoints under its rules.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use fairlead_tests::client;
use fairlead_tests::grpc::Grpc;
use fairlead_tests::until::LIMIT;
use fairlead_tests::world::World;

use crate::xds_envoy::{SERVICES, all_accepted, apply_all_valid};

const REVIEWS: &str = "reviews.shop.svc.cluster.local:9080";

const ROUTE: &str = "
apiVersion: fairlead.dev/v1alpha1
kind: ServiceRoute
metadata: {name: reviews, namespace: shop}
spec:
  parentRefs: [{name: reviews}]
  rules:
  - name: testers
    matches: [{headers: [{name: x-tester, value: \"yes\"}]}]
    backendRefs: [{name: reviews-v2, port: 9080}]
  - name: default
    backendRefs:
    - {name: reviews, port: 9080, weight: 90}
    - {name: reviews-v2, port: 9080, weight: 10}
    timeouts: {request: 10s}
    retry: {attempts: 2, grpcCodes: [UNAVAILABLE]}
";

fn counts(answers: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer).or_default() += 1;
    }
    counts
}

/// What the operator knows of the client, which must have refused nothing.
async fn refused_nothing(world: &World) {
    let clients = client::get(world.operator().admin, "/clients").await.unwrap().text();
    assert!(clients.contains("shop/grpc"), "{clients}");
    let metrics = client::get(world.operator().metrics, "/metrics").await.unwrap().text();
    // A counter shows when it has counted.
    let refused: Vec<_> = metrics.lines().filter(|line| line.contains("xds_nacks_total{")).collect();
    assert!(refused.is_empty(), "{refused:?}\n{clients}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_resolves_and_calls_through_the_operator_alone() {
    let mut world = World::new();
    let reviews = world.backends("shop/reviews", 9080, "grpc", 3).await;
    let next = world.backends("shop/reviews-v2", 9080, "grpc", 1).await;
    world.start_operator().await;
    let mut grpc = Grpc::start(world.operator().xds, world.folder(), &world.logs);

    let met = counts(grpc.call(REVIEWS, 30, &[]).await);
    let each: Vec<_> = reviews.iter().map(|one| met.get(&one.name).copied().unwrap_or(0)).collect();
    assert_eq!(each.iter().sum::<usize>(), 30, "{met:?}");
    assert!(each.iter().all(|count| *count >= 5), "all endpoints: {met:?}");

    let addresses: Vec<IpAddr> = reviews.iter().map(|one| one.address.ip()).collect();
    world.ready_endpoints("shop/reviews", &addresses[..1]);
    let only = BTreeMap::from([(reviews[0].name.clone(), 6)]);
    let mut seen = Vec::new();
    let start = Instant::now();
    while seen.last() != Some(&only) {
        assert!(start.elapsed() < LIMIT, "changed endpoints do not arrive: {seen:?}");
        seen.push(counts(grpc.call(REVIEWS, 6, &[]).await));
        let failed = seen.iter().flatten().find(|(name, _)| name.contains(':'));
        assert_eq!(failed, None, "no call fails meanwhile");
    }
    println!("changed endpoints: {:?}", start.elapsed());

    world.apply("route", ROUTE);
    let start = Instant::now();
    loop {
        let met = grpc.call(REVIEWS, 1, &[("x-tester", "yes")]).await;
        if met == [next[0].name.clone()] {
            break;
        }
        assert!(start.elapsed() < LIMIT, "a new rule does not arrive: {met:?}");
    }
    println!("a new rule: {:?}", start.elapsed());
    // gRPC draws each call's backend: five standard deviations around a tenth.
    let met = counts(grpc.call(REVIEWS, 500, &[]).await);
    assert_eq!(met.values().sum::<usize>(), 500);
    assert_eq!(met.len(), 2, "{met:?}");
    assert!((17..=83).contains(&met[&next[0].name]), "a tenth to the next version: {met:?}");
    let took = world.programmed("ServiceRoute", "shop", "reviews").await;
    println!("acked after {took:?}");
    refused_nothing(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_takes_every_field() {
    let mut world = World::new();
    let cases = apply_all_valid(&world);
    world.start_operator().await;
    all_accepted(&world).await;
    let mut grpc = Grpc::start(world.operator().xds, world.folder(), &world.logs);
    for (namespace, file) in &cases {
        for (service, ports) in SERVICES {
            // gRPC over bytes has no listener of its own, and gRPC would wait fifteen seconds for one.
            for (name, number) in ports.iter().filter(|(name, _)| *name != "tcp-redis") {
                let answers =
                    grpc.call(&format!("{service}.{namespace}.svc.cluster.local:{number}"), 1, &[]).await;
                // A rule answered, or an endpoint was dialled where nobody listens.
                let known = !answers[0].contains("DEADLINE") && !answers[0].contains("does not exist");
                assert!(known, "{file} {service} {name}: {answers:?}");
            }
        }
    }
    refused_nothing(&world).await;
}
