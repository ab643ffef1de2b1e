//! How long things took, counted so that many threads can add at once.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The upper ends of the buckets but the last, which has none.
pub const BOUNDS: [Duration; 18] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// Durations by size. Adding one is two atomic additions and never waits.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < took);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// What was counted until now. Its count is the sum of its buckets, whatever is added
    /// meanwhile.
    pub fn tally(&self) -> Tally {
        Tally {
            counts: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
            total: Duration::from_nanos(self.nanos.load(Relaxed)),
        }
    }
}

/// What a [`Histogram`] had counted at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    counts: [u64; BUCKETS],
    total: Duration,
}

impl Tally {
    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub const fn total(&self) -> Duration {
        self.total
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// Each bucket's upper end, `None` for the last, with how many durations were at most that
    /// long.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let mut below = 0;
        let ends = BOUNDS.into_iter().map(Some).chain([None]);
        ends.zip(self.counts).map(move |(end, count)| {
            below += count;
            (end, below)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_every_bucket_that_is_not_shorter() {
        let histogram = Histogram::default();
        let all = [Duration::ZERO, Duration::from_micros(100), Duration::from_secs(61)];
        for took in all {
            histogram.record(took);
        }
        let tally = histogram.tally();
        let buckets: Vec<_> = tally.cumulative().collect();
        assert_eq!(buckets[0], (Some(Duration::from_micros(100)), 2));
        assert_eq!(buckets[17], (Some(Duration::from_secs(60)), 2));
        assert_eq!(buckets[18], (None, 3));
        assert_eq!(tally.count(), 3);
        assert_eq!(tally.total(), all.iter().sum());
    }

    #[test]
    fn the_bounds_rise() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }
}
