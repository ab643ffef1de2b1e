//! Which commands were started, for longer than they are remembered themselves: a command that is
//! asked for again after it was forgotten must not run a second time.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::limits::REMEMBERED_IDS;

/// The last ids that were started, as numbers: whoever makes two ids meet keeps a command of his own
/// from starting, and nothing else.
#[derive(Default)]
pub(crate) struct StartedIds(VecDeque<u64>);

impl StartedIds {
    /// Whether this id was started.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.0.contains(&number(id))
    }

    /// Remembers an id; the oldest one gives way.
    pub(crate) fn insert(&mut self, id: &str) {
        if REMEMBERED_IDS <= self.0.len() {
            self.0.pop_front();
        }
        self.0.push_back(number(id));
    }
}

fn number(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_known_and_the_oldest_gives_way() {
        let mut started = StartedIds::default();
        let ids: Vec<String> = (0..=REMEMBERED_IDS).map(|n| format!("ex-{n}")).collect();
        for id in &ids {
            assert!(!started.contains(id));
            started.insert(id);
        }
        assert!(!started.contains(&ids[0]));
        assert!(ids[1..].iter().all(|id| started.contains(id)));
    }
}
