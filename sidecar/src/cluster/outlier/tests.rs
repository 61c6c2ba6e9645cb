//! What counts as an error, how long an ejection lasts, and how it reads.

use http::StatusCode;

use super::*;
use crate::failure::Failure;

fn settings(errors: &[OutlierError]) -> OutlierSettings {
    OutlierSettings {
        shadow: false,
        consecutive_errors: 5,
        errors: errors.to_vec(),
        base_time: Duration::from_secs(30),
        max_time: Duration::from_secs(300),
        max_percent: 10,
        probes: 1,
    }
}

fn default_settings() -> OutlierSettings {
    use OutlierError::*;
    settings(&[GatewayError, ConnectFailure, Timeout, Reset])
}

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn what_counts_is_what_the_settings_name() {
    use OutlierError::*;
    let status = |code| Outcome::Status(StatusCode::from_u16(code).unwrap());
    let counted = |errors: &[OutlierError], outcome| match judge(&settings(errors), outcome) {
        Judgement::Error(error, _) => Some(error),
        Judgement::Good | Judgement::Nothing => None,
    };
    for (errors, outcome, expected) in [
        (&[GatewayError][..], status(502), Some(GatewayError)),
        (&[GatewayError], status(503), Some(GatewayError)),
        (&[GatewayError], status(504), Some(GatewayError)),
        (&[GatewayError], status(500), None),
        (&[GatewayError], status(505), None),
        (&[GatewayError], status(429), None),
        (&[ServerError], status(500), Some(ServerError)),
        (&[ServerError], status(503), Some(ServerError)),
        (&[ServerError, GatewayError], status(503), Some(GatewayError)),
        (&[ServerError], status(404), None),
        (&[ServerError], Outcome::Failure(Kind::Connect), None),
        (&[ConnectFailure], Outcome::Failure(Kind::Connect), Some(ConnectFailure)),
        (&[ConnectFailure], Outcome::Failure(Kind::Refused), Some(ConnectFailure)),
        (&[ConnectFailure], Outcome::Failure(Kind::Timeout), None),
        (&[Timeout], Outcome::Failure(Kind::Timeout), Some(Timeout)),
        (&[Reset], Outcome::Failure(Kind::Reset), Some(Reset)),
        (&[GatewayError], Outcome::Failure(Kind::Protocol), Some(GatewayError)),
        (&[GatewayError], Outcome::Grpc(14), Some(GatewayError)),
        (&[GatewayError], Outcome::Grpc(4), Some(GatewayError)),
        (&[GatewayError], Outcome::Grpc(13), None),
        (&[ServerError], Outcome::Grpc(13), Some(ServerError)),
        (&[ServerError], Outcome::Grpc(2), Some(ServerError)),
        (&[ServerError], Outcome::Grpc(12), Some(ServerError)),
        (&[ServerError], Outcome::Grpc(8), None),
        (&[ServerError], Outcome::Grpc(0), None),
        (&[ServerError], Outcome::Grpc(99), Some(ServerError)),
    ] {
        assert_eq!(counted(errors, outcome), expected, "{errors:?} {outcome:?}");
    }
}

#[test]
fn our_own_refusals_say_nothing() {
    use OutlierError::*;
    let all = settings(&[ServerError, GatewayError, ConnectFailure, Timeout, Reset]);
    for kind in
        [Kind::Overflow, Kind::RateLimited, Kind::NoEndpoint, Kind::NoRoute, Kind::BadBackend, Kind::Gone]
    {
        assert_eq!(judge(&all, Outcome::Failure(kind)), Judgement::Nothing, "{kind:?}");
    }
    assert_eq!(judge(&settings(&[GatewayError]), Outcome::Failure(Kind::Timeout)), Judgement::Nothing);
    let waiting = Failure::local(Kind::Timeout, "the time was over while waiting for a connection");
    assert_eq!(judge(&all, Outcome::of(&waiting)), Judgement::Nothing);
    let silent = Failure::upstream(Kind::Timeout, true, "no answer");
    assert_eq!(judge(&all, Outcome::of(&silent)), Judgement::Error(Timeout, Cause::Timeout));
    assert_eq!(judge(&all, Outcome::Success), Judgement::Good);
}

fn until(health: &Health) -> Instant {
    match &health.phase {
        Phase::Ejected { until, .. } => *until,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ejections_in_a_row_last_30_60_90_seconds_and_at_most_the_longest() {
    let settings = default_settings();
    let (mut health, mut now) = (Health::default(), start());
    health.eject(now, &settings);
    for expected in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300] {
        assert_eq!(until(&health) - now, secs(expected));
        now = until(&health);
        assert!(matches!(health.at(now - secs(1), &settings).phase, Phase::Ejected { .. }));
        assert!(health.at(now, &settings).take_probe());
        assert!(!health.take_probe(), "one at a time");
        assert!(health.error(OutlierError::Timeout, Cause::Timeout, &settings));
        health.eject(now, &settings);
    }
}

#[test]
fn an_ejection_is_forgiven_for_every_ten_seconds_in() {
    let settings = default_settings();
    let (mut health, mut now) = (Health::default(), start());
    for (good_for, expected) in [(0, 30), (9, 60), (9, 90), (10, 90), (25, 60), (1000, 30)] {
        now += secs(good_for);
        health.eject(now, &settings);
        assert_eq!(until(&health) - now, secs(expected), "after {good_for} s in");
        now = until(&health);
        assert!(health.at(now, &settings).take_probe());
        assert!(health.good(now), "one probe is enough");
    }
    // Where the time cannot grow, neither does the number: forgiving starts at once.
    for _ in 0..100 {
        health.eject(now, &settings);
    }
    assert_eq!(health.ejections, 10);
}

#[test]
fn a_returning_endpoint_proves_itself_and_starts_from_zero() {
    let settings = OutlierSettings { probes: 3, ..default_settings() };
    let (mut health, now) = (Health::default(), start());
    for _ in 0..5 {
        health.error(OutlierError::Reset, Cause::Reset, &settings);
    }
    health.eject(now, &settings);
    assert_eq!(health.row.count, 0);
    let back = now + secs(30);
    for last in [false, false, true] {
        assert!(health.at(back, &settings).take_probe());
        assert_eq!(health.good(back), last);
    }
    assert!(health.is_clean());
    for _ in 0..4 {
        assert!(!health.error(OutlierError::Reset, Cause::Reset, &settings));
    }
    assert!(health.error(OutlierError::Reset, Cause::Reset, &settings));
}

#[test]
fn a_probe_without_outcome_frees_its_place() {
    let settings = default_settings();
    let (mut health, now) = (Health::default(), start());
    health.eject(now, &settings);
    assert!(health.at(now + secs(30), &settings).take_probe());
    health.release_probe();
    assert!(health.take_probe());
}

#[test]
fn the_reason_reads_like_a_sentence() {
    let settings = default_settings();
    let (mut health, now) = (Health::default(), start());
    for _ in 0..4 {
        health.error(OutlierError::GatewayError, Cause::Status(503), &settings);
    }
    health.error(OutlierError::GatewayError, Cause::Status(502), &settings);
    health.eject(now, &settings);
    let why = |health: &Health| match &health.phase {
        Phase::Ejected { why, .. } => why.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(why(&health), "5 consecutive GatewayError (503 x4, 502 x1)");
    assert!(health.at(now + secs(30), &settings).take_probe());
    health.error(OutlierError::ConnectFailure, Cause::Connect, &settings);
    health.eject(now + secs(30), &settings);
    assert_eq!(why(&health), "a probe failed: 1 consecutive ConnectFailure (connect x1), 2nd time in a row");
    health.forget();
    for _ in 0..4 {
        health.error(OutlierError::GatewayError, Cause::Status(503), &settings);
    }
    health.error(OutlierError::ConnectFailure, Cause::Connect, &settings);
    health.eject(now, &settings);
    assert_eq!(why(&health), "5 consecutive errors (503 x4, connect x1)");
}
