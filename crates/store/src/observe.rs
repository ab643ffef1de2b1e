//! What operators ask of a store: how many sandboxes there are of which kind, and how fast it is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use stacyvm_types::{Histogram, Phase, Timestamp};

use crate::Result;

/// The part of a store that operators look at.
#[async_trait]
pub trait ObserveStore {
    /// Counts the sandboxes that live, and their leases at `now`. It passes over all of them, so
    /// ask for it seldom; nothing else waits for it.
    async fn census(&self, now: Timestamp) -> Result<Census>;

    /// How long its answers took, where it knows.
    fn timings(&self) -> Option<&Timings>;
}

/// The sandboxes that live at one moment, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// All of them.
    pub total: u64,
    /// Those whose end is not decided.
    pub active: u64,
    /// By published state.
    pub by_state: BTreeMap<&'static str, u64>,
    /// By the provider that launches them.
    pub by_provider: BTreeMap<String, u64>,
    /// By the worker that holds them.
    pub by_worker: BTreeMap<String, u64>,
    /// Their leases.
    pub leases: LeaseCensus,
}

/// The leases of the sandboxes that live, counted; a free one is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseCensus {
    /// All that have a holder.
    pub total: u64,
    /// Those that have lapsed.
    pub lapsed: u64,
    /// By holder, lapsed ones too.
    pub by_holder: BTreeMap<String, u64>,
}

impl Census {
    /// Counts one sandbox. `lease` is its holder and until when.
    pub fn add(
        &mut self,
        phase: &Phase,
        provider: &str,
        worker: &str,
        lease: Option<(&str, Timestamp)>,
        now: Timestamp,
    ) {
        self.total += 1;
        self.active += u64::from(!matches!(phase, Phase::Stopping(_) | Phase::Ended(_)));
        *self.by_state.entry(phase.wire_state()).or_default() += 1;
        one_more(&mut self.by_provider, provider);
        one_more(&mut self.by_worker, worker);
        if let Some((holder, until)) = lease {
            self.leases.total += 1;
            self.leases.lapsed += u64::from(until <= now);
            one_more(&mut self.leases.by_holder, holder);
        }
    }
}

fn one_more(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => _ = counts.insert(name.to_owned(), 1),
    }
}

/// How long a store's answers took, the wait for a turn included, whether they succeeded or not.
#[derive(Debug, Default)]
pub struct Timings {
    /// Reads of a row or few.
    pub reads: Histogram,
    /// Reads of any size.
    pub scans: Histogram,
    /// Changes, until they were as durable as they had to be.
    pub writes: Histogram,
}

impl Timings {
    /// Times a read until the guard is dropped.
    pub fn read(&self) -> Timed<'_> {
        Timed::of(&self.reads)
    }

    /// Times a scan until the guard is dropped.
    pub fn scan(&self) -> Timed<'_> {
        Timed::of(&self.scans)
    }

    /// Times a change until the guard is dropped.
    pub fn write(&self) -> Timed<'_> {
        Timed::of(&self.writes)
    }
}

/// Counts the time from its making to its end.
#[derive(Debug)]
pub struct Timed<'t> {
    histogram: &'t Histogram,
    begun: Instant,
}

impl<'t> Timed<'t> {
    fn of(histogram: &'t Histogram) -> Self {
        Self { histogram, begun: Instant::now() }
    }

    /// How long it has been.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.histogram.record(self.elapsed());
    }
}
