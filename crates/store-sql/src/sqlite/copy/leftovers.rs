//! Files that killed copies left behind.
//!
//! Whoever makes a copy holds the directory's lock together with others that do; whoever holds it
//! alone knows that none of the copies in there is being made. A lock on the copies themselves would
//! meet SQLite's own on network file systems. Where a directory cannot be locked nothing is removed.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    thread,
    time::Duration,
};

/// Between the name of the target and the numbers of the process and the try.
const MARK: &str = ".partial-";
/// What a database begins with; one that is cut short may begin with nothing yet.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How often and how long somebody is waited for who tidies up just now.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Says, while it lives, that a copy is being made in a directory.
pub(super) struct Presence(#[expect(dead_code, reason = "its lock ends with it")] Option<File>);

impl Presence {
    /// Removes what killed copies left in the directory, unless another copy is being made there,
    /// and says that one is being made from now on.
    pub(super) fn tidy(directory: &Path) -> Self {
        let Ok(handle) = File::open(directory) else { return Self(None) };
        if handle.try_lock().is_ok() {
            // What cannot be removed is no reason to make no copy.
            if let Err(error) = remove_leftovers(directory) {
                tracing::debug!(%error, "what killed copies left could not be looked at");
            }
            let _ = handle.unlock();
        }
        for _ in 0..TRIES {
            if handle.try_lock_shared().is_ok() {
                return Self(Some(handle));
            }
            thread::sleep(PAUSE);
        }
        // Somebody else keeps the directory to itself, so nobody tidies up in it either.
        Self(None)
    }
}

/// The name beside the target of a copy that this process makes.
pub(super) fn suffix(number: u32) -> String {
    format!("{MARK}{}-{number}", std::process::id())
}

fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let is_left = maker(&entry.file_name()).is_some_and(is_gone)
            && entry.file_type()?.is_file()
            && is_database(&path).unwrap_or(false);
        if is_left && fs::remove_file(&path).is_ok() {
            tracing::info!(path = %path.display(), "removed what a killed copy left");
        }
    }
    Ok(())
}

/// The process that made a file of this name, if it is one of ours.
fn maker(name: &OsStr) -> Option<u32> {
    let (target, numbers) = name.to_str()?.rsplit_once(MARK)?;
    let (process, number) = numbers.split_once('-')?;
    number.parse::<u32>().ok().filter(|_| !target.is_empty())?;
    process.parse().ok()
}

/// Whether no process has this number. One that took it over keeps the file until it has ended too.
fn is_gone(process: u32) -> bool {
    Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{process}")).exists()
}

/// Whether a file is the beginning of a database, or of nothing yet.
fn is_database(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head.iter().all(|byte| *byte == 0) || head == MAGIC)
}
