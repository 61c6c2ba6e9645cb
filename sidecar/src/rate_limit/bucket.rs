//! One bucket: exact integer arithmetic, no rounding that adds up.
//!
//! **TokenBucket** holds at most `burst` requests and gains `requests` every `per`, evenly: rate 10 a second
//! and burst 20 admit 20 at once and then one every 100 ms. The level is counted in units of
//! 1 / (`per` in nanoseconds) of a request, so that what a nanosecond adds is the whole number `requests`.
//!
//! **FixedWindow** admits `requests` in a window of `per`, which opens with the first request in it; the
//! next opens with the first request after it. It is bound to no clock on the wall: pods do not open their
//! windows all at once, and a caller that waits as long as it is told is admitted.

use std::time::{Duration, Instant};

/// The numbers of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) algorithm: Algorithm,
    /// At least 1.
    pub(super) requests: u32,
    /// At least a millisecond.
    pub(super) per: Duration,
    /// At least 1.
    pub(super) burst: u32,
}

/// How a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Algorithm {
    TokenBucket,
    FixedWindow,
}

/// The state of one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    /// TokenBucket: when `level` was true. FixedWindow: when the window opened.
    at: Instant,
    /// TokenBucket: what is in it. FixedWindow: how many requests the window has admitted.
    level: u128,
}

/// What a bucket said to a request, and how it stands afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How many more it would admit at once.
    pub(super) remaining: u64,
    /// The time until it is as full as it gets.
    pub(super) full_in: Duration,
    /// Refused: the time until it admits one again.
    pub(super) wait: Option<Duration>,
}

impl Verdict {
    pub(super) fn is_refused(&self) -> bool {
        self.wait.is_some()
    }
}

impl Shape {
    /// A bucket that nobody has taken from.
    pub(super) fn full(&self, now: Instant) -> Bucket {
        let level = match self.algorithm {
            Algorithm::TokenBucket => self.capacity(),
            Algorithm::FixedWindow => 0,
        };
        Bucket { at: now, level }
    }

    /// The most that a bucket admits at once: `RateLimit-Limit`.
    pub(super) fn most(&self) -> u64 {
        match self.algorithm {
            Algorithm::TokenBucket => self.burst.into(),
            Algorithm::FixedWindow => self.requests.into(),
        }
    }

    /// Takes one request out of the bucket if it is there. Workers read their clocks a little apart; a time
    /// before the bucket's own counts as the bucket's own.
    pub(super) fn take(&self, bucket: &mut Bucket, now: Instant) -> Verdict {
        match self.algorithm {
            Algorithm::TokenBucket => self.take_token(bucket, now),
            Algorithm::FixedWindow => self.take_from_window(bucket, now),
        }
    }

    /// When the bucket is as full as it gets: from then on it is worth no more than a new one.
    pub(super) fn full_at(&self, bucket: &Bucket) -> Instant {
        match self.algorithm {
            Algorithm::TokenBucket => bucket.at + self.time_for(self.capacity().saturating_sub(bucket.level)),
            Algorithm::FixedWindow if bucket.level == 0 => bucket.at,
            Algorithm::FixedWindow => bucket.at + self.per,
        }
    }

    fn take_token(&self, bucket: &mut Bucket, now: Instant) -> Verdict {
        let gained = now.saturating_duration_since(bucket.at).as_nanos() * u128::from(self.requests);
        bucket.level = bucket.level.saturating_add(gained).min(self.capacity());
        bucket.at = bucket.at.max(now);
        let one = self.per.as_nanos();
        let wait = if bucket.level >= one {
            bucket.level -= one;
            None
        } else {
            Some(self.time_for(one - bucket.level))
        };
        Verdict {
            remaining: u64::try_from(bucket.level / one).unwrap_or(u64::MAX),
            full_in: self.time_for(self.capacity() - bucket.level),
            wait,
        }
    }

    fn take_from_window(&self, bucket: &mut Bucket, now: Instant) -> Verdict {
        if bucket.level == 0 || now >= bucket.at + self.per {
            *bucket = Bucket { at: now, level: 0 };
        }
        let full_in = (bucket.at + self.per).saturating_duration_since(now);
        let most = u128::from(self.requests);
        let wait = if bucket.level < most {
            bucket.level += 1;
            None
        } else {
            Some(full_in)
        };
        let remaining = u64::try_from(most - bucket.level.min(most)).unwrap_or(u64::MAX);
        Verdict { remaining, full_in, wait }
    }

    /// `burst` requests.
    fn capacity(&self) -> u128 {
        u128::from(self.burst) * self.per.as_nanos()
    }

    /// How long the bucket needs to gain so much, rounded up to a nanosecond.
    fn time_for(&self, gain: u128) -> Duration {
        let nanos = gain.div_ceil(u128::from(self.requests));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests;
