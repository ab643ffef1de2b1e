//! A value that is made from files, and made again when they change.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How often the files are looked at, at most.
const PERIOD: Duration = Duration::from_secs(1);
/// A file that was written less long ago may be written again within the same tick of the clock
/// that dates files, so that its date says nothing.
const TICK: Duration = Duration::from_secs(2);

/// How a value is made: from these files, by this reader. The reader's error is a sentence without
/// a secret in it.
pub struct Load<T> {
    /// The files that it is made from.
    pub files: Vec<PathBuf>,
    /// Makes it from what they hold now.
    pub read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
}

/// The value, and what it was made from. Whoever asks for it looks at the files too, at most once
/// in a while and never more than one at a time, so nothing has to run in the background.
pub(super) struct Watched<T> {
    /// What it is, for the log.
    name: &'static str,
    value: RwLock<Arc<T>>,
    look: Mutex<Look<T>>,
    period: Duration,
}

struct Look<T> {
    load: Option<Load<T>>,
    seen: Vec<Seen>,
    /// Whether what was seen may be another content by now although it looks the same.
    is_fresh: bool,
    at: Instant,
    /// Why the value is an old one, so that it is said once.
    wrong: Option<String>,
}

/// What tells one content of a file from another, or that there is none.
#[derive(Debug, PartialEq, Eq)]
struct Seen(Result<Stamp, io::ErrorKind>);

/// Every change of a file's content changes its `ctime`, which nobody can set.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    ctime: (i64, i64),
}

impl<T> Watched<T> {
    pub(super) fn new(name: &'static str, load: Load<T>) -> Result<Self, String> {
        // Looked at before they are read: a change in between is then a change.
        let (seen, is_fresh) = look_at(&load.files);
        let value = (load.read)()?;
        let look = Look { load: Some(load), seen, is_fresh, at: Instant::now(), wrong: None };
        Ok(Self::made(name, value, look))
    }

    pub(super) fn of(name: &'static str, value: T) -> Self {
        let at = Instant::now();
        let look = Look { load: None, seen: Vec::new(), is_fresh: false, at, wrong: None };
        Self::made(name, value, look)
    }

    fn made(name: &'static str, value: T, look: Look<T>) -> Self {
        let value = RwLock::new(Arc::new(value));
        Self { name, value, look: Mutex::new(look), period: PERIOD }
    }

    /// The value of the files as they are, or were a moment ago.
    pub(super) fn now(&self) -> Arc<T> {
        // Whoever finds somebody looking goes on with what there is.
        let look = match self.look.try_lock() {
            Ok(look) => Some(look),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(look) = look
            && self.period <= look.at.elapsed()
        {
            self.refresh(look);
        }
        self.value()
    }

    /// Looks at the files each time.
    #[cfg(test)]
    pub(super) const fn look_always(&mut self) {
        self.period = Duration::ZERO;
    }

    /// Makes the value in another way from now on; when that fails, nothing changes.
    pub(super) fn replace(&self, load: Load<T>) -> Result<(), String> {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, is_fresh) = look_at(&load.files);
        self.set((load.read)()?);
        *look = Look { load: Some(load), seen, is_fresh, at: Instant::now(), wrong: None };
        Ok(())
    }

    fn refresh(&self, mut look: MutexGuard<'_, Look<T>>) {
        let look = &mut *look;
        look.at = Instant::now();
        let Some(load) = &look.load else { return };
        let (seen, is_fresh) = look_at(&load.files);
        if seen == look.seen && !look.is_fresh {
            return;
        }
        let is_other = seen != look.seen;
        (look.seen, look.is_fresh) = (seen, is_fresh);
        match (load.read)() {
            Ok(value) => {
                self.set(value);
                if is_other || look.wrong.is_some() {
                    tracing::info!("{}: read again from changed files", self.name);
                }
                look.wrong = None;
            }
            Err(why) if look.wrong.as_ref() == Some(&why) => {}
            Err(why) => {
                tracing::error!("{}: the old ones stay: {why}", self.name);
                look.wrong = Some(why);
            }
        }
    }

    fn value(&self) -> Arc<T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, value: T) {
        *self.value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

/// What the files look like, and whether one of them was changed just now.
fn look_at(files: &[PathBuf]) -> (Vec<Seen>, bool) {
    let just_now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let just_now = just_now.saturating_sub(TICK);
    let mut is_fresh = false;
    let seen = files.iter().map(|path| {
        let seen = fs::metadata(path).map(|file| {
            is_fresh |= just_now.as_secs() < u64::try_from(file.ctime()).unwrap_or_default();
            let ctime = (file.ctime(), file.ctime_nsec());
            Stamp { dev: file.dev(), ino: file.ino(), size: file.len(), ctime }
        });
        Seen(seen.map_err(|error| error.kind()))
    });
    (seen.collect(), is_fresh)
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn text_of(path: &Path) -> Load<String> {
        let file = path.to_owned();
        let read = move || match fs::read_to_string(&file) {
            Ok(text) if text.is_empty() => Err("it is empty".to_owned()),
            Ok(text) => Ok(text),
            Err(error) => Err(error.kind().to_string()),
        };
        Load { files: vec![path.to_owned()], read: Box::new(read) }
    }

    fn watched(path: &Path) -> Watched<String> {
        let mut watched = Watched::new("test", text_of(path)).unwrap();
        watched.look_always();
        watched
    }

    #[test]
    fn a_changed_file_is_the_next_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "one").unwrap();
        let watched = watched(&path);
        assert_eq!(*watched.now(), "one");
        fs::write(&path, "two").unwrap();
        assert_eq!(*watched.now(), "two");
        // As most tools write: another file under the same name.
        fs::write(dir.path().join("next"), "six").unwrap();
        fs::rename(dir.path().join("next"), &path).unwrap();
        assert_eq!(*watched.now(), "six");
    }

    #[test]
    fn a_file_that_cannot_be_used_keeps_what_there_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert_eq!(Watched::new("test", text_of(&path)).unwrap_err(), "entity not found");
        fs::write(&path, "one").unwrap();
        let watched = watched(&path);
        fs::write(&path, "").unwrap();
        assert_eq!(*watched.now(), "one");
        fs::remove_file(&path).unwrap();
        assert_eq!(*watched.now(), "one");
        fs::write(&path, "two").unwrap();
        assert_eq!(*watched.now(), "two");
        assert_eq!(
            watched.replace(text_of(Path::new("/nonexistent"))).unwrap_err(),
            "entity not found"
        );
        assert_eq!(*watched.now(), "two");
    }

    #[test]
    fn what_does_not_change_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "one").unwrap();
        let watched = watched(&path);
        // The file is new, so it would be read once more.
        watched.look.lock().unwrap().is_fresh = false;
        let before = watched.now();
        assert!(Arc::ptr_eq(&before, &watched.now()));
    }

    #[test]
    fn files_are_looked_at_once_in_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "one").unwrap();
        let hourly = Duration::from_secs(3600);
        let watched = Watched { period: hourly, ..Watched::new("test", text_of(&path)).unwrap() };
        fs::write(&path, "two").unwrap();
        assert_eq!(*watched.now(), "one");
        watched.replace(text_of(&path)).unwrap();
        assert_eq!(*watched.now(), "two");
    }
}
