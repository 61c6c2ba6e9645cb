//! Every way an attempt can end, against every kind of request.

use http::Request;

use super::*;

fn policy() -> RetryPolicy {
    use Condition::*;
    RetryPolicy {
        attempts: 2,
        conditions: vec![ConnectFailure, RefusedStream, ResetBeforeRequest, ResetOnReuse],
        codes: vec![],
        grpc_codes: vec![],
        methods: RetryPolicy::idempotent_methods(),
        backoff: Duration::from_millis(25),
        max_backoff: Duration::from_millis(250),
    }
}

fn request(method: &str, key: bool) -> Parts {
    let request = Request::builder().method(method).uri("/");
    let request = if key { request.header("Idempotency-Key", "7") } else { request };
    request.body(()).unwrap().into_parts().0
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn decide(policy: &RetryPolicy, method: &str, ended: Ended<'_>) -> Result<(), NoRetry> {
    let mut attempts = Attempts::new(policy, &request(method, false), None);
    attempts.after(ended, true, now(), &Budget::default()).map(|_| ())
}

fn upstream(kind: Kind, sent: bool, reused: bool) -> Failure {
    Failure::upstream(kind, sent, "test").on_reused(reused)
}

#[test]
fn what_was_provably_not_processed_is_sent_again_for_any_method() {
    for method in ["GET", "POST", "PATCH"] {
        for failure in [
            upstream(Kind::Connect, false, false),
            upstream(Kind::Refused, true, false),
            upstream(Kind::Reset, false, false),
            upstream(Kind::Reset, false, true),
        ] {
            assert_eq!(decide(&policy(), method, Ended::Failed(&failure)), Ok(()), "{method} {failure}");
        }
    }
}

#[test]
fn a_reused_connection_that_closed_is_tried_again_for_idempotent_methods_only() {
    let failure = upstream(Kind::Reset, true, true);
    assert_eq!(decide(&policy(), "GET", Ended::Failed(&failure)), Ok(()));
    assert_eq!(decide(&policy(), "DELETE", Ended::Failed(&failure)), Ok(()));
    assert_eq!(decide(&policy(), "POST", Ended::Failed(&failure)), Err(NoRetry::NotIdempotent));
    let mut keyed = policy();
    keyed.methods.clear();
    let mut attempts = Attempts::new(&keyed, &request("POST", true), None);
    assert!(attempts.after(Ended::Failed(&failure), true, now(), &Budget::default()).is_ok());
}

#[test]
fn by_default_nothing_else_is_tried_again() {
    for failure in [
        upstream(Kind::Reset, true, false),
        upstream(Kind::Timeout, true, false),
        upstream(Kind::Protocol, true, true),
        Failure::local(Kind::Overflow, ""),
        Failure::local(Kind::NoEndpoint, ""),
        Failure::local(Kind::Timeout, ""),
        Failure::downstream(Kind::Gone, ""),
    ] {
        assert_eq!(decide(&policy(), "GET", Ended::Failed(&failure)), Err(NoRetry::NotWanted), "{failure}");
    }
    for status in [200, 404, 429, 500, 502, 503, 504] {
        let ended = Ended::Answered(StatusCode::from_u16(status).unwrap(), None);
        assert_eq!(decide(&policy(), "GET", ended), Err(NoRetry::NotWanted), "{status}");
    }
    assert_eq!(
        decide(&RetryPolicy::never(), "GET", Ended::Failed(&upstream(Kind::Connect, false, false))),
        Err(NoRetry::NotWanted)
    );
}

#[test]
fn what_the_rule_adds_holds_for_idempotent_requests() {
    let mut wide = policy();
    wide.conditions = vec![Condition::Reset, Condition::Timeout, Condition::GatewayError];
    wide.codes = vec![StatusCode::TOO_MANY_REQUESTS];
    let answered = |status| Ended::Answered(StatusCode::from_u16(status).unwrap(), None);
    let (reset, timeout) = (upstream(Kind::Reset, true, false), upstream(Kind::Timeout, true, false));
    for ended in [Ended::Failed(&reset), Ended::Failed(&timeout), answered(502), answered(504), answered(429)]
    {
        assert_eq!(decide(&wide, "PUT", ended), Ok(()), "{ended:?}");
        assert_eq!(decide(&wide, "POST", ended), Err(NoRetry::NotIdempotent), "{ended:?}");
    }
    assert_eq!(decide(&wide, "GET", answered(500)), Err(NoRetry::NotWanted));
    // Provably unprocessed: asked for by `Reset` as well, and safe for any method.
    assert_eq!(decide(&wide, "POST", Ended::Failed(&upstream(Kind::Reset, false, false))), Ok(()));
    assert_eq!(
        decide(&wide, "GET", Ended::Failed(&upstream(Kind::Connect, false, false))),
        Err(NoRetry::NotWanted)
    );
}

#[test]
fn a_remote_sidecar_without_its_application_is_a_connect_failure() {
    let mut narrow = policy();
    narrow.conditions = vec![Condition::ConnectFailure];
    assert_eq!(decide(&narrow, "POST", Ended::Failed(&upstream(Kind::Refused, true, false))), Ok(()));
}

#[test]
fn grpc_codes_are_their_own_opt_in() {
    let mut grpc = policy();
    grpc.grpc_codes = vec![14];
    assert_eq!(decide(&grpc, "POST", Ended::Answered(StatusCode::OK, Some(14))), Ok(()));
    assert_eq!(decide(&grpc, "POST", Ended::Answered(StatusCode::OK, Some(13))), Err(NoRetry::NotWanted));
    assert_eq!(decide(&grpc, "POST", Ended::Answered(StatusCode::OK, None)), Err(NoRetry::NotWanted));
}

#[test]
fn attempts_body_and_deadline_bound_it() {
    let (policy, budget, start) = (policy(), Budget::default(), now());
    let failure = upstream(Kind::Connect, false, false);
    let mut attempts = Attempts::new(&policy, &request("GET", false), None);
    assert!(attempts.may_retry());
    assert_eq!(
        attempts.after(Ended::Failed(&failure), false, start, &budget),
        Err(NoRetry::BodyNotReplayable)
    );
    assert!(attempts.after(Ended::Failed(&failure), true, start, &budget).is_ok());
    assert!(attempts.after(Ended::Failed(&failure), true, start, &budget).is_ok());
    assert_eq!(attempts.after(Ended::Failed(&failure), true, start, &budget), Err(NoRetry::AttemptsSpent));
    assert!(!attempts.may_retry());
    assert_eq!(attempts.retries(), 2);
    let mut late = Attempts::new(&policy, &request("GET", false), Some(start));
    assert_eq!(late.after(Ended::Failed(&failure), true, start, &budget), Err(NoRetry::DeadlineTooShort));
    let mut early = Attempts::new(&policy, &request("GET", false), Some(start + Duration::from_millis(25)));
    assert!(early.after(Ended::Failed(&failure), true, start, &budget).is_ok(), "25 ms is the longest wait");
}

#[test]
fn a_retry_that_does_not_happen_takes_nothing_from_the_budget() {
    let settings = BudgetSettings { percent: 0.0, min_retries: 1, ..BudgetSettings::default() };
    let (policy, budget, start) = (policy(), Budget::default(), now());
    budget.configure(&settings);
    let failure = upstream(Kind::Connect, false, false);
    let mut attempts = Attempts::new(&policy, &request("GET", false), None);
    assert!(attempts.after(Ended::Failed(&failure), false, start, &budget).is_err());
    assert!(attempts.after(Ended::Failed(&failure), true, start, &budget).is_ok());
    assert_eq!(attempts.after(Ended::Failed(&failure), true, start, &budget), Err(NoRetry::BudgetSpent));
}

#[test]
fn the_wait_doubles_with_full_jitter() {
    fastrand::seed(7);
    let mut many = policy();
    many.attempts = 40;
    let budget = Budget::default();
    budget.configure(&BudgetSettings { min_retries: 1_000_000, ..BudgetSettings::default() });
    let failure = upstream(Kind::Connect, false, false);
    let mut longest = [Duration::ZERO; 6];
    for _ in 0..2000 {
        let mut attempts = Attempts::new(&many, &request("GET", false), None);
        for wait in &mut longest {
            let drawn = attempts.after(Ended::Failed(&failure), true, now(), &budget).unwrap();
            *wait = drawn.max(*wait);
        }
    }
    for (wait, limit) in longest.iter().zip([25, 75, 175, 250, 250, 250]) {
        let limit = Duration::from_millis(limit);
        assert!(*wait < limit && *wait > limit.mul_f64(0.98), "{wait:?} of {limit:?}");
    }
}

#[test]
fn endpoints_tried_are_remembered_once() {
    let policy = policy();
    let mut attempts = Attempts::new(&policy, &request("GET", false), None);
    let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
    attempts.failed_at(address);
    attempts.failed_at(address);
    assert_eq!(attempts.tried(), [address]);
}

#[test]
fn every_reason_has_its_own_word() {
    let words: std::collections::HashSet<_> = NoRetry::ALL.iter().map(|reason| reason.reason()).collect();
    assert_eq!(words.len(), NoRetry::ALL.len());
}
