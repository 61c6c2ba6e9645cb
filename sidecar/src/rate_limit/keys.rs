//! The buckets of one limit, one a key, at most 10,000.
//!
//! A bucket that has filled up again is worth no more than a new one, so it may leave at any time. To find
//! those at once, a heap holds for every key a time before which its bucket is not full; later requests move
//! that time on, which is noticed when the entry comes up and is put back. So a new key costs a few steps,
//! also when somebody sends a new one with every request. What finds no room shares one bucket.
//!
//! A key is kept as a hash of 128 bits, seeded at random for each limit: no value that a caller sends takes
//! memory, and none can be made to meet another's bucket.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

use super::bucket::{Bucket, Shape, Verdict};

/// Keys with a bucket of their own; with 100 bytes each, a megabyte a limit.
pub(super) const MOST_KEYS: usize = 10_000;

/// The live buckets of one limit.
#[derive(Debug)]
pub(super) struct Buckets {
    shape: Shape,
    by_key: HashMap<u128, Bucket>,
    /// One entry a key: not full before then.
    idle: BinaryHeap<Reverse<(Instant, u128)>>,
    /// For the keys that found no room.
    shared: Option<Bucket>,
    overflowed: u64,
}

/// What was taken, so that it can be given back.
#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) verdict: Verdict,
    /// None: the shared bucket.
    key: Option<u128>,
    before: Bucket,
}

impl Buckets {
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, by_key: HashMap::new(), idle: BinaryHeap::new(), shared: None, overflowed: 0 }
    }

    /// Takes one request from the key's bucket, if it is there.
    pub(super) fn charge(&mut self, key: u128, now: Instant) -> Receipt {
        if let Some(bucket) = self.by_key.get_mut(&key) {
            let before = *bucket;
            return Receipt { verdict: self.shape.take(bucket, now), key: Some(key), before };
        }
        let new = self.shape.full(now);
        if self.has_room(now) {
            let mut bucket = new;
            let verdict = self.shape.take(&mut bucket, now);
            self.by_key.insert(key, bucket);
            self.idle.push(Reverse((self.shape.full_at(&bucket), key)));
            return Receipt { verdict, key: Some(key), before: new };
        }
        self.overflowed += 1;
        let bucket = self.shared.get_or_insert(new);
        let before = *bucket;
        Receipt { verdict: self.shape.take(bucket, now), key: None, before }
    }

    /// Gives back what was taken since no other request came between.
    pub(super) fn refund(&mut self, receipt: &Receipt) {
        let bucket = match receipt.key {
            Some(key) => self.by_key.get_mut(&key),
            None => self.shared.as_mut(),
        };
        if let Some(bucket) = bucket {
            *bucket = receipt.before;
        }
    }

    /// Keys with a bucket of their own, and requests that found no room for theirs.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.by_key.len(), self.overflowed)
    }

    /// Lets full buckets go: one or two with each new key, which keeps the memory near what is in use, and
    /// as many as it takes when there is no room.
    fn has_room(&mut self, now: Instant) -> bool {
        let mut gone = 0;
        while gone < 2
            && let Some(Reverse((not_before, key))) = self.idle.peek().copied()
            && not_before <= now
        {
            self.idle.pop();
            match self.by_key.get(&key).map(|bucket| self.shape.full_at(bucket)) {
                Some(full_at) if full_at > now => self.idle.push(Reverse((full_at, key))),
                _ => {
                    self.by_key.remove(&key);
                    gone += 1;
                }
            }
        }
        self.by_key.len() < MOST_KEYS
    }
}

/// Hashes the parts of a key.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(RandomState, RandomState);

impl KeyHasher {
    /// The hash of some parts; a part that is absent differs from one that is empty.
    pub(super) fn hash<'k>(&self, parts: impl Iterator<Item = Option<std::borrow::Cow<'k, [u8]>>>) -> u128 {
        let (mut high, mut low) = (self.0.build_hasher(), self.1.build_hasher());
        for part in parts {
            for hasher in [&mut high, &mut low] {
                match &part {
                    None => hasher.write_u8(0),
                    Some(value) => {
                        hasher.write_u8(1);
                        hasher.write_usize(value.len());
                        hasher.write(value);
                    }
                }
            }
        }
        (u128::from(high.finish()) << 64) | u128::from(low.finish())
    }
}

#[cfg(test)]
mod tests;
