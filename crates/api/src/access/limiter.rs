//! Token buckets by key: who may go on, who must wait, and for how long.
//!
//! A bucket is one instant, the one at which it is full again; taking a token moves it on by the
//! time that a token needs to grow back. The keys are what callers send or where they come from,
//! so the number of buckets is bounded whatever arrives: a full bucket says nothing and is dropped,
//! and where there is no such one, the fullest goes. Time is an argument.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// Neighbours do not wait for each other's locks.
const SHARDS: usize = 16;
/// Buckets in one shard at most.
const MOST: usize = 4096;

/// How fast tokens grow, and how many a bucket holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The time that one token needs.
    pub(crate) every: Duration,
    /// The tokens of a full bucket.
    pub(crate) burst: u32,
}

/// What a bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There was a token; that many whole ones are left.
    Allowed { remaining: u32 },
    /// There is none, and will be one after this time.
    Limited { wait: Duration },
}

/// A hashed key: neither a credential nor a name is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hashed([u8; 32]);

impl Hashed {
    /// Of a kind and what is of that kind, so that a name never meets an address.
    pub(crate) fn of(kind: &str, value: &str) -> Self {
        Self(
            Sha256::new()
                .chain_update(kind)
                .chain_update([0])
                .chain_update(value)
                .finalize()
                .into(),
        )
    }

    fn shard(self) -> usize {
        usize::from(self.0[0]) % SHARDS
    }
}

/// The buckets.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    /// How long a full bucket stays, and how often that is looked at.
    ttl: Duration,
    cleanup: Duration,
    shards: [Mutex<Shard>; SHARDS],
    allowed: AtomicU64,
    limited: AtomicU64,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    full_at: HashMap<Hashed, Instant>,
    cleaned: Option<Instant>,
}

/// What a limiter has done so far, and how many buckets it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) active: usize,
    pub(crate) allowed: u64,
    pub(crate) limited: u64,
    pub(crate) evicted: u64,
}

impl Limiter {
    pub(crate) fn new(rate: Rate, ttl: Duration, cleanup: Duration) -> Self {
        Self {
            rate,
            ttl,
            cleanup,
            shards: Default::default(),
            allowed: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// Takes a token.
    pub(crate) fn take(&self, key: Hashed, now: Instant) -> Verdict {
        let mut shard = self.shard(key);
        self.clean(&mut shard, now);
        let before = shard.full_at.get(&key).copied();
        let (verdict, after) = self.judge(before, now);
        match verdict {
            Verdict::Allowed { .. } => {
                if before.is_none() {
                    self.make_room(&mut shard, now);
                }
                shard.full_at.insert(key, after);
                self.allowed.fetch_add(1, Relaxed);
            }
            Verdict::Limited { .. } => drop(self.limited.fetch_add(1, Relaxed)),
        }
        verdict
    }

    /// What taking a token would answer. Takes none, counts only a refusal.
    pub(crate) fn look(&self, key: Hashed, now: Instant) -> Verdict {
        let before = self.shard(key).full_at.get(&key).copied();
        let (verdict, _) = self.judge(before, now);
        if matches!(verdict, Verdict::Limited { .. }) {
            self.limited.fetch_add(1, Relaxed);
        }
        verdict
    }

    pub(crate) fn counts(&self) -> Counts {
        let active = self.shards.iter().map(|shard| lock(shard).full_at.len()).sum();
        Counts {
            active,
            allowed: self.allowed.load(Relaxed),
            limited: self.limited.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
        }
    }

    fn shard(&self, key: Hashed) -> MutexGuard<'_, Shard> {
        lock(&self.shards[key.shard()])
    }

    /// The verdict about a bucket, and when it is full if a token is taken.
    fn judge(&self, full_at: Option<Instant>, now: Instant) -> (Verdict, Instant) {
        let Rate { every, burst } = self.rate;
        let after = full_at.map_or(now, |full_at| full_at.max(now)) + every;
        let missing = after - now;
        let whole = every * burst;
        if whole < missing {
            return (Verdict::Limited { wait: missing - whole }, after);
        }
        let left = (whole - missing).as_nanos() / every.as_nanos().max(1);
        let remaining = u32::try_from(left).unwrap_or(burst);
        (Verdict::Allowed { remaining }, after)
    }

    /// Drops what has been full for long, now and then.
    fn clean(&self, shard: &mut Shard, now: Instant) {
        if shard.cleaned.is_some_and(|at| now < at + self.cleanup) {
            return;
        }
        shard.cleaned = Some(now);
        self.keep(shard, |full_at| now < full_at + self.ttl);
    }

    /// Makes room for one more: by dropping what says nothing, or else the fullest.
    fn make_room(&self, shard: &mut Shard, now: Instant) {
        if shard.full_at.len() < MOST {
            return;
        }
        self.keep(shard, |full_at| now < full_at);
        if shard.full_at.len() < MOST {
            return;
        }
        if let Some(fullest) = shard.full_at.values().min().copied() {
            self.keep(shard, |full_at| fullest < full_at);
        }
    }

    fn keep(&self, shard: &mut Shard, keep: impl Fn(Instant) -> bool) {
        let before = shard.full_at.len();
        shard.full_at.retain(|_, full_at| keep(*full_at));
        self.evicted.fetch_add((before - shard.full_at.len()) as u64, Relaxed);
    }
}

/// Nothing panics while the lock is held, and a bucket is one value.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { every: Duration::from_millis(500), burst: 3 };

    fn limiter() -> Limiter {
        Limiter::new(RATE, Duration::from_secs(60), Duration::from_secs(10))
    }

    fn key(number: usize) -> Hashed {
        Hashed::of("test", &number.to_string())
    }

    /// R3.7: a token bucket.
    #[test]
    fn a_burst_is_allowed_and_then_what_grows_back() {
        let (limiter, start) = (limiter(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for remaining in [2, 1, 0] {
            assert_eq!(limiter.take(key(1), start), Verdict::Allowed { remaining });
        }
        let wait = Duration::from_millis(500);
        assert_eq!(limiter.take(key(1), start), Verdict::Limited { wait });
        assert_eq!(limiter.look(key(1), at(400)), Verdict::Limited { wait: wait - (wait / 5 * 4) });
        assert_eq!(limiter.take(key(1), at(500)), Verdict::Allowed { remaining: 0 });
        assert_eq!(limiter.take(key(2), at(500)), Verdict::Allowed { remaining: 2 });
        assert_eq!(limiter.take(key(1), at(60_000)), Verdict::Allowed { remaining: 2 });
        let counts = limiter.counts();
        assert_eq!((counts.allowed, counts.limited, counts.active), (6, 2, 2));
    }

    #[test]
    fn looking_takes_nothing() {
        let (limiter, now) = (limiter(), Instant::now());
        for _ in 0..10 {
            assert_eq!(limiter.look(key(1), now), Verdict::Allowed { remaining: 2 });
        }
        assert_eq!(limiter.counts().active, 0);
    }

    /// R3.7: idle buckets are pruned, and not before they are full.
    #[test]
    fn a_bucket_is_dropped_when_it_was_full_for_long() {
        let (limiter, start) = (limiter(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        limiter.take(key(1), start);
        let neighbour = (2..).map(key).find(|other| other.shard() == key(1).shard()).unwrap();
        limiter.take(neighbour, at(30));
        assert_eq!(limiter.counts().active, 2);
        limiter.take(neighbour, at(61));
        let counts = limiter.counts();
        assert_eq!((counts.active, counts.evicted), (1, 1));
    }

    /// R3.7: keys that an attacker makes up do not grow memory, and give nobody tokens.
    #[test]
    fn made_up_keys_take_bounded_memory_and_push_out_the_fullest() {
        let (limiter, now) = (limiter(), Instant::now());
        for _ in 0..RATE.burst {
            limiter.take(key(0), now);
        }
        for number in 1..SHARDS * MOST * 2 {
            limiter.take(key(number), now);
        }
        let counts = limiter.counts();
        assert!(counts.active <= SHARDS * MOST, "{counts:?}");
        assert!(0 < counts.evicted);
        assert!(matches!(limiter.look(key(0), now), Verdict::Limited { .. }), "the emptiest stays");
    }

    #[test]
    fn a_name_is_never_an_address() {
        assert_ne!(Hashed::of("owner", "127.0.0.1"), Hashed::of("ip", "127.0.0.1"));
        assert_ne!(Hashed::of("a", "bc"), Hashed::of("ab", "c"));
    }

    proptest! {
        /// Within any window no more is allowed than a burst and what grows in it.
        #[test]
        fn no_window_allows_more_than_a_burst_and_what_grew(
            gaps in prop::collection::vec(0_u64..700, 1..200),
        ) {
            let (limiter, start) = (limiter(), Instant::now());
            let mut now = start;
            let mut allowed = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if matches!(limiter.take(key(1), now), Verdict::Allowed { .. }) {
                    allowed.push(now);
                }
            }
            for (from, first) in allowed.iter().enumerate() {
                for (to, last) in allowed.iter().enumerate().skip(from) {
                    let grown = (*last - *first).as_nanos() / RATE.every.as_nanos();
                    prop_assert!((to - from + 1) as u128 <= u128::from(RATE.burst) + grown);
                }
            }
        }
    }
}
