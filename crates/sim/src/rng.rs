//! Chance that is had again from its seed, on every machine and with every version of every crate.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): passes what a simulation asks of it, in three lines.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The chance of a seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A chance of its own, which draws nothing from this one later.
    pub(crate) const fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// A number from 0 up to and without `end`; 0 where there is none.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        // The bias of a remainder is some parts in 2^50 for the small numbers here.
        if end == 0 { 0 } else { self.bits() % end }
    }

    /// A number from `low` up to and with `high`.
    pub(crate) const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Whether something of so many in a thousand happens.
    pub(crate) const fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// A time between two.
    pub(crate) fn time(&mut self, low: Duration, high: Duration) -> Duration {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.between(micros(low), micros(high)))
    }

    /// One of several.
    pub(crate) fn pick<'t, T>(&mut self, of: &'t [T]) -> Option<&'t T> {
        of.get(usize::try_from(self.below(of.len() as u64)).unwrap_or(0))
    }
}
