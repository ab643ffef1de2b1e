//! What is written down about a runtime, and how it is recognised by a later server.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

const FILE: &str = "runtime.json";
const DRAFT: &str = ".runtime.json";
const OWNER: &str = "owner.json";
/// A record is well below this; anything longer is not one.
const MAX_BYTES: u64 = 64 * 1024;

/// A runtime on disk: `runtime.json` in its directory, and `owner.json` once it has an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The runtime's own name.
    pub(crate) name: String,
    /// Its first process.
    pub(crate) process: Process,
    /// The range of users that it has.
    pub(crate) slot: Option<u32>,
    /// Its control groups.
    pub(crate) groups: Vec<PathBuf>,
    /// Processor time in microseconds that those groups had counted before.
    #[serde(default)]
    pub(crate) cpu_before_us: u64,
    /// The directory that is its lower layer.
    pub(crate) lower: PathBuf,
    /// The image it was made from.
    pub(crate) image: String,
    /// Writable space in MiB, fixed when it was made.
    pub(crate) disk_mb: u32,
    /// Memory in MiB.
    pub(crate) memory_mb: u32,
    /// Virtual CPUs.
    pub(crate) vcpus: u32,
    /// Processes and threads.
    pub(crate) pids: u32,
    /// Whose it is; nobody's while it waits in the pool.
    #[serde(skip)]
    pub(crate) owner: Option<Owner>,
}

/// Whose runtime it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The sandbox.
    pub(crate) id: String,
    /// The generation that launched it.
    pub(crate) generation: u64,
    /// When, in microseconds since the epoch.
    pub(crate) created_us: i64,
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: i32,
    /// When it started, in clock ticks after the boot.
    pub(crate) started: u64,
    /// Which boot.
    pub(crate) boot: String,
}

impl Record {
    /// Writes the owner to `dir`, which must still lie in the pool: the rename that takes it out
    /// makes the owner true, so a half-written file is nobody's.
    pub(crate) fn write_owner(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(OWNER), serde_json::to_vec(&self.owner)?)
    }

    /// Writes all but the owner to `dir`, whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let draft = dir.join(DRAFT);
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(draft, dir.join(FILE))
    }

    /// Reads it back.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let mut record: Self = serde_json::from_slice(&read(&dir.join(FILE))?)?;
        record.owner = match read(&dir.join(OWNER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            bytes => serde_json::from_slice(&bytes?)?,
        };
        Ok(record)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::other("larger than any record"));
    }
    fs::read(path)
}

impl Process {
    /// Describes a process that a descriptor keeps from being mistaken meanwhile.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, started: start_time(pid)?, boot: boot_id()? })
    }

    /// A descriptor of it, if it still lives.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        if boot_id().ok()? != self.boot {
            return None;
        }
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Asked after the descriptor is open: from then on the number cannot change its meaning
        // without the descriptor being readable.
        let same = start_time(self.pid).is_ok_and(|started| started == self.started);
        (same && is_alive(&pidfd)).then_some(pidfd)
    }
}

/// Whether the process behind a pidfd has not ended.
pub(crate) fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
}

/// Names this boot of the host.
fn boot_id() -> io::Result<String> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Ok(known.clone());
    }
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT.get_or_init(|| text.trim().to_owned()).clone())
}

fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let bad = || io::Error::other("the kernel's stat line has an unknown form");
    let fields = stat.rsplit_once(')').ok_or_else(bad)?.1;
    // The fields after the name start with number 3; the start time is number 22.
    fields.split_ascii_whitespace().nth(19).and_then(|f| f.parse().ok()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Process {
        Process::of(rustix::process::getpid().as_raw_nonzero().get()).unwrap()
    }

    #[test]
    fn a_living_process_is_recognised() {
        assert!(own().open().is_some());
    }

    #[test]
    fn a_reused_number_is_not_mistaken_for_the_process() {
        let other = Process { started: own().started + 1, ..own() };
        assert!(other.open().is_none());
        let rebooted = Process { boot: "another".to_owned(), ..own() };
        assert!(rebooted.open().is_none());
    }

    #[test]
    fn a_record_reads_back_as_written_and_a_torn_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record {
            name: "rt-1".to_owned(),
            process: own(),
            slot: Some(3),
            groups: vec!["/x".into()],
            cpu_before_us: 7,
            lower: "/y".into(),
            image: "host".to_owned(),
            disk_mb: 1,
            memory_mb: 2,
            vcpus: 3,
            pids: 4,
            owner: None,
        };
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record);
        record.owner = Some(Owner { id: "sb-1".to_owned(), generation: 1, created_us: 2 });
        record.write_owner(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), record);
        fs::write(dir.path().join(OWNER), b"{\"id\":").unwrap();
        assert!(Record::read(dir.path()).is_err());
        fs::write(dir.path().join(FILE), b"{\"name\":").unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
