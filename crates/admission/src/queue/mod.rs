//! The order of those that wait: fair between lanes, first come first served within one.
//!
//! A lane is an owner; what nobody owns shares one lane. Lanes share by weight with start-time fair
//! queueing (Goyal, Vin, Cheng 1996): each admission costs a lane `1 / weight` of virtual time, the
//! lane with the earliest virtual start is next, and a lane that was away starts at the present: it
//! neither saves up nor owes.
//!
//! Promises, each a property tested against a model that sorts everything anew each time:
//! - While a waiter at the head of a lane of weight `w` could be admitted, any other lane of weight
//!   `v` is admitted at most `ceil(v / w) + 1` times before it.
//! - Within a lane the order is that of joining. Each step of priority overtakes at most
//!   [`Priority::STEP`] earlier waiters, and only those of the same lane.
//! - However much one lane brings, it takes no room from those that have less than their share of it:
//!   where no more may wait, the last of the longest lane gives way.
//! - A lane that is blocked, or all of them, comes back as soon as it is told that a place is free.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use stacyvm_types::OwnerId;

/// One waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Whose turn it is shared between.
pub type Lane = Option<OwnerId>;

/// A lane's share against the others': 1 to 100, 1 unless it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(u8);

/// How urgent a waiter is among those of its own lane: 0 to 9, 0 unless it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Priority(u8);

/// What keeps a waiter from being admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The lane has all the places that it may have.
    Lane,
    /// There is no place for anybody.
    All,
}

/// Virtual time that one admission costs a lane of weight 1: large, so that a division by a weight
/// loses nothing that counts.
const COST: u128 = 1 << 40;

impl Weight {
    /// The largest.
    pub const MAX: u8 = 100;

    /// A weight from 1 to 100.
    pub const fn new(weight: u8) -> Option<Self> {
        if 1 <= weight && weight <= Self::MAX { Some(Self(weight)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl Priority {
    /// The most urgent.
    pub const MAX: u8 = 9;
    /// How many earlier waiters of its lane one step overtakes at most.
    pub const STEP: u64 = 16;

    /// A priority from 0 to 9.
    pub const fn new(priority: u8) -> Option<Self> {
        if priority <= Self::MAX { Some(Self(priority)) } else { None }
    }
}

/// Those that wait.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    lanes: BTreeMap<Lane, Waiting>,
    /// Lanes whose head could be admitted, by virtual start, then by the age of their head.
    ready: BTreeSet<(u128, u64, Lane)>,
    /// Lanes that nobody waits in, and that have had more than their share.
    ahead: BTreeSet<(u128, Lane)>,
    /// Lanes that somebody waits in, by how many do for their weight.
    longest: BTreeSet<(u128, Lane)>,
    /// The place of each waiter in its lane.
    places: HashMap<Ticket, (Lane, Place)>,
    /// The virtual start of the waiter that was admitted last.
    present: u128,
    joined: u64,
    full: bool,
}

/// Rank in the lane, then age in the queue.
type Place = (u64, u64);

#[derive(Debug, Clone, Default)]
struct Waiting {
    places: BTreeMap<Place, Ticket>,
    /// How many ever joined.
    joined: u64,
    start: u128,
    weight: Weight,
    blocked: bool,
    /// The entry in `ready`, if there is one.
    ready: Option<(u128, u64)>,
    /// The entry in `longest`, if there is one.
    share: Option<u128>,
}

/// How many wait for one of weight 1, in parts of [`COST`].
fn share(waiters: usize, weight: Weight) -> u128 {
    waiters as u128 * COST / u128::from(weight.0)
}

impl Queue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many wait in this lane.
    pub fn len_of(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).map_or(0, |waiting| waiting.places.len())
    }

    /// Lets a waiter join its lane. The lane takes over the weight. A ticket joins once.
    pub fn join(&mut self, ticket: Ticket, lane: Lane, weight: Weight, priority: Priority) {
        self.joined += 1;
        let age = self.joined;
        // Ranks are spread so that a step of priority is that many ranks, and none is below zero.
        let head_start = u64::from(priority.0) * Priority::STEP;
        let floor = u64::from(Priority::MAX) * Priority::STEP;
        let waiting = self.lanes.entry(lane.clone()).or_default();
        waiting.joined += 1;
        let place = (waiting.joined + floor - head_start, age);
        if waiting.places.is_empty() {
            self.ahead.remove(&(waiting.start, lane.clone()));
            waiting.start = waiting.start.max(self.present);
        }
        waiting.weight = weight;
        waiting.places.insert(place, ticket);
        self.places.insert(ticket, (lane.clone(), place));
        self.settle(&lane);
    }

    /// Whether somebody of this lane could take a place at once and overtake nobody: whoever waits
    /// does so for a limit of its own lane, and that is another lane.
    pub fn is_open_to(&self, lane: &Lane) -> bool {
        !self.full && self.ready.is_empty() && self.len_of(lane) == 0
    }

    /// Who gives way to a newcomer of this lane where no more may wait: the last of the lane that has
    /// most waiters for its weight. `None` when that lane has no more than the newcomer's would.
    pub fn gives_way(&self, lane: &Lane, weight: Weight) -> Option<Ticket> {
        let (most, longest) = self.longest.last()?;
        let (_, last) = self.lanes.get(longest)?.places.last_key_value()?;
        (share(self.len_of(lane) + 1, weight) < *most).then_some(*last)
    }

    /// Who is next; `None` when nobody could be admitted as far as is known.
    pub fn next(&self) -> Option<Ticket> {
        let (_, _, lane) = self.ready.first().filter(|_| !self.full)?;
        self.lanes.get(lane)?.places.first_key_value().map(|(_, ticket)| *ticket)
    }

    /// A waiter was admitted: it leaves, and its lane has had a turn.
    pub fn admitted(&mut self, ticket: Ticket) {
        let Some(lane) = self.take(ticket) else { return };
        if let Some(waiting) = self.lanes.get_mut(&lane) {
            self.present = self.present.max(waiting.start);
            waiting.start += COST / u128::from(waiting.weight.0);
        }
        self.settle(&lane);
        self.forget();
    }

    /// A waiter leaves without a turn. Whether it was there.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(lane) = self.take(ticket) else { return false };
        self.settle(&lane);
        self.forget();
        true
    }

    /// A waiter could not be admitted.
    pub fn block(&mut self, ticket: Ticket, what: Blocked) {
        match what {
            Blocked::All => self.full = true,
            Blocked::Lane => {
                let Some((lane, _)) = self.places.get(&ticket) else { return };
                let lane = lane.clone();
                if let Some(waiting) = self.lanes.get_mut(&lane) {
                    waiting.blocked = true;
                }
                self.settle(&lane);
            }
        }
    }

    /// A place became free that this lane had.
    pub fn freed(&mut self, lane: &Lane) {
        self.full = false;
        self.unblock(lane);
    }

    /// Places may have become free, or limits may have changed: nothing that was known holds.
    pub fn unblock_all(&mut self) {
        self.full = false;
        let blocked = |(lane, waiting): (&Lane, &Waiting)| waiting.blocked.then(|| lane.clone());
        for lane in self.lanes.iter().filter_map(blocked).collect::<Vec<_>>() {
            self.unblock(&lane);
        }
    }

    /// How many would be admitted before a waiter that joined now, if places became free one by one
    /// and nobody else joined.
    pub fn ahead_of(&self, lane: &Lane, weight: Weight, priority: Priority) -> usize {
        let newcomer = Ticket(u64::MAX);
        let mut future = self.clone();
        future.unblock_all();
        future.join(newcomer, lane.clone(), weight, priority);
        let mut admitted = 0;
        while let Some(ticket) = future.next().filter(|ticket| *ticket != newcomer) {
            future.admitted(ticket);
            admitted += 1;
        }
        admitted
    }

    fn unblock(&mut self, lane: &Lane) {
        let Some(waiting) = self.lanes.get_mut(lane).filter(|waiting| waiting.blocked) else {
            return;
        };
        waiting.blocked = false;
        // It could not have used a turn meanwhile, so it has none to make up for.
        waiting.start = waiting.start.max(self.present);
        self.settle(lane);
    }

    fn take(&mut self, ticket: Ticket) -> Option<Lane> {
        let (lane, place) = self.places.remove(&ticket)?;
        if let Some(waiting) = self.lanes.get_mut(&lane) {
            waiting.places.remove(&place);
        }
        Some(lane)
    }

    /// Makes the lane's entries in `ready`, `ahead` and `longest` what they should be.
    fn settle(&mut self, lane: &Lane) {
        let Some(waiting) = self.lanes.get_mut(lane) else { return };
        if let Some((start, age)) = waiting.ready.take() {
            self.ready.remove(&(start, age, lane.clone()));
        }
        if let Some(share) = waiting.share.take() {
            self.longest.remove(&(share, lane.clone()));
        }
        if !waiting.places.is_empty() {
            let share = share(waiting.places.len(), waiting.weight);
            waiting.share = Some(share);
            self.longest.insert((share, lane.clone()));
        }
        match waiting.places.first_key_value() {
            Some(((_, age), _)) if !waiting.blocked => {
                waiting.ready = Some((waiting.start, *age));
                self.ready.insert((waiting.start, *age, lane.clone()));
            }
            Some(_) => {}
            None => _ = self.ahead.insert((waiting.start, lane.clone())),
        }
    }

    /// Forgets lanes that nobody waits in and that are not ahead of the present: those who come
    /// back to them start at the present all the same.
    fn forget(&mut self) {
        if self.places.is_empty() {
            // Whoever comes next asks for itself: nobody tells a queue without waiters what is free.
            *self = Self { joined: self.joined, ..Self::default() };
        }
        while self.ahead.first().is_some_and(|(start, _)| *start <= self.present) {
            if let Some((_, lane)) = self.ahead.pop_first() {
                self.lanes.remove(&lane);
            }
        }
    }
}
