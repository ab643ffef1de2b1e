//! The fencing journal: the highest generation seen for each sandbox.
//!
//! An append-only text (a file, see [`crate::ledger`]), one line per change: `+ <sandbox>
//! <generation>` when a higher one is seen, `- <sandbox>` when the runtime is gone. It is compacted
//! when it is mostly history. Lines are written before the call that they guard goes on. They are not flushed to the disk: a file
//! that was written survives the death of the process, and a death of the whole host takes every
//! runtime with it, so that there is nothing left to guard.
//!
//! What is gone stays remembered for [`GRAVE`], longer than any call may be under way, also after a
//! restart: a late call of an old owner cannot bring a sandbox back.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use stacyvm_provider::{Error, ErrorKind, Result};
use stacyvm_types::{Generation, SandboxId, Seen, Verdict};
use tokio::time::Instant;

use crate::ledger::Ledger;

/// Lines of history that are not worth a compaction.
const SLACK: usize = 4096;
/// How long a sandbox that is gone is remembered.
const GRAVE: Duration = Duration::from_secs(180);

/// Why a record of the worker cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the worker's record {name} cannot be opened")]
pub struct OpenError {
    name: String,
    #[source]
    source: io::Error,
}

impl OpenError {
    pub(crate) fn new(ledger: &dyn Ledger, source: io::Error) -> Self {
        Self { name: ledger.name(), source }
    }
}

/// The journal.
pub(crate) struct Journal(Mutex<State>);

struct State {
    ledger: Box<dyn Ledger>,
    lines: usize,
    seen: Known,
    dug: VecDeque<(Instant, SandboxId)>,
}

/// The highest generations, of what lives and of what is gone.
#[derive(Default)]
struct Known {
    live: BTreeMap<SandboxId, Generation>,
    graves: BTreeMap<SandboxId, Generation>,
}

impl Known {
    /// The lines of the shortest text that says it.
    fn lines(&self) -> usize {
        self.live.len() + 2 * self.graves.len()
    }
}

impl Journal {
    /// Opens the journal that a ledger keeps.
    pub(crate) fn open(mut ledger: Box<dyn Ledger>) -> std::result::Result<Self, OpenError> {
        let seen = ledger.read().map(|text| replay(&text));
        match seen.and_then(|seen| ledger.replace(&shortest(&seen)).map(|()| seen)) {
            Ok(seen) => {
                let lines = seen.lines();
                // When they were dug was not written down: no later than now.
                let dug = seen.graves.keys().map(|id| (Instant::now(), id.clone())).collect();
                Ok(Self(Mutex::new(State { ledger, lines, seen, dug })))
            }
            Err(source) => Err(OpenError::new(&*ledger, source)),
        }
    }

    /// Refuses a generation below the highest seen; remembers a higher one before it returns.
    pub(crate) fn admit(&self, id: &SandboxId, generation: Generation) -> Result<()> {
        self.lock().admit(id, generation, Seen::judge).map(|_| ())
    }

    /// As [`Journal::admit`], for a launch: a sandbox that is gone is not brought back by a launch
    /// that was late or sent twice. Whether it is the first call of its generation.
    pub(crate) fn admit_launch(&self, id: &SandboxId, generation: Generation) -> Result<bool> {
        self.lock().admit(id, generation, Seen::judge_launch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest generation seen for a sandbox.
    pub(crate) fn highest(&self, id: &SandboxId) -> Option<Generation> {
        self.lock().seen(id).highest()
    }

    /// The runtime is gone.
    pub(crate) fn bury(&self, id: &SandboxId) {
        if let Err(error) = self.lock().bury(id) {
            // Only a line of history is missing: the next start remembers one sandbox too many.
            tracing::warn!(sandbox.id = %id, %error, "the fencing journal could not be shortened");
        }
    }

    /// Everything that is remembered as living.
    pub(crate) fn living(&self) -> BTreeSet<SandboxId> {
        self.lock().seen.live.keys().cloned().collect()
    }
}

impl State {
    fn seen(&self, id: &SandboxId) -> Seen {
        Seen { live: self.seen.live.get(id).copied(), gone: self.seen.graves.get(id).copied() }
    }

    fn admit(
        &mut self,
        id: &SandboxId,
        generation: Generation,
        judge: fn(Seen, Generation) -> Verdict,
    ) -> Result<bool> {
        let fenced = |why| Err(Error::new(ErrorKind::Fenced, format!("sandbox {id} {why}")));
        match judge(self.seen(id), generation) {
            Verdict::Stale => fenced("has a newer owner"),
            Verdict::Ended => fenced("has ended on this worker"),
            Verdict::Known => Ok(false),
            Verdict::Newer => self.raise(id, generation).map(|()| true).map_err(|error| {
                let kind = match error.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        ErrorKind::DiskFull
                    }
                    _ => ErrorKind::Unavailable,
                };
                Error::new(kind, "the worker cannot record who owns the sandbox").because(error)
            }),
        }
    }

    fn raise(&mut self, id: &SandboxId, generation: Generation) -> io::Result<()> {
        self.append(&format!("+ {id} {}\n", generation.0))?;
        self.seen.live.insert(id.clone(), generation);
        if SLACK + 2 * self.seen.lines() <= self.lines
            && let Err(error) = self.compact()
        {
            // The long file says the same; the next line tries again.
            tracing::warn!(%error, "the fencing journal could not be compacted");
        }
        Ok(())
    }

    fn bury(&mut self, id: &SandboxId) -> io::Result<()> {
        let now = Instant::now();
        while let Some((dug, old)) = self.dug.front()
            && GRAVE <= now.duration_since(*dug)
        {
            self.seen.graves.remove(old);
            self.dug.pop_front();
        }
        let Some(generation) = self.seen.live.remove(id) else { return Ok(()) };
        self.seen.graves.insert(id.clone(), generation);
        self.dug.push_back((now, id.clone()));
        self.append(&format!("- {id}\n"))
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.lines += 1;
        self.ledger.append(line)
    }

    fn compact(&mut self) -> io::Result<()> {
        self.ledger.replace(&shortest(&self.seen))?;
        self.lines = self.seen.lines();
        Ok(())
    }
}

/// The state after all lines. A line that is not whole was cut by the death of the process before
/// its call went on, so it guards nothing.
fn replay(text: &str) -> Known {
    let mut seen = Known::default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut words = line.split(' ');
        let (sign, id) = (words.next(), words.next().and_then(|id| SandboxId::parse(id).ok()));
        let generation = words.next().and_then(|word| word.parse().ok()).map(Generation);
        match (sign, id, generation) {
            (Some("+"), Some(id), Some(generation)) => {
                let highest = seen.live.entry(id).or_insert(generation);
                *highest = generation.max(*highest);
            }
            (Some("-"), Some(id), None) => {
                if let Some(generation) = seen.live.remove(&id) {
                    seen.graves.insert(id, generation);
                }
            }
            _ => tracing::warn!(line, "a line of the fencing journal is not understood"),
        }
    }
    seen
}

/// The shortest text that says the same.
fn shortest(seen: &Known) -> String {
    let line = |(id, generation): (&SandboxId, &Generation)| format!("+ {id} {}\n", generation.0);
    let live: String = seen.live.iter().map(line).collect();
    seen.graves.iter().fold(live, |text, grave| text + &line(grave) + &format!("- {}\n", grave.0))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::Write,
        path::Path,
    };

    use super::*;
    use crate::ledger::Ledgers;

    fn open(dir: &Path) -> std::result::Result<Journal, OpenError> {
        Journal::open(Ledgers::in_dir(dir).generations)
    }

    fn id(n: u8) -> SandboxId {
        SandboxId::from_entropy([n; 10])
    }

    fn is_fenced<T>(result: &Result<T>) -> bool {
        matches!(result, Err(error) if error.kind == ErrorKind::Fenced)
    }

    #[test]
    fn a_stale_generation_is_fenced_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path()).unwrap();
        for generation in [1, 1, 3, 3] {
            journal.admit(&id(1), Generation(generation)).unwrap();
        }
        assert!(is_fenced(&journal.admit(&id(1), Generation(2))));
        drop(journal);
        let journal = open(dir.path()).unwrap();
        assert!(is_fenced(&journal.admit(&id(1), Generation(2))));
        assert_eq!(journal.highest(&id(1)), Some(Generation(3)));
        journal.admit(&id(2), Generation(1)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_sandbox_that_is_gone_is_fenced_for_a_while_and_then_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path()).unwrap();
        journal.admit(&id(1), Generation(2)).unwrap();
        journal.bury(&id(1));
        assert!(is_fenced(&journal.admit(&id(1), Generation(1))));
        tokio::time::advance(GRAVE).await;
        journal.admit(&id(2), Generation(1)).unwrap();
        journal.bury(&id(2));
        assert_eq!(journal.highest(&id(1)), None);
        assert!(journal.living().is_empty());
        drop(journal);
        assert!(open(dir.path()).unwrap().living().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_fenced_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path()).unwrap();
        journal.admit(&id(1), Generation(2)).unwrap();
        journal.bury(&id(1));
        for _ in 0..2 {
            let journal = open(dir.path()).unwrap();
            assert!(is_fenced(&journal.admit_launch(&id(1), Generation(2))));
            assert!(journal.living().is_empty());
        }
    }

    #[test]
    fn the_file_stays_short_and_a_torn_last_line_is_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path()).unwrap();
        journal.admit(&id(9), Generation(7)).unwrap();
        for _ in 0..3 * SLACK {
            journal.admit(&id(1), Generation(1)).unwrap();
            journal.bury(&id(1));
            journal.lock().seen.graves.clear();
        }
        let path = dir.path().join("generations.log");
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= SLACK + 3, "{lines}");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(format!("+ {} 1", id(2)).as_bytes()).unwrap();
        let journal = open(dir.path()).unwrap();
        assert_eq!(journal.living(), BTreeSet::from([id(9)]));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = open(&file).err().unwrap();
        assert!(error.to_string().contains("generations.log"));
    }
}
