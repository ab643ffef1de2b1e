//! The queue, obviously right: every question sorts everything anew.

use std::collections::BTreeMap;

use super::{Blocked, COST, Lane, Priority, Ticket, Weight};

#[derive(Debug, Clone)]
struct Waiter {
    ticket: Ticket,
    lane: Lane,
    rank: u64,
    age: u64,
}

/// What is known of a lane, for ever.
#[derive(Debug, Clone, Default)]
struct Known {
    start: u128,
    weight: Weight,
    joined: u64,
    blocked: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    waiters: Vec<Waiter>,
    lanes: BTreeMap<Lane, Known>,
    present: u128,
    age: u64,
    full: bool,
}

impl Model {
    fn empty(&self, lane: &Lane) -> bool {
        self.waiters.iter().all(|waiter| waiter.lane != *lane)
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn join(&mut self, ticket: Ticket, lane: Lane, weight: Weight, priority: Priority) {
        let empty = self.empty(&lane);
        let known = self.lanes.entry(lane.clone()).or_default();
        if empty {
            // A lane without waiters that is not ahead is a lane like a new one.
            if known.start <= self.present {
                *known = Known { start: self.present, ..Known::default() };
            }
        }
        self.age += 1;
        known.joined += 1;
        known.weight = weight;
        let rank = known.joined + 1000 - u64::from(priority.0) * Priority::STEP;
        self.waiters.push(Waiter { ticket, lane, rank, age: self.age });
    }

    pub(super) fn next(&self) -> Option<Ticket> {
        if self.full {
            return None;
        }
        let head = |lane: &Lane| {
            let of_lane = self.waiters.iter().filter(|waiter| waiter.lane == *lane);
            of_lane.min_by_key(|waiter| (waiter.rank, waiter.age))
        };
        let heads = self.lanes.iter().filter(|(_, known)| !known.blocked);
        let heads = heads.filter_map(|(lane, known)| Some((known.start, head(lane)?)));
        heads.min_by_key(|(start, waiter)| (*start, waiter.age)).map(|(_, waiter)| waiter.ticket)
    }

    pub(super) fn gives_way(&self, lane: &Lane, weight: Weight) -> Option<Ticket> {
        let of = |lane: &Lane| self.waiters.iter().filter(|w| w.lane == *lane).collect::<Vec<_>>();
        let share = |count: usize, weight: Weight| count as u128 * COST / u128::from(weight.get());
        let longest = self.lanes.iter().map(|(lane, known)| (of(lane), known.weight));
        let (waiters, its) = longest.max_by_key(|(waiters, its)| share(waiters.len(), *its))?;
        let last = waiters.iter().max_by_key(|waiter| (waiter.rank, waiter.age))?;
        let newcomers = share(of(lane).len() + 1, weight);
        (newcomers < share(waiters.len(), its)).then_some(last.ticket)
    }

    pub(super) fn admitted(&mut self, ticket: Ticket) {
        let Some(lane) = self.remove(ticket) else { return };
        if let Some(known) = self.lanes.get_mut(&lane) {
            self.present = self.present.max(known.start);
            known.start += COST / u128::from(known.weight.get());
        }
        self.rest();
    }

    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        let was_there = self.remove(ticket).is_some();
        self.rest();
        was_there
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Lane> {
        let at = self.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
        Some(self.waiters.remove(at).lane)
    }

    /// A queue that nobody waits in begins anew.
    fn rest(&mut self) {
        if self.waiters.is_empty() {
            self.lanes.clear();
            self.present = 0;
            self.full = false;
        }
    }

    pub(super) fn block(&mut self, ticket: Ticket, what: Blocked) {
        let Some(waiter) = self.waiters.iter().find(|waiter| waiter.ticket == ticket) else {
            self.full |= what == Blocked::All;
            return;
        };
        match what {
            Blocked::All => self.full = true,
            Blocked::Lane => {
                if let Some(known) = self.lanes.get_mut(&waiter.lane) {
                    known.blocked = true;
                }
            }
        }
    }

    pub(super) fn freed(&mut self, lane: &Lane) {
        self.full = false;
        if let Some(known) = self.lanes.get_mut(lane).filter(|known| known.blocked) {
            known.blocked = false;
            known.start = known.start.max(self.present);
        }
    }

    pub(super) fn unblock_all(&mut self) {
        for lane in self.lanes.keys().cloned().collect::<Vec<_>>() {
            self.freed(&lane);
        }
        self.full = false;
    }
}
