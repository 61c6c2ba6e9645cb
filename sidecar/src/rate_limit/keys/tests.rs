//! Many keys, few buckets.

use std::borrow::Cow;
use std::time::Duration;

use proptest::prelude::*;

use super::super::bucket::Algorithm;
use super::*;

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn buckets(requests: u32) -> Buckets {
    Buckets::new(Shape { algorithm: Algorithm::TokenBucket, requests, per: ms(1000), burst: requests })
}

fn admitted(buckets: &mut Buckets, key: u128, now: Instant) -> bool {
    !buckets.charge(key, now).verdict.is_refused()
}

#[test]
fn every_key_has_a_bucket_of_its_own() {
    let (mut buckets, now) = (buckets(1), start());
    assert!(admitted(&mut buckets, 1, now) && admitted(&mut buckets, 2, now));
    assert!(!admitted(&mut buckets, 1, now));
}

#[test]
fn what_finds_no_room_shares_one_bucket_and_is_counted() {
    let (mut buckets, now) = (buckets(2), start());
    for key in 0..MOST_KEYS as u128 {
        assert!(admitted(&mut buckets, key, now));
    }
    assert!(admitted(&mut buckets, 1_000_001, now) && admitted(&mut buckets, 1_000_002, now));
    assert!(!admitted(&mut buckets, 1_000_003, now), "the shared one is empty");
    assert!(admitted(&mut buckets, 7, now), "those who have one keep it");
    assert_eq!(buckets.counts(), (MOST_KEYS, 3));
}

#[test]
fn full_buckets_leave_first() {
    let (mut buckets, start) = (buckets(1), start());
    for key in 0..MOST_KEYS as u128 {
        assert!(admitted(&mut buckets, key, start));
    }
    // All but key 3 have filled up again; it has just been used.
    let later = start + ms(1000);
    assert!(admitted(&mut buckets, 3, later));
    for key in 1_000_000..1_000_000 + MOST_KEYS as u128 - 1 {
        assert!(admitted(&mut buckets, key, later), "{key}");
    }
    assert_eq!(buckets.counts(), (MOST_KEYS, 0));
    assert!(!admitted(&mut buckets, 3, later), "a bucket in use stays");
    assert!(admitted(&mut buckets, 5_000_000, later));
    assert_eq!(buckets.counts(), (MOST_KEYS, 1));
}

#[test]
fn memory_follows_use() {
    let (mut buckets, start) = (buckets(1), start());
    for key in 0..5000 {
        admitted(&mut buckets, key, start);
    }
    for key in 10_000..15_100 {
        admitted(&mut buckets, key, start + ms(1000 * (key as u64 - 9000)));
    }
    assert!(buckets.counts().0 < 10, "{:?}", buckets.counts());
    assert_eq!(buckets.idle.len(), buckets.by_key.len());
}

#[test]
fn what_is_given_back_was_never_taken() {
    let (mut buckets, now) = (buckets(1), start());
    let receipt = buckets.charge(1, now);
    buckets.refund(&receipt);
    assert!(admitted(&mut buckets, 1, now));
    assert!(!admitted(&mut buckets, 1, now));
}

#[test]
fn parts_of_a_key_do_not_run_together() {
    let hasher = KeyHasher::default();
    let hash = |parts: &[Option<&str>]| {
        hasher.hash(parts.iter().map(|part| part.map(|part| Cow::Borrowed(part.as_bytes()))))
    };
    assert_eq!(hash(&[Some("a"), Some("b")]), hash(&[Some("a"), Some("b")]));
    for other in
        [&[Some("ab"), Some("")][..], &[Some("a"), None], &[None, Some("b")], &[Some("b"), Some("a")]]
    {
        assert_ne!(hash(&[Some("a"), Some("b")]), hash(other));
    }
    assert_ne!(hash(&[None]), hash(&[Some("")]));
}

proptest! {
    /// As long as there is room, letting full buckets go changes no verdict.
    #[test]
    fn leaving_is_not_noticed(events in prop::collection::vec((0u128..20, 0u64..400), 1..300), requests in 1u32..4) {
        let (mut bounded, mut now) = (buckets(requests), start());
        let mut kept: HashMap<u128, Bucket> = HashMap::new();
        for (key, wait) in events {
            now += ms(wait);
            let shape = bounded.shape;
            let verdict = shape.take(kept.entry(key).or_insert_with(|| shape.full(now)), now);
            prop_assert_eq!(bounded.charge(key, now).verdict, verdict);
        }
    }
}
