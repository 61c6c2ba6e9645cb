//! Exact numbers, and a slow plain model of each algorithm.

use proptest::prelude::*;

use super::*;

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn tokens(requests: u32, per: Duration, burst: u32) -> Shape {
    Shape { algorithm: Algorithm::TokenBucket, requests, per, burst }
}

fn window(requests: u32, per: Duration) -> Shape {
    Shape { algorithm: Algorithm::FixedWindow, requests, per, burst: requests }
}

#[test]
fn rate_10_and_burst_20_admit_20_at_once_and_then_one_every_100_ms() {
    let (shape, start) = (tokens(10, ms(1000), 20), start());
    let mut bucket = shape.full(start);
    for left in (0..20).rev() {
        let verdict = shape.take(&mut bucket, start);
        assert_eq!((verdict.remaining, verdict.wait), (left, None));
    }
    let refused = shape.take(&mut bucket, start);
    assert_eq!(refused, Verdict { remaining: 0, full_in: ms(2000), wait: Some(ms(100)) });
    for step in 1..=50 {
        let now = start + ms(100 * step);
        assert!(shape.take(&mut bucket, now - Duration::from_nanos(1)).is_refused(), "{step}");
        assert!(!shape.take(&mut bucket, now).is_refused(), "{step}");
        assert!(shape.take(&mut bucket, now).is_refused(), "{step}");
    }
    assert_eq!(shape.full_at(&bucket), start + ms(7000));
}

#[test]
fn the_sixth_of_six_at_once_waits_for_the_next_token() {
    let (shape, start) = (tokens(5, ms(3_600_000), 5), start());
    let mut bucket = shape.full(start);
    for _ in 0..5 {
        assert!(!shape.take(&mut bucket, start).is_refused());
    }
    let sixth = shape.take(&mut bucket, start);
    assert_eq!(sixth, Verdict { remaining: 0, full_in: ms(3_600_000), wait: Some(ms(720_000)) });
}

#[test]
fn nothing_is_lost_to_rounding() {
    // A third of a second a token: after a day of one try every millisecond, exactly three a second.
    let (shape, start) = (tokens(3, ms(1000), 1), start());
    let mut bucket = shape.full(start);
    let admitted = (0..100_000).filter(|&at| !shape.take(&mut bucket, start + ms(at)).is_refused()).count();
    assert_eq!(admitted, 300);
}

#[test]
fn the_largest_numbers_fit() {
    let (shape, start) = (tokens(u32::MAX, ms(86_400_000), u32::MAX), start());
    let mut bucket = shape.full(start);
    assert_eq!(shape.take(&mut bucket, start).remaining, u64::from(u32::MAX) - 1);
    assert!(!shape.take(&mut bucket, start + ms(1000 * 86_400_000)).is_refused());
}

#[test]
fn a_window_opens_with_its_first_request() {
    let (shape, start) = (window(2, ms(1000)), start());
    let mut bucket = shape.full(start);
    let first = start + ms(300);
    assert_eq!(shape.take(&mut bucket, first), Verdict { remaining: 1, full_in: ms(1000), wait: None });
    assert_eq!(shape.take(&mut bucket, first + ms(999)).remaining, 0);
    let refused = shape.take(&mut bucket, first + ms(999));
    assert_eq!(refused, Verdict { remaining: 0, full_in: ms(1), wait: Some(ms(1)) });
    assert_eq!(shape.full_at(&bucket), first + ms(1000));
    assert_eq!(shape.take(&mut bucket, first + ms(1000)).remaining, 1);
}

#[test]
fn a_clock_a_little_behind_takes_nothing_away() {
    let (shape, start) = (tokens(10, ms(1000), 2), start());
    let mut bucket = shape.full(start + ms(50));
    assert!(!shape.take(&mut bucket, start).is_refused());
    assert!(!shape.take(&mut bucket, start + ms(50)).is_refused());
    assert!(shape.take(&mut bucket, start + ms(149)).is_refused());
    assert!(!shape.take(&mut bucket, start + ms(150)).is_refused());
}

proptest! {
    /// Against a bucket that is counted in fractions, tick by tick.
    #[test]
    fn tokens_are_those_of_a_bucket_filled_tick_by_tick(
        requests in 1u32..20,
        per in 1u64..50,
        burst in 1u32..20,
        waits in prop::collection::vec(0u64..30, 1..200),
    ) {
        let (shape, mut now) = (tokens(requests, ms(per), burst), start());
        let mut bucket = shape.full(now);
        // In units of 1 / per of a request; each millisecond adds `requests` of them.
        let (one, most) = (per, u64::from(burst) * per);
        let mut level = most;
        for wait in waits {
            for _ in 0..wait {
                level = (level + u64::from(requests)).min(most);
            }
            now += ms(wait);
            let admitted = level >= one;
            level -= if admitted { one } else { 0 };
            let verdict = shape.take(&mut bucket, now);
            prop_assert_eq!(!verdict.is_refused(), admitted);
            prop_assert_eq!(verdict.remaining, level / one);
            if let Some(wait) = verdict.wait {
                // Truthful: not before, but then.
                prop_assert!(shape.take(&mut bucket.clone(), now + wait - Duration::from_nanos(1)).is_refused());
                prop_assert!(!shape.take(&mut bucket.clone(), now + wait).is_refused());
            }
            prop_assert_eq!(shape.full_at(&bucket), now + verdict.full_in);
        }
    }

    /// Against a list of what was admitted.
    #[test]
    fn a_window_admits_what_a_list_admits(
        requests in 1u32..5,
        per in 1u64..50,
        waits in prop::collection::vec(0u64..30, 1..200),
    ) {
        let (shape, mut now) = (window(requests, ms(per)), start());
        let mut bucket = shape.full(now);
        let mut admitted: Vec<Instant> = Vec::new();
        for wait in waits {
            now += ms(wait);
            if admitted.first().is_some_and(|&opened| now >= opened + ms(per)) {
                admitted.clear();
            }
            let expected = admitted.len() < requests as usize;
            if expected {
                admitted.push(now);
            }
            let verdict = shape.take(&mut bucket, now);
            prop_assert_eq!(!verdict.is_refused(), expected);
            prop_assert_eq!(verdict.remaining as usize, requests as usize - admitted.len());
            prop_assert_eq!(now + verdict.full_in, admitted[0] + ms(per));
        }
    }
}
