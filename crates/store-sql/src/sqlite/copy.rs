//! Copies of a database file: made beside a running server, and put back without one.
//!
//! A copy is what `VACUUM INTO` writes from one read transaction: one plain file without a log, with
//! everything that was committed when it began and nothing that was deleted before. It grows under a
//! name of its own, is checked and synced, and gets its name last; so whoever finds a file under
//! that name finds a whole copy, however the copying process ended.

mod leftovers;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use stacyvm_types::Timestamp;

use self::leftovers::Presence;
use super::{
    inspect::{self, Report, check},
    open::{self, OpenError},
};
use crate::sql;

/// Names that are tried for a new file.
const TRIES: u32 = 1000;

/// What becomes of a file that is in the way of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and there is no backup.
    Keep,
    /// The backup takes its place.
    Replace,
}

/// A database that was put back.
#[derive(Debug)]
pub struct Restored {
    /// What it holds.
    pub report: Report,
    /// Where the one is that was there before, if there was one.
    pub replaced: Option<PathBuf>,
}

/// Why there is no copy. Each is a sentence for the person who asked for it.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file cannot be opened as a database of ours, or another server has it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file with the name of the backup is there already.
    #[error("{} exists: choose another name, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// The backup would take the place of the database, or of a file that belongs to it.
    #[error("{} is part of the database itself: choose another name", .0.display())]
    Own(PathBuf),
    /// A file cannot be written.
    #[error("{} cannot be written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database is not whole, so a copy of it would be worth nothing.
    #[error(
        "{} is not in order: {}; `stacyvm db check` says everything that is wrong",
        path.display(),
        problems.first().map_or("", String::as_str)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problems: Vec<String>,
    },
}

/// A file on its way to its name; removed unless it gets there.
struct Unnamed {
    path: PathBuf,
    kept: bool,
    _presence: Presence,
}

impl Unnamed {
    /// Makes an empty file beside `target`, for its owner only. What killed copies left there goes.
    fn beside(target: &Path) -> Result<Self, CopyError> {
        let presence = Presence::tidy(directory_of(target));
        for number in 0..TRIES {
            let path = with_suffix(target, &leftovers::suffix(number));
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            match made {
                Ok(_) => return Ok(Self { path, kept: false, _presence: presence }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(CopyError::File { path, source }),
            }
        }
        let source = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(CopyError::File { path: target.to_owned(), source })
    }

    fn sync(&self) -> Result<(), CopyError> {
        let synced = File::open(&self.path).and_then(|file| file.sync_all());
        synced.map_err(|source| CopyError::File { path: self.path.clone(), source })
    }

    /// Gives it its name.
    fn name(mut self, target: &Path, existing: Existing) -> Result<(), CopyError> {
        let file = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => CopyError::Exists(target.to_owned()),
            _ => CopyError::File { path: target.to_owned(), source },
        };
        match existing {
            Existing::Replace => fs::rename(&self.path, target).map_err(file)?,
            Existing::Keep => {
                let flags = RenameFlags::NOREPLACE;
                match renameat_with(CWD, &self.path, CWD, target, flags) {
                    // A file system that does not know the flag knows links.
                    Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                        fs::hard_link(&self.path, target).map_err(file)?;
                        fs::remove_file(&self.path).map_err(file)?;
                    }
                    renamed => renamed.map_err(|errno| file(errno.into()))?,
                }
            }
        }
        self.kept = true;
        sync_directory(target)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.kept {
            // It may be gone already; there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Copies the database in `from` to `to`, beside a running server or without one. The server goes on
/// meanwhile and its file is only read. Blocks as long as reading and writing all of it takes.
pub fn backup(from: &Path, to: &Path, existing: Existing) -> Result<Report, CopyError> {
    if is_part_of(from, to) {
        return Err(CopyError::Own(to.to_owned()));
    }
    if existing == Existing::Keep && to.symlink_metadata().is_ok() {
        return Err(CopyError::Exists(to.to_owned()));
    }
    let copy = Unnamed::beside(to)?;
    let report = copy_whole(from, &copy)?;
    copy.sync()?;
    copy.name(to, existing)?;
    Ok(report)
}

/// Whether a file that gets this name would take the place of the database, by any of its names, or
/// of what lies beside it.
fn is_part_of(database: &Path, name: &Path) -> bool {
    let Ok(name) = in_its_directory(name) else { return false };
    let own = [in_its_directory(database), fs::canonicalize(database)];
    own.into_iter().flatten().any(|own| {
        ["", "-wal", "-shm", "-lock", "-journal"].iter().any(|part| with_suffix(&own, part) == name)
    })
}

/// The path with the links in its directory resolved, and not itself.
fn in_its_directory(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else { return fs::canonicalize(path) };
    Ok(fs::canonicalize(directory_of(path))?.join(name))
}

/// Puts the database of the file `backup` in the place of the one in `path`, which no server may
/// have open. At every instant either the old or the new one is there. The old one is kept beside it
/// under a name that holds `now`. Ids of events go on above those of the old one, where it can be
/// read, so that nobody who follows them misses one.
pub fn restore(backup: &Path, path: &Path, now: Timestamp) -> Result<Restored, CopyError> {
    // What a link leads to is replaced, and not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_there = target.symlink_metadata().is_ok();
    let _lock = if is_there { Some(open::lock(&target)?) } else { None };
    let copy = Unnamed::beside(&target)?;
    let report = copy_whole(backup, &copy)?;
    if let Some(id) = highest_event_id(&target) {
        raise_event_ids(&copy.path, id)?;
    }
    copy.sync()?;
    let replaced = if is_there { Some(set_aside(&target, now)?) } else { None };
    copy.name(&target, Existing::Replace)?;
    Ok(Restored { report, replaced })
}

/// Fills an empty file with a database, and makes sure that it is a good one.
fn copy_whole(from: &Path, to: &Unnamed) -> Result<Report, CopyError> {
    let Some(name) = to.path.to_str() else {
        let source = io::Error::new(io::ErrorKind::InvalidFilename, "the name is not UTF-8");
        return Err(CopyError::File { path: to.path.clone(), source });
    };
    if let Err(error) = vacuum(from, name) {
        // A damaged database is told with what is wrong with it.
        let problems = check(from).map_or_else(|_| Vec::new(), |report| report.problems);
        return Err(match problems.is_empty() {
            true => error.into(),
            false => CopyError::Damaged { path: from.to_owned(), problems },
        });
    }
    let report = check(&to.path)?;
    if report.problems.is_empty() {
        return Ok(report);
    }
    Err(CopyError::Damaged { path: from.to_owned(), problems: report.problems })
}

fn vacuum(from: &Path, to: &str) -> Result<(), OpenError> {
    let source = inspect::reader(from)?;
    inspect::steps(&source, from)?;
    let copied = source.execute("VACUUM INTO ?1", [to]);
    copied.map(drop).map_err(|error| open::sql_error(from, error))
}

/// The highest id of an event that a database may have given out, if it can be read.
fn highest_event_id(path: &Path) -> Option<i64> {
    let connection = inspect::reader(path).ok()?;
    inspect::steps(&connection, path).ok()?;
    connection.query_row(sql::HIGHEST_EVENT_ID, [], |row| row.get(0)).ok()
}

fn raise_event_ids(path: &Path, id: i64) -> Result<(), CopyError> {
    let sql = |source| open::sql_error(path, source);
    let connection = alone(path).map_err(sql)?;
    connection.execute(sql::RAISE_EVENT_IDS, [id]).map_err(sql)?;
    Ok(())
}

/// Opens a file that nobody else has open.
fn alone(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Gives a database a second name, and its log, if it keeps one, with it.
fn set_aside(path: &Path, now: Timestamp) -> Result<PathBuf, CopyError> {
    // What the log holds goes to the main file, which is then all there is. One that is too damaged
    // for that keeps its log.
    let folded = alone(path).and_then(|connection| {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
    });
    if folded != Ok(0) {
        tracing::warn!(?folded, "the database that is replaced keeps its log beside it");
    }
    let at: String =
        now.to_string().chars().take_while(|c| *c != '.').filter(|c| *c != ':').collect();
    for number in 0..TRIES {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let aside = with_suffix(path, &format!(".replaced-{}{suffix}", at.trim_end_matches('Z')));
        match fs::hard_link(path, &aside) {
            Ok(()) => {
                for part in ["-wal", "-shm"] {
                    move_along(path, &aside, part)?;
                }
                sync_directory(path)?;
                return Ok(aside);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(CopyError::File { path: aside, source }),
        }
    }
    let source = io::Error::from(io::ErrorKind::AlreadyExists);
    Err(CopyError::File { path: path.to_owned(), source })
}

fn move_along(path: &Path, aside: &Path, part: &str) -> Result<(), CopyError> {
    let (from, to) = (with_suffix(path, part), with_suffix(aside, part));
    match fs::rename(&from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed.map_err(|source| CopyError::File { path: from, source }),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

fn sync_directory(file: &Path) -> Result<(), CopyError> {
    let directory = directory_of(file);
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| CopyError::File { path: directory.to_owned(), source })
}

#[cfg(test)]
mod tests;
