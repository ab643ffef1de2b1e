//! Rows that were written last, so that reading one of them asks no database.
//!
//! Only the writer's thread puts rows in: it forgets a row before a call may change it, and learns
//! it again when the commit of that call has succeeded and before any call of it is answered. In
//! between, and when the commit failed or nobody knows, the file is read. So no row is answered from
//! here that was not committed, and none that is older than what the file shows.
//! It holds for a file that no other process writes, as is the case for the store.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use stacyvm_store::Sandbox;
use stacyvm_types::SandboxId;

/// Rows that are kept at most; those that were written longest ago give way.
const ROWS: usize = 10_000;
/// Rows whose texts are longer are not kept, so that all of them together are bounded too.
const LONGEST: usize = 4 << 10;

/// The rows.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    by_id: HashMap<SandboxId, (u64, Arc<Sandbox>)>,
    /// By the order in which they were written.
    by_age: BTreeMap<u64, SandboxId>,
    written: u64,
}

impl Recent {
    /// The row as the last commit left it, if that is known here.
    pub(super) fn get(&self, id: &SandboxId) -> Option<Sandbox> {
        let row = self.rows().by_id.get(id).map(|(_, row)| row.clone());
        row.map(Arc::unwrap_or_clone)
    }

    /// The row may change: it is read from the file until it is known again.
    pub(super) fn forget(&self, id: &SandboxId) {
        self.rows().remove(id);
    }

    /// These rows were committed together, in this order; nobody sees one of them without the
    /// next. `None` is a row that changed and was not read.
    pub(super) fn learn<'r>(
        &self,
        changes: impl Iterator<Item = (&'r SandboxId, Option<&'r Sandbox>)>,
    ) {
        let mut rows = self.rows();
        for (id, row) in changes {
            rows.remove(id);
            // One that has ended is of no more use here.
            if let Some(row) = row.filter(|row| row.phase.is_live() && length(row) <= LONGEST) {
                rows.put(row.clone());
            }
        }
    }

    /// Nothing in here can panic between two changes that belong together.
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn put(&mut self, row: Sandbox) {
        if ROWS <= self.by_id.len()
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_id.remove(&oldest);
        }
        self.written += 1;
        self.by_age.insert(self.written, row.spec.id.clone());
        self.by_id.insert(row.spec.id.clone(), (self.written, Arc::new(row)));
    }

    fn remove(&mut self, id: &SandboxId) {
        if let Some((age, _)) = self.by_id.remove(id) {
            self.by_age.remove(&age);
        }
    }
}

/// The bytes of the texts whose length is the client's choice.
fn length(row: &Sandbox) -> usize {
    let spec = &row.spec;
    let pairs = spec.metadata.iter().chain(&spec.env);
    let cause = row.phase.cause().map_or(0, |cause| cause.detail.len());
    pairs.map(|(key, value)| key.len() + value.len()).sum::<usize>() + spec.image.len() + cause
}

#[cfg(test)]
mod tests {
    use stacyvm_store::{Sandbox, contract};
    use stacyvm_types::{CauseKind, Phase, SandboxId};

    use super::{LONGEST, ROWS, Recent};

    fn row(number: u32) -> Sandbox {
        let mut spec = contract::new_sandbox(0, contract::at(100));
        let mut entropy = [0; 10];
        entropy[..4].copy_from_slice(&number.to_be_bytes());
        spec.id = SandboxId::from_entropy(entropy);
        let at = contract::at(0);
        let generation = contract::FIRST;
        Sandbox {
            latest_end: spec.expires_at,
            spec,
            phase: Phase::Creating,
            generation,
            version: 1,
            created_at: at,
            updated_at: at,
        }
    }

    impl Recent {
        fn know(&self, row: &Sandbox) {
            self.learn([(&row.spec.id, Some(row))].into_iter());
        }
    }

    #[test]
    fn a_row_that_changed_unread_after_it_was_learnt_is_not_known() {
        let recent = Recent::default();
        let (one, two) = (row(1), row(2));
        let newer = Sandbox { version: 2, ..one.clone() };
        let id = &one.spec.id;
        recent
            .learn([(id, Some(&one)), (&two.spec.id, Some(&two)), (id, Some(&newer))].into_iter());
        assert_eq!(recent.get(id), Some(newer.clone()));
        recent.learn([(id, Some(&newer)), (id, None)].into_iter());
        assert_eq!(recent.get(id), None);
        assert_eq!(recent.get(&two.spec.id), Some(two));
    }

    #[test]
    fn the_rows_that_were_written_last_are_known() {
        let recent = Recent::default();
        let count = u32::try_from(ROWS).unwrap();
        for number in 0..count {
            recent.know(&row(number));
        }
        let again = Sandbox { version: 2, ..row(0) };
        recent.know(&again);
        recent.know(&row(count));
        assert_eq!(recent.get(&again.spec.id), Some(again));
        assert_eq!(recent.get(&row(1).spec.id), None, "the oldest");
        assert_eq!(recent.get(&row(count).spec.id), Some(row(count)));
        assert_eq!(recent.rows().by_id.len(), ROWS);
        assert_eq!(recent.rows().by_age.len(), ROWS);
        recent.forget(&row(2).spec.id);
        recent.forget(&row(2).spec.id);
        assert_eq!(recent.get(&row(2).spec.id), None);
        assert_eq!(recent.rows().by_age.len(), ROWS - 1);
    }

    #[test]
    fn long_rows_and_ended_ones_are_not_kept() {
        let recent = Recent::default();
        let mut long = row(1);
        long.spec.metadata.insert("k".to_owned(), "x".repeat(LONGEST));
        recent.know(&long);
        assert_eq!(recent.get(&long.spec.id), None);
        let ended = Phase::Ended(contract::cause(CauseKind::Requested));
        recent.know(&Sandbox { phase: ended, ..row(2) });
        assert_eq!(recent.get(&row(2).spec.id), None);
    }
}
