//! The shares of each kind of balancing.

use std::collections::HashMap;

use super::super::tests::{address, cluster, endpoint, settings, start};
use super::*;
use crate::cluster::Outcome;

fn picks(balance: Balance, weights: &[u32], count: usize) -> Vec<usize> {
    fastrand::seed(7);
    let endpoints: Vec<_> =
        weights.iter().enumerate().map(|(index, &weight)| endpoint(index, weight)).collect();
    let (cluster, now) = (cluster(settings(balance, None), &endpoints), start());
    let index = |picked: crate::cluster::Picked| {
        (0..weights.len()).find(|&index| address(index) == picked.endpoint().address()).unwrap()
    };
    (0..count).map(|_| index(cluster.pick(now, &[]).unwrap())).collect()
}

fn shares(picks: &[usize]) -> HashMap<usize, usize> {
    let mut shares = HashMap::new();
    for &pick in picks {
        *shares.entry(pick).or_default() += 1;
    }
    shares
}

#[test]
fn round_robin_is_smooth_and_exact() {
    assert_eq!(picks(Balance::RoundRobin, &[1, 2, 3], 6), [2, 1, 0, 2, 1, 2]);
    assert_eq!(picks(Balance::RoundRobin, &[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    let shares = shares(&picks(Balance::RoundRobin, &[90, 10], 1000));
    assert_eq!((shares[&0], shares[&1]), (900, 100));
}

#[test]
fn round_robin_is_exact_over_several_workers() {
    let endpoints: Vec<_> = (0..4).map(|index| endpoint(index, 1)).collect();
    let (cluster, now) = (cluster(settings(Balance::RoundRobin, None), &endpoints), start());
    let counts = std::thread::scope(|scope| {
        let worker = || {
            let picks = (0..1000).map(|_| cluster.pick(now, &[]).unwrap().endpoint().address());
            picks.filter(|&picked| picked == address(2)).count()
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
    });
    assert_eq!(counts, 1000);
}

#[test]
fn the_turn_survives_a_configuration() {
    let endpoints: Vec<_> = (0..3).map(|index| endpoint(index, 1)).collect();
    let (first, now) = (cluster(settings(Balance::RoundRobin, None), &endpoints), start());
    drop(first.pick(now, &[]));
    let second = Arc::new(Cluster::new(Arc::clone(&first.settings), &endpoints, Some(&first)));
    assert_eq!(second.pick(now, &[]).unwrap().endpoint().address(), address(1));
}

#[test]
fn random_follows_the_weights() {
    for (weights, expected) in
        [(&[1, 1, 1, 1][..], [2500, 2500, 2500, 2500]), (&[1, 2, 3, 4], [1000, 2000, 3000, 4000])]
    {
        let shares = shares(&picks(Balance::Random, weights, 10_000));
        for (index, expected) in expected.into_iter().enumerate() {
            let got = shares[&index];
            assert!(got.abs_diff(expected) < 200, "{weights:?}: {index} got {got}, not {expected}");
        }
    }
}

#[test]
fn least_request_uses_an_idle_cluster_by_weight() {
    for (weights, expected) in
        [(&[1, 1, 1, 1][..], [2500, 2500, 2500, 2500]), (&[1, 2, 3, 4], [1000, 2000, 3000, 4000])]
    {
        let shares = shares(&picks(Balance::LeastRequest, weights, 10_000));
        for (index, expected) in expected.into_iter().enumerate() {
            let got = shares[&index];
            assert!(got.abs_diff(expected) < 200, "{weights:?}: {index} got {got}, not {expected}");
        }
    }
}

#[test]
fn least_request_avoids_the_busy_one() {
    fastrand::seed(7);
    let endpoints: Vec<_> = (0..5).map(|index| endpoint(index, 1)).collect();
    let (cluster, now) = (cluster(settings(Balance::LeastRequest, None), &endpoints), start());
    let mut held: Vec<_> = (0..500).map(|_| cluster.pick(now, &[]).unwrap()).collect();
    let loads: Vec<_> = cluster.endpoints.iter().map(|endpoint| endpoint.in_flight()).collect();
    assert!(loads.iter().all(|load| (95..=105).contains(load)), "{loads:?}");
    // One finishes nothing, the others everything: it gets nothing more.
    held.retain(|picked| picked.endpoint().address() == address(0));
    for _ in 0..100 {
        assert_ne!(cluster.pick(now, &[]).unwrap().endpoint().address(), address(0));
    }
}

#[test]
fn least_request_holds_loads_in_proportion_to_the_weights() {
    fastrand::seed(7);
    let endpoints: Vec<_> =
        [1, 3].into_iter().enumerate().map(|(index, weight)| endpoint(index, weight)).collect();
    let (cluster, now) = (cluster(settings(Balance::LeastRequest, None), &endpoints), start());
    let held: Vec<_> = (0..400).map(|_| cluster.pick(now, &[]).unwrap()).collect();
    assert!((98..=102).contains(&cluster.endpoints[0].in_flight()), "{}", held.len());
}

#[test]
fn a_retry_goes_to_another_endpoint_when_there_is_one() {
    for balance in [Balance::LeastRequest, Balance::RoundRobin, Balance::Random] {
        let endpoints: Vec<_> = (0..3).map(|index| endpoint(index, 1)).collect();
        let (cluster, now) = (cluster(settings(balance, None), &endpoints), start());
        for _ in 0..50 {
            let picked = cluster.pick(now, &[address(0), address(2)]).unwrap();
            assert_eq!(picked.endpoint().address(), address(1), "{balance:?}");
        }
        let all: Vec<_> = (0..3).map(address).collect();
        assert!(cluster.pick(now, &all).is_some(), "{balance:?}: the same one is better than none");
    }
}

#[test]
fn every_way_of_balancing_leaves_ejected_ones_alone() {
    use crate::cluster::{OutlierError, OutlierSettings};
    let seconds = std::time::Duration::from_secs;
    let outlier = OutlierSettings {
        shadow: false,
        consecutive_errors: 1,
        errors: vec![OutlierError::ConnectFailure],
        base_time: seconds(30),
        max_time: seconds(300),
        max_percent: 10,
        probes: 1,
    };
    for balance in [Balance::LeastRequest, Balance::RoundRobin, Balance::Random] {
        let endpoints: Vec<_> = (0..3).map(|index| endpoint(index, 1)).collect();
        let (cluster, now) = (cluster(settings(balance, Some(outlier.clone())), &endpoints), start());
        let mut picked = cluster.pick(now, &[]).unwrap();
        picked.record(now, Outcome::Failure(crate::failure::Kind::Connect));
        let bad = picked.endpoint().address();
        drop(picked);
        for _ in 0..50 {
            assert_ne!(cluster.pick(now, &[]).unwrap().endpoint().address(), bad, "{balance:?}");
        }
    }
}
