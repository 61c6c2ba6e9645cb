//! Clusters under sequences of events: who is picked, who is ejected, what survives a new configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;

use super::*;
use crate::failure::Kind;

pub(super) fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (index >> 8) as u8, index as u8], 80))
}

pub(super) fn endpoint(index: usize, weight: u32) -> EndpointSettings {
    EndpointSettings { address: address(index), weight, zone: "a".into(), healthy: true }
}

pub(super) fn settings(balance: Balance, outlier: Option<OutlierSettings>) -> ClusterSettings {
    ClusterSettings {
        name: "shop/reviews:9080".into(),
        endpoints: EndpointSource::Eds("shop/reviews:9080".into()),
        balance,
        pool: PoolSettings {
            max_connections: None,
            max_pending_requests: None,
            pending_timeout: secs(3),
            max_requests: None,
            max_requests_per_connection: None,
            connect_timeout: secs(1),
            idle_timeout: None,
        },
        outlier,
        budget: BudgetSettings::default(),
        protocol: UpstreamProtocol::Http1,
        panic_threshold: 0.0,
    }
}

fn outlier(max_percent: u32) -> OutlierSettings {
    use OutlierError::{ConnectFailure, GatewayError, Reset, Timeout};
    OutlierSettings {
        shadow: false,
        consecutive_errors: 5,
        errors: vec![GatewayError, ConnectFailure, Timeout, Reset],
        base_time: secs(30),
        max_time: secs(300),
        max_percent,
        probes: 1,
    }
}

pub(super) fn cluster(settings: ClusterSettings, endpoints: &[EndpointSettings]) -> Arc<Cluster> {
    Arc::new(Cluster::new(Arc::new(settings), endpoints, None))
}

fn detecting(count: usize, outlier: OutlierSettings) -> Arc<Cluster> {
    let endpoints: Vec<_> = (0..count).map(|index| endpoint(index, 1)).collect();
    cluster(settings(Balance::RoundRobin, Some(outlier)), &endpoints)
}

/// One request to this endpoint that ends so, whoever would have been picked.
fn send(cluster: &Arc<Cluster>, index: usize, now: Instant, outcome: Outcome) {
    let endpoint = cluster.endpoints.iter().find(|endpoint| endpoint.address() == address(index)).unwrap();
    Picked::new(Arc::clone(cluster), Arc::clone(endpoint), false).record(now, outcome);
}

const BAD: Outcome = Outcome::Status(StatusCode::SERVICE_UNAVAILABLE);

fn fail(cluster: &Arc<Cluster>, index: usize, now: Instant) {
    for _ in 0..5 {
        send(cluster, index, now, BAD);
    }
}

fn out(cluster: &Cluster) -> Vec<usize> {
    let out = |(index, endpoint): (usize, &Arc<Endpoint>)| endpoint.is_out().then_some(index);
    cluster.endpoints.iter().enumerate().filter_map(out).collect()
}

fn status(cluster: &Cluster, index: usize, now: Instant) -> String {
    cluster.endpoints[index].status(now, cluster.settings.outlier.as_ref()).to_string()
}

/// Who gets the next requests, each of which goes well.
fn used(cluster: &Arc<Cluster>, now: Instant, count: usize) -> BTreeMap<SocketAddr, usize> {
    let mut used = BTreeMap::new();
    for _ in 0..count {
        let mut picked = cluster.pick(now, &[]).unwrap();
        *used.entry(picked.endpoint().address()).or_default() += 1;
        picked.record(now, Outcome::Success);
    }
    used
}

#[test]
fn five_errors_in_a_row_eject_and_a_good_answer_between_does_not() {
    let (cluster, now) = (detecting(3, outlier(100)), start());
    for _ in 0..4 {
        send(&cluster, 0, now, BAD);
    }
    assert_eq!(status(&cluster, 0, now), "in, 4 errors in a row");
    send(&cluster, 0, now, Outcome::Status(StatusCode::OK));
    assert_eq!(status(&cluster, 0, now), "in");
    fail(&cluster, 0, now);
    assert_eq!(out(&cluster), [0]);
    assert_eq!(
        status(&cluster, 0, now + Duration::from_millis(7_500)),
        "ejected 23 s more: 5 consecutive GatewayError (503 x5)"
    );
    assert!(!used(&cluster, now, 30).contains_key(&address(0)));
    assert_eq!(cluster.live.ejections.ejected.load(Ordering::Relaxed), 1);
    assert_eq!((cluster.ejected(), cluster.in_rotation(), cluster.panicking()), (1, 2, false));
}

#[test]
fn what_does_not_count_leaves_the_row_as_it_is() {
    let (cluster, now) = (detecting(3, outlier(100)), start());
    for _ in 0..4 {
        send(&cluster, 0, now, Outcome::Failure(Kind::Connect));
        send(&cluster, 0, now, Outcome::Failure(Kind::Overflow));
    }
    assert_eq!(status(&cluster, 0, now), "in, 4 errors in a row");
    drop(cluster.pick(now, &[]));
    send(&cluster, 0, now, Outcome::Failure(Kind::Timeout));
    assert_eq!(out(&cluster), [0]);
}

#[test]
fn of_ten_endpoints_ten_percent_eject_one_and_leave_a_second_failing_one() {
    let (cluster, now) = (detecting(10, outlier(10)), start());
    fail(&cluster, 3, now);
    fail(&cluster, 7, now);
    assert_eq!(out(&cluster), [3]);
    assert_eq!(cluster.live.ejections.prevented.load(Ordering::Relaxed), 1);
    // As soon as there is room, the next error of the second one ejects it.
    let later = now + secs(30);
    let mut probe = cluster.pick(later, &[]).unwrap();
    assert!(probe.is_probe());
    probe.record(later, Outcome::Success);
    send(&cluster, 7, later, BAD);
    assert_eq!(out(&cluster), [7]);
}

#[test]
fn three_endpoints_at_ten_percent_eject_one_and_never_the_last() {
    let (cluster, now) = (detecting(3, outlier(10)), start());
    for index in 0..3 {
        fail(&cluster, index, now);
    }
    assert_eq!(out(&cluster), [0]);
    let all = detecting(3, outlier(100));
    for _ in 0..3 {
        for index in 0..3 {
            fail(&all, index, now);
        }
    }
    assert_eq!(out(&all), [0, 1]);
    let one = detecting(1, outlier(100));
    fail(&one, 0, now);
    assert!(out(&one).is_empty());
}

#[test]
fn ejections_of_one_endpoint_last_30_60_90_seconds() {
    let (cluster, mut now) = (detecting(3, outlier(10)), start());
    fail(&cluster, 0, now);
    for seconds in [30, 60, 90] {
        let before = now + secs(seconds) - Duration::from_nanos(1);
        assert!(!used(&cluster, before, 9).contains_key(&address(0)), "{seconds}");
        now += secs(seconds);
        let mut probe = cluster.pick(now, &[]).unwrap();
        assert_eq!((probe.endpoint().address(), probe.is_probe()), (address(0), true));
        probe.record(now, BAD);
    }
    assert_eq!(cluster.live.ejections.failed_probes.load(Ordering::Relaxed), 3);
    assert!(status(&cluster, 0, now).ends_with("4th time in a row"), "{}", status(&cluster, 0, now));
}

#[test]
fn probes_go_one_at_a_time_and_then_the_endpoint_is_in() {
    let (cluster, now) = (detecting(3, OutlierSettings { probes: 2, ..outlier(10) }), start());
    fail(&cluster, 0, now);
    let later = now + secs(30);
    assert_eq!(
        status(&cluster, 0, later),
        "probing, 2 more must succeed; was ejected: 5 consecutive GatewayError (503 x5)"
    );
    let first = cluster.pick(later, &[]).unwrap();
    assert!(first.is_probe());
    let others: Vec<_> = (0..6).map(|_| cluster.pick(later, &[]).unwrap()).collect();
    assert!(others.iter().all(|picked| picked.endpoint().address() != address(0)));
    drop(first); // The caller went away: nothing is known, the next request is the probe.
    for _ in 0..2 {
        let mut probe = cluster.pick(later, &[]).unwrap();
        assert!(probe.is_probe());
        probe.record(later, Outcome::Status(StatusCode::OK));
    }
    assert_eq!(status(&cluster, 0, later), "in");
    assert_eq!(used(&cluster, later, 9)[&address(0)], 3);
    assert_eq!(cluster.live.ejections.returned.load(Ordering::Relaxed), 1);
    fail(&cluster, 0, later);
    assert_eq!(out(&cluster), [0], "counters started at zero, five more eject");
}

#[test]
fn a_retry_is_not_made_a_probe_while_there_is_another_endpoint() {
    let (cluster, now) = (detecting(3, outlier(10)), start());
    fail(&cluster, 0, now);
    let later = now + secs(30);
    let retry = cluster.pick(later, &[address(1)]).unwrap();
    assert_eq!((retry.endpoint().address(), retry.is_probe()), (address(2), false));
    let last = cluster.pick(later, &[address(1), address(2)]).unwrap();
    assert_eq!((last.endpoint().address(), last.is_probe()), (address(0), true));
}

#[test]
fn requests_from_before_an_ejection_or_a_return_decide_nothing() {
    let (cluster, now) = (detecting(2, outlier(100)), start());
    let slow = || Picked::new(Arc::clone(&cluster), Arc::clone(&cluster.endpoints[0]), false);
    let mut stragglers: Vec<_> = (0..10).map(|_| slow()).collect();
    fail(&cluster, 0, now);
    let later = now + secs(30);
    stragglers[0].record(later, Outcome::Success);
    assert_eq!(out(&cluster), [0], "a straggler is no probe");
    let mut probe = cluster.pick(later, &[]).unwrap();
    probe.record(later, Outcome::Success);
    for straggler in &mut stragglers {
        straggler.record(later, BAD);
    }
    assert_eq!(status(&cluster, 0, later), "in");
}

#[test]
fn shadow_counts_and_ejects_nobody() {
    let (cluster, now) = (detecting(3, OutlierSettings { shadow: true, ..outlier(10) }), start());
    fail(&cluster, 0, now);
    fail(&cluster, 1, now);
    assert!(out(&cluster).is_empty());
    assert_eq!(cluster.live.ejections.shadow.load(Ordering::Relaxed), 1, "the bounds hold in shadow as well");
    assert_eq!(cluster.live.ejections.ejected.load(Ordering::Relaxed), 0);
    assert!(status(&cluster, 0, now).starts_with("would be ejected 30 s more"));
    assert_eq!(used(&cluster, now, 9).len(), 3);
    let later = now + secs(30);
    send(&cluster, 0, later, BAD);
    assert!(
        status(&cluster, 0, later).starts_with("would be ejected 60 s more"),
        "{}",
        status(&cluster, 0, later)
    );
    send(&cluster, 0, later + secs(60), Outcome::Success);
    assert_eq!(status(&cluster, 0, later + secs(60)), "in");
}

#[test]
fn below_the_minimum_all_are_used_and_nobody_more_is_ejected() {
    let endpoints: Vec<_> = (0..4).map(|index| endpoint(index, 1)).collect();
    let half = ClusterSettings { panic_threshold: 50.0, ..settings(Balance::RoundRobin, Some(outlier(100))) };
    let (cluster, now) = (cluster(half, &endpoints), start());
    fail(&cluster, 0, now);
    fail(&cluster, 1, now);
    assert!(!cluster.panicking(), "half is not below half");
    assert_eq!(used(&cluster, now, 8).len(), 2);
    fail(&cluster, 2, now);
    assert!(cluster.panicking());
    assert_eq!(used(&cluster, now, 8).len(), 4, "all are used, the ejected too");
    fail(&cluster, 3, now);
    assert_eq!(out(&cluster), [0, 1, 2]);
    // What an ejected endpoint does meanwhile neither prolongs nor ends its time; probes bring it back.
    fail(&cluster, 0, now);
    assert!(status(&cluster, 0, now).starts_with("ejected 30 s more"));
    let later = now + secs(30);
    assert_eq!(used(&cluster, later, 3).len(), 3, "three probes");
    assert!(out(&cluster).is_empty());
}

#[test]
fn what_the_server_calls_unhealthy_is_used_in_panic_only() {
    let mut endpoints: Vec<_> = (0..4).map(|index| endpoint(index, 1)).collect();
    endpoints[0].healthy = false;
    let now = start();
    let of = |threshold, endpoints: &[EndpointSettings]| {
        let settings = ClusterSettings { panic_threshold: threshold, ..settings(Balance::RoundRobin, None) };
        cluster(settings, endpoints)
    };
    assert_eq!(used(&of(75.0, &endpoints), now, 12).len(), 3);
    assert_eq!(used(&of(76.0, &endpoints), now, 12).len(), 4);
    assert_eq!(status(&of(0.0, &endpoints), 0, now), "unhealthy, says the server");
    for endpoint in &mut endpoints {
        endpoint.healthy = false;
    }
    assert!(of(0.0, &endpoints).pick(now, &[]).is_none());
    assert_eq!(used(&of(50.0, &endpoints), now, 12).len(), 4);
    assert!(of(50.0, &[]).pick(now, &[]).is_none());
}

#[test]
fn an_ejected_endpoint_is_better_than_none() {
    let (first, now) = (detecting(2, outlier(100)), start());
    fail(&first, 0, now);
    let left = Cluster::new(Arc::clone(&first.settings), &[endpoint(0, 1)], Some(&first));
    assert_eq!(used(&Arc::new(left), now, 3)[&address(0)], 3);
}

#[test]
fn live_state_survives_a_configuration_and_leaves_with_its_endpoint() {
    let (first, now) = (detecting(3, outlier(10)), start());
    fail(&first, 0, now);
    send(&first, 1, now, BAD);
    let in_flight = Picked::new(Arc::clone(&first), Arc::clone(&first.endpoints[1]), false);
    let mut changed = (*first.settings).clone();
    changed.outlier.as_mut().unwrap().base_time = secs(10);
    let mut endpoints: Vec<_> = (0..3).map(|index| endpoint(index, 1)).collect();
    endpoints[1].weight = 5;
    let second = Arc::new(Cluster::new(Arc::new(changed), &endpoints, Some(&first)));
    assert_eq!(out(&second), [0]);
    assert!(status(&second, 0, now).starts_with("ejected 30 s more"), "the running ejection keeps its time");
    assert_eq!(status(&second, 1, now), "in, 1 errors in a row");
    assert_eq!(second.endpoints[1].in_flight(), 1);
    assert!(Arc::ptr_eq(&first.endpoints[2], &second.endpoints[2]));
    drop(in_flight);
    assert_eq!(second.endpoints[1].in_flight(), 0);
    // Gone, and back again: fresh.
    let without = Arc::new(Cluster::new(Arc::clone(&second.settings), &endpoints[1..], Some(&second)));
    let again = Arc::new(Cluster::new(Arc::clone(&second.settings), &endpoints, Some(&without)));
    assert_eq!(status(&again, 0, now), "in");
    drop((first, second, without));
    assert!(again.nobody_out(), "the fast path is open again");
}

#[test]
fn switching_detection_off_and_on_forgets_the_ejections() {
    let (first, now) = (detecting(3, outlier(10)), start());
    fail(&first, 0, now);
    let endpoints: Vec<_> = (0..3).map(|index| endpoint(index, 1)).collect();
    for other in [None, Some(OutlierSettings { shadow: true, ..outlier(10) })] {
        let settings = ClusterSettings { outlier: other, ..(*first.settings).clone() };
        let second = Arc::new(Cluster::new(Arc::new(settings), &endpoints, Some(&first)));
        assert!(out(&second).is_empty() && second.nobody_out());
        assert_eq!(used(&second, now, 9).len(), 3);
    }
}

#[test]
fn an_address_counts_once() {
    let cluster =
        cluster(settings(Balance::RoundRobin, None), &[endpoint(0, 1), endpoint(0, 9), endpoint(1, 1)]);
    assert_eq!(cluster.endpoints.len(), 2);
}

#[test]
fn an_ejection_by_the_configuration_before_binds_nobody_who_does_not_eject() {
    for other in [None, Some(OutlierSettings { shadow: true, ..outlier(10) })] {
        let (first, now) = (detecting(3, outlier(10)), start());
        let endpoints: Vec<_> = (0..3).map(|index| endpoint(index, 1)).collect();
        let settings = ClusterSettings { outlier: other, ..(*first.settings).clone() };
        let second = Arc::new(Cluster::new(Arc::new(settings), &endpoints, Some(&first)));
        fail(&first, 0, now); // Not swapped yet.
        assert_eq!(used(&second, now, 9).len(), 3);
        assert_eq!((second.ejected(), second.in_rotation()), (0, 3));
        assert_eq!(used(&second, now + secs(30), 9).len(), 3);
    }
}

/// Something that may happen to a cluster.
#[derive(Debug, Clone)]
enum Event {
    Pass(u64),
    Answer(usize, bool),
    Pick(bool),
    Config(Vec<usize>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (1u64..40).prop_map(Event::Pass),
        6 => (0usize..8, prop::bool::weighted(0.85)).prop_map(|(index, bad)| Event::Answer(index, bad)),
        4 => any::<bool>().prop_map(Event::Pick),
        1 => prop::collection::btree_set(0usize..8, 1..8).prop_map(|set| Event::Config(set.into_iter().collect())),
    ]
}

proptest! {
    /// Whatever happens, however the settings are: the last endpoint that is in is never ejected, no more go
    /// than may, an endpoint is always found, and the count that opens the fast path is right.
    #[test]
    fn the_bounds_hold(
        events in prop::collection::vec(event(), 1..300),
        max_percent in 0u32..=100,
        consecutive_errors in 1u32..4,
        probes in 1u32..3,
    ) {
        let settings = OutlierSettings { consecutive_errors, probes, ..outlier(max_percent) };
        let (mut cluster, mut now) = (detecting(8, settings), start());
        for event in events {
            let before = out(&cluster).len();
            match event {
                Event::Pass(seconds) => now += secs(seconds),
                Event::Answer(index, bad) => {
                    if cluster.endpoints.iter().any(|endpoint| endpoint.address() == address(index)) {
                        send(&cluster, index, now, if bad { BAD } else { Outcome::Success });
                    }
                }
                Event::Pick(bad) => {
                    let picked = cluster.pick(now, &[]);
                    prop_assert!(picked.is_some());
                    let mut picked = picked.unwrap();
                    picked.record(now, if bad { BAD } else { Outcome::Success });
                }
                Event::Config(indexes) => {
                    let endpoints: Vec<_> = indexes.into_iter().map(|index| endpoint(index, 1)).collect();
                    let next = Cluster::new(Arc::clone(&cluster.settings), &endpoints, Some(&cluster));
                    cluster = Arc::new(next);
                    continue; // Others may leave an ejected one behind; the bounds are for ejections.
                }
            }
            let (total, after) = (cluster.endpoints.len(), out(&cluster).len());
            if after > before {
                prop_assert!(after < total, "the last one went");
                prop_assert!(after <= (total * max_percent as usize / 100).max(1));
            }
            prop_assert_eq!(cluster.live.out.load(Ordering::Relaxed), after);
        }
    }
}
