//! What happened, and what of it must not have.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use stacyvm_types::Timestamp;

/// More violations than these say nothing new.
const MOST: usize = 50;

/// A sandbox that a client was told of.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) owner: String,
    /// Its destruction was asked for.
    pub(crate) unwanted: bool,
    /// Its destruction was acknowledged.
    pub(crate) destroyed: bool,
    /// Until when it was said to live.
    until: Timestamp,
    /// The earliest deadline among those that were asked for without an answer: they may hold, and
    /// they may come after one that was answered.
    unanswered: Timestamp,
}

impl Told {
    /// Before this it has no right to end by itself.
    pub(crate) fn promised(&self) -> Timestamp {
        self.until.min(self.unanswered)
    }
}

/// The history of a run.
pub(crate) struct History {
    began: Instant,
    log: Mutex<File>,
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
    told: Mutex<BTreeMap<String, Told>>,
    times: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
    /// Since when somebody waits for the first success.
    awaited: Mutex<Option<Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// An empty one that is written down in a file.
    pub(crate) fn new(file: &Path) -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            log: Mutex::new(File::create(file)?),
            violations: Mutex::default(),
            counts: Mutex::default(),
            told: Mutex::default(),
            times: Mutex::default(),
            awaited: Mutex::default(),
        })
    }

    /// Writes something down.
    pub(crate) fn note(&self, what: &str) {
        let at = self.began.elapsed().as_secs_f64();
        let _full = writeln!(lock(&self.log), "{at:9.3} {what}");
    }

    /// Something happened that must not.
    pub(crate) fn violated(&self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        let mut violations = lock(&self.violations);
        if violations.len() < MOST && !violations.contains(&what) {
            eprintln!("chaos: VIOLATION at {:.3} s: {what}", self.began.elapsed().as_secs_f64());
            violations.push(what);
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub(crate) fn count(&self, what: &str) {
        *lock(&self.counts).entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn counted(&self, what: &str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or_default()
    }

    /// A client was told that this sandbox was made.
    pub(crate) fn spawned(&self, id: &str, owner: &str, until: Timestamp) {
        let told = Told {
            owner: owner.to_owned(),
            unwanted: false,
            destroyed: false,
            until,
            unanswered: Timestamp::MAX,
        };
        lock(&self.told).insert(id.to_owned(), told);
    }

    /// A client was told that it lives until then now.
    pub(crate) fn extended(&self, id: &str, until: Timestamp) {
        self.change(id, |told| told.until = until);
    }

    /// A client asked for this deadline, or a later one, and does not know whether it got it.
    pub(crate) fn perhaps_extended(&self, id: &str, until: Timestamp) {
        self.change(id, |told| told.unanswered = told.unanswered.min(until));
    }

    /// A client asks for its end.
    pub(crate) fn unwanted(&self, id: &str) {
        self.change(id, |told| told.unwanted = true);
    }

    /// A client was told that it was destroyed.
    pub(crate) fn destroyed(&self, id: &str) {
        self.change(id, |told| told.destroyed = true);
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Told)) {
        if let Some(told) = lock(&self.told).get_mut(id) {
            change(told);
        }
    }

    pub(crate) fn told(&self) -> BTreeMap<String, Told> {
        lock(&self.told).clone()
    }

    /// There were so many of something.
    pub(crate) fn held(&self, what: &str, number: usize) {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        lock(&self.counts).insert(what.to_owned(), number);
    }

    /// Something took a time.
    pub(crate) fn took(&self, what: &'static str, time: Duration) {
        self.note(&format!("{what}: {} ms", time.as_millis()));
        lock(&self.times).entry(what).or_default().push(time);
    }

    /// From now on the first success is waited for.
    pub(crate) fn await_success(&self) {
        *lock(&self.awaited) = Some(Instant::now());
    }

    /// A request that needs the store, and began then, succeeded.
    pub(crate) fn succeeded(&self) {
        let awaited = lock(&self.awaited).take();
        if let Some(since) = awaited {
            self.took("from Postgres accepting connections to the first success", since.elapsed());
        }
    }

    /// What was counted and how long things took, for people.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (what, count) in lock(&self.counts).iter() {
            text.push_str(&format!("  {count:7} {what}\n"));
        }
        for (what, times) in lock(&self.times).iter_mut() {
            times.sort_unstable();
            let middle = times.get(times.len() / 2).copied().unwrap_or_default().as_millis();
            let last = times.last().copied().unwrap_or_default().as_millis();
            text.push_str(&format!(
                "  {what}: {} times, half of them within {middle} ms, all within {last} ms\n",
                times.len()
            ));
        }
        text
    }
}
