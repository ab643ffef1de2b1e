//! Ranges of host users, one for each sandbox.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Users in one range.
pub(crate) const WIDTH: u32 = 65_536;
/// How many ranges there are from the base on: up to the last id that a signed number holds.
const COUNT: u32 = 8192;

/// The ranges that are free. Each is given to one runtime and comes back when it is gone.
#[derive(Debug)]
pub(crate) struct Slots {
    base: u32,
    taken: Mutex<State>,
}

#[derive(Debug)]
struct State {
    used: BTreeSet<u32>,
    next: u32,
}

/// One range, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    number: u32,
}

impl Slots {
    /// Ranges from `base` on. The search starts at a place that `instance` chooses, so that two
    /// servers on one host do not prefer the same ranges.
    pub(crate) fn new(base: u32, instance: &str) -> Arc<Self> {
        let seed = instance.bytes().fold(0u32, |sum, b| sum.wrapping_mul(31) ^ u32::from(b));
        let state = State { used: BTreeSet::new(), next: seed % COUNT };
        Arc::new(Self { base, taken: Mutex::new(state) })
    }

    /// Any free range; `None` when all are in use.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for step in 0..COUNT {
            let number = (state.next + step) % COUNT;
            if state.used.insert(number) {
                state.next = (number + 1) % COUNT;
                return Some(Slot { slots: Arc::clone(self), number });
            }
        }
        None
    }

    /// The range that a runtime of an earlier server has; `None` when it is taken already.
    pub(crate) fn adopt(self: &Arc<Self>, number: u32) -> Option<Slot> {
        let mut state = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        state.used.insert(number).then(|| Slot { slots: Arc::clone(self), number })
    }
}

impl Slot {
    /// The host's id of root in this range.
    pub(crate) fn base(&self) -> u32 {
        self.slots.base + self.number * WIDTH
    }

    /// Its number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        state.used.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_one_owner_until_it_is_given_back() {
        let slots = Slots::new(0x6000_0000, "abc");
        let all: Vec<_> = (0..COUNT).map(|_| slots.take().unwrap()).collect();
        assert!(slots.take().is_none());
        let bases: BTreeSet<_> = all.iter().map(Slot::base).collect();
        assert_eq!(bases.len(), COUNT as usize);
        assert!(bases.iter().all(|base| (0x6000_0000..0x8000_0000).contains(base)));
        let number = all[7].number();
        drop(all);
        let kept = slots.adopt(number).unwrap();
        assert!(slots.adopt(number).is_none());
        drop(kept);
    }
}
