//! Where the runtimes' directories are: in memory where that is safe, otherwise in the data
//! directory.
//!
//! What they hold ends with the host's uptime anyway, and a disk is slow at making and removing it.
//! `run/runtimes` is the directory itself or a link to it. The choice stays for as long as there
//! are runtimes; a link that leads nowhere says that the host was restarted.
//!
//! `home` leads back to `run`, so that a copy of a data directory knows itself as one.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, open, statfs},
    io::Errno,
    process::geteuid,
};

use super::{INSTANCE, gone, is_same, make_private};

/// The directory, or the link to it.
const LINK: &str = "runtimes";
/// Whose it is.
const HOME: &str = "home";
const DRAFT: &str = "draft";
/// Where runtimes are, by their standing.
const PARTS: [&str; 3] = ["pool", "sandboxes", "gone"];
/// What must be free in a tmpfs: a runtime takes some ten KiB, and a full one stops all launches.
const ROOM: u64 = 16 << 20;
/// How long a killed server may take to let go of this after it let go of the data directory.
const ENDING: Duration = Duration::from_secs(2);
const TMPFS: u64 = 0x0102_1994;

/// Where in memory runtimes may be, best first.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(super) places: Vec<PathBuf>,
    /// The bytes that are free at a path, if it is in a tmpfs.
    pub(super) free: fn(&Path) -> Option<u64>,
}

impl Memory {
    /// What this host gives to this user.
    pub(crate) fn of_this_host() -> Self {
        // Nothing to others than root: when they log out, their own directories in memory may be
        // removed and what they have in /dev/shm too, while their sandboxes live on.
        let places: &[&str] = if geteuid().is_root() { &["/run", "/dev/shm"] } else { &[] };
        Self { places: places.iter().map(PathBuf::from).collect(), free: free_in_memory }
    }

    fn is_good(&self, place: &Path) -> bool {
        (self.free)(place).is_some_and(|free| ROOM <= free) && is_guarded(place)
    }
}

pub(super) fn free_in_memory(path: &Path) -> Option<u64> {
    let found = statfs(path).ok()?;
    if u64::try_from(found.f_type) != Ok(TMPFS) {
        return None;
    }
    // One without a limit has no blocks at all.
    let unlimited = found.f_blocks == 0;
    let size = u64::try_from(found.f_bsize).ok()?;
    Some(if unlimited { u64::MAX } else { found.f_bavail.saturating_mul(size) })
}

/// Whether nobody but us and root can remove or replace what we make there.
fn is_guarded(place: &Path) -> bool {
    let Ok(found) = fs::metadata(place) else { return false };
    let trusted = [0, geteuid().as_raw()].contains(&found.uid());
    let (closed, sticky) = (found.mode() & 0o022 == 0, found.mode() & 0o1000 != 0);
    trusted && (closed || sticky)
}

/// The runtimes' directory, ours.
#[derive(Debug)]
pub(super) struct Runtimes {
    /// Without links.
    pub(super) dir: PathBuf,
    link: PathBuf,
    /// Held where it is in memory, beyond what holds the data directory.
    lock: Option<OwnedFd>,
}

/// What came of reaching for a directory in memory.
enum Taken {
    Ours(OwnedFd),
    /// Another data directory has the same name and was first.
    Anothers,
    /// Another server serves it, whatever its home says.
    Held,
    /// Not a directory of ours, whoever put it there.
    Foreign,
    Missing,
}

impl Runtimes {
    /// Finds or makes them for the data directory whose `run` is `root`. `None` when they belong to
    /// another one that has the same name: this is a copy.
    pub(super) fn open(root: &Path, instance: &str, memory: &Memory) -> io::Result<Option<Self>> {
        let link = root.join(LINK);
        match fs::read_link(&link) {
            Ok(dir) => match take(&dir, root, instance)? {
                Taken::Ours(lock) => return Ok(Some(Self { dir, link, lock: Some(lock) })),
                Taken::Anothers => return Ok(None),
                Taken::Held => return Err(held(&dir)),
                Taken::Missing | Taken::Foreign => fs::remove_file(&link)?,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                if is_anothers(&link, root, instance) {
                    return Ok(None);
                }
                if remove_empty(&link).is_err() {
                    return Self::on_disk(root, link).map(Some);
                }
            }
            Err(error) => return Err(error),
        }
        let slow = (memory.free)(root).is_none();
        for place in memory.places.iter().filter(|place| slow && memory.is_good(place)) {
            let dir = place.join(format!("stacyvm-{instance}"));
            match make(&dir, root, instance) {
                Ok(Taken::Ours(lock)) => {
                    point(&link, &dir)?;
                    return Ok(Some(Self { dir, link, lock: Some(lock) }));
                }
                Ok(Taken::Anothers) => return Ok(None),
                Ok(Taken::Held) => return Err(held(&dir)),
                Ok(Taken::Foreign | Taken::Missing) => {
                    let dir = dir.display();
                    tracing::warn!(%dir, "somebody else put this here; runtimes go elsewhere");
                }
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "no place for runtimes");
                }
            }
        }
        Self::on_disk(root, link).map(Some)
    }

    fn on_disk(root: &Path, link: PathBuf) -> io::Result<Self> {
        make_private(&link)?;
        furnish(&link, root)?;
        Ok(Self { dir: link.clone(), link, lock: None })
    }

    /// Leaves nothing in memory unless there is a runtime. A directory on disk stays: by its `home`
    /// a copy knows itself.
    pub(super) fn close(&mut self) {
        if self.lock.is_some() && remove_empty(&self.dir).is_ok() {
            let _ = fs::remove_file(&self.link);
        }
    }
}

/// Lets go of what a copy brought along: no runtime here is this data directory's.
pub(super) fn disown(root: &Path) -> io::Result<()> {
    let link = root.join(LINK);
    gone(if link.is_symlink() { fs::remove_file(link) } else { fs::remove_dir_all(link) })
}

fn held(dir: &Path) -> io::Error {
    io::Error::other(format!("another server holds {}", dir.display()))
}

fn make(dir: &Path, root: &Path, instance: &str) -> io::Result<Taken> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => take(dir, root, instance),
    }
}

/// Takes a directory in a place where others may write: looked at through a descriptor, and nothing
/// in it is touched before it is known as ours. What is ours in such a place stays where it is.
fn take(dir: &Path, root: &Path, instance: &str) -> io::Result<Taken> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = match open(dir, flags, Mode::empty()) {
        Ok(held) => held,
        Err(Errno::NOENT) => return Ok(Taken::Missing),
        Err(Errno::LOOP | Errno::NOTDIR | Errno::ACCESS) => return Ok(Taken::Foreign),
        Err(error) => return Err(error.into()),
    };
    let found = fstat(&held)?;
    if found.st_uid != geteuid().as_raw() || found.st_mode & 0o777 != 0o700 {
        return Ok(Taken::Foreign);
    }
    let deadline = Instant::now() + ENDING;
    loop {
        let locked = flock(&held, FlockOperation::NonBlockingLockExclusive);
        // Asked under the lock, if we have it: nobody changes the answer then.
        if is_anothers(dir, root, instance) {
            return Ok(Taken::Anothers);
        }
        match locked {
            Err(Errno::WOULDBLOCK) if deadline <= Instant::now() => return Ok(Taken::Held),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(2)),
            locked => break locked?,
        }
    }
    if let Err(error) = furnish(dir, root) {
        let _ = remove_empty(dir);
        return Err(error);
    }
    Ok(Taken::Ours(held))
}

/// Whether these runtimes are another data directory's: the one that they name as their home is
/// not ours and still has the same name. One that was moved is found nowhere else.
fn is_anothers(dir: &Path, root: &Path, instance: &str) -> bool {
    let Ok(home) = fs::read_link(dir.join(HOME)) else { return false };
    let its_name = fs::read_to_string(home.join(INSTANCE));
    its_name.is_ok_and(|name| name == instance) && !is_same(&home, root)
}

fn furnish(dir: &Path, root: &Path) -> io::Result<()> {
    let home = dir.join(HOME);
    if !fs::read_link(&home).is_ok_and(|to| to == root) {
        point(&home, root)?;
    }
    PARTS.iter().try_for_each(|part| make_private(&dir.join(part)))
}

/// Makes `link` lead to `to`, in one step.
fn point(link: &Path, to: &Path) -> io::Result<()> {
    let draft = link.with_extension(DRAFT);
    gone(fs::remove_file(&draft))?;
    symlink(to, &draft)?;
    fs::rename(draft, link)
}

/// Removes the directory if there is no runtime in it.
fn remove_empty(dir: &Path) -> io::Result<()> {
    for part in PARTS {
        gone(fs::remove_dir(dir.join(part)))?;
    }
    gone(fs::remove_file(dir.join(HOME)))?;
    gone(fs::remove_file(dir.join(HOME).with_extension(DRAFT)))?;
    fs::remove_dir(dir)
}
