//! When each sandbox ends by itself.
//!
//! Kept as the fencing journal is: an append-only text file, written before the call that it
//! belongs to goes on and not flushed to the disk, because the death of the host ends every
//! runtime. `+ <sandbox> <provider> <microseconds since 1970>` sets a deadline, `- <sandbox>`
//! forgets it. It is compacted when it is mostly history.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::{SandboxId, Timestamp};
use tokio::sync::Notify;

use crate::{OpenError, ledger::Ledger};

/// Lines of history that are not worth a compaction.
const SLACK: usize = 4096;

/// The deadlines of one worker.
pub(crate) struct Deadlines {
    state: Mutex<State>,
    /// Told when there is a deadline.
    added: Notify,
}

struct Deadline {
    provider: String,
    at: Timestamp,
}

struct State {
    ledger: Box<dyn Ledger>,
    lines: usize,
    by_id: BTreeMap<SandboxId, Deadline>,
    by_time: BTreeSet<(Timestamp, SandboxId)>,
}

impl Deadlines {
    /// Opens the record that a ledger keeps.
    pub(crate) fn open(mut ledger: Box<dyn Ledger>) -> std::result::Result<Self, OpenError> {
        let by_id = ledger.read().map(|text| replay(&text));
        match by_id.and_then(|by_id| ledger.replace(&shortest(&by_id)).map(|()| by_id)) {
            Ok(by_id) => {
                let by_time =
                    by_id.iter().map(|(id, deadline)| (deadline.at, id.clone())).collect();
                let lines = by_id.len();
                let state = Mutex::new(State { ledger, lines, by_id, by_time });
                Ok(Self { state, added: Notify::new() })
            }
            Err(source) => Err(OpenError::new(&*ledger, source)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a deadline away, never nearer; remembers it before it returns.
    pub(crate) fn set(&self, id: &SandboxId, provider: &str, at: Timestamp) -> Result<()> {
        let mut state = self.lock();
        if state.by_id.get(id).is_some_and(|known| at <= known.at) {
            return Ok(());
        }
        state.set(id, Deadline { provider: provider.to_owned(), at }).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "the worker cannot record when the sandbox ends").because(error)
        })?;
        drop(state);
        self.added.notify_waiters();
        Ok(())
    }

    /// Whether a sandbox has a deadline.
    pub(crate) fn knows(&self, id: &SandboxId) -> bool {
        self.lock().by_id.contains_key(id)
    }

    /// The sandbox is gone, or was never there.
    pub(crate) fn forget(&self, id: &SandboxId) {
        if let Err(error) = self.lock().forget(id) {
            // Only a line of history is missing: the next start ends one sandbox that is not there.
            tracing::warn!(sandbox.id = %id, %error, "the deadlines could not be shortened");
        }
    }

    /// At most so many of a provider's whose deadline is at `now` or before, the earliest first.
    pub(crate) fn due(&self, provider: &str, now: Timestamp, most: usize) -> Vec<SandboxId> {
        let state = self.lock();
        let due = state.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| id);
        let is_its = |id: &&SandboxId| state.by_id.get(*id).is_some_and(|d| d.provider == provider);
        due.filter(is_its).take(most).cloned().collect()
    }

    /// Waits until there is a deadline at all.
    pub(crate) async fn any(&self) {
        loop {
            let mut added = pin!(self.added.notified());
            added.as_mut().enable();
            if !self.lock().by_id.is_empty() {
                return;
            }
            added.await;
        }
    }
}

impl State {
    fn set(&mut self, id: &SandboxId, deadline: Deadline) -> io::Result<()> {
        self.append(&format!("+ {id} {} {}\n", deadline.provider, deadline.at.as_micros()))?;
        self.by_time.insert((deadline.at, id.clone()));
        if let Some(old) = self.by_id.insert(id.clone(), deadline) {
            self.by_time.remove(&(old.at, id.clone()));
        }
        if SLACK + 2 * self.by_id.len() <= self.lines
            && let Err(error) = self.compact()
        {
            // The long file says the same; the next line tries again.
            tracing::warn!(%error, "the deadlines could not be compacted");
        }
        Ok(())
    }

    fn forget(&mut self, id: &SandboxId) -> io::Result<()> {
        let Some(old) = self.by_id.remove(id) else { return Ok(()) };
        self.by_time.remove(&(old.at, id.clone()));
        self.append(&format!("- {id}\n"))
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.lines += 1;
        self.ledger.append(line)
    }

    fn compact(&mut self) -> io::Result<()> {
        self.ledger.replace(&shortest(&self.by_id))?;
        self.lines = self.by_id.len();
        Ok(())
    }
}

/// The state after all lines. A line that is not whole belongs to a call that never went on.
fn replay(text: &str) -> BTreeMap<SandboxId, Deadline> {
    let mut by_id = BTreeMap::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<_> = line.split(' ').collect();
        match (&words[..], words.get(1).and_then(|id| SandboxId::parse(id).ok())) {
            (["+", _, provider, at], Some(id)) if at.parse::<i64>().is_ok() => {
                let at = Timestamp::from_micros(at.parse().unwrap_or_default());
                by_id.insert(id, Deadline { provider: (*provider).to_owned(), at });
            }
            (["-", _], Some(id)) => {
                by_id.remove(&id);
            }
            _ => tracing::warn!(line, "a line of the deadlines is not understood"),
        }
    }
    by_id
}

/// The shortest text that says the same.
fn shortest(by_id: &BTreeMap<SandboxId, Deadline>) -> String {
    let line = |(id, deadline): (&SandboxId, &Deadline)| {
        format!("+ {id} {} {}\n", deadline.provider, deadline.at.as_micros())
    };
    by_id.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::Write as _,
    };

    use super::*;
    use crate::ledger::Ledgers;

    fn id(n: u8) -> SandboxId {
        SandboxId::from_entropy([n; 10])
    }

    fn opened(dir: &tempfile::TempDir) -> Deadlines {
        Deadlines::open(Ledgers::in_dir(dir.path()).deadlines).unwrap()
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn due(deadlines: &Deadlines, now: i64) -> Vec<SandboxId> {
        deadlines.due("mock", at(now), 10)
    }

    #[test]
    fn the_earliest_are_due_first_and_a_restart_forgets_none() {
        let dir = tempfile::tempdir().unwrap();
        let deadlines = opened(&dir);
        for (n, micros) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
            deadlines.set(&id(n), "mock", at(micros)).unwrap();
        }
        deadlines.forget(&id(3));
        assert_eq!(due(&deadlines, 30), [id(2), id(1)]);
        drop(deadlines);
        let deadlines = opened(&dir);
        assert_eq!(due(&deadlines, 30), [id(2), id(1)]);
        assert!(due(&deadlines, 9).is_empty());
        assert_eq!(deadlines.due("mock", at(40), 1), [id(2)]);
        assert!(deadlines.due("native", at(40), 1).is_empty());
    }

    #[test]
    fn a_deadline_only_moves_away() {
        let dir = tempfile::tempdir().unwrap();
        let deadlines = opened(&dir);
        for micros in [20, 50, 30] {
            deadlines.set(&id(1), "mock", at(micros)).unwrap();
        }
        assert!(due(&deadlines, 49).is_empty());
        assert_eq!(due(&deadlines, 50), [id(1)]);
    }

    #[test]
    fn the_file_stays_short_and_a_torn_line_is_no_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let deadlines = opened(&dir);
        deadlines.set(&id(9), "mock", at(7)).unwrap();
        for _ in 0..3 * SLACK {
            deadlines.set(&id(1), "mock", at(1)).unwrap();
            deadlines.forget(&id(1));
        }
        let path = dir.path().join("deadlines.log");
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= SLACK + 3, "{lines}");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(format!("+ {} mock 1", id(2)).as_bytes()).unwrap();
        // What could not be written, and what was written after it.
        file.write_all(format!("7?\n+ {} mock 50\n?\n", id(3)).as_bytes()).unwrap();
        let deadlines = opened(&dir);
        assert_eq!(due(&deadlines, 100), [id(9), id(3)]);
    }
}
