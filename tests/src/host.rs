//! What a sandbox leaves on the host: processes, mounts, cgroups and directories of one data
//! directory's native provider.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Everything of the native provider over `data` that lives outside of it and should be gone when
/// no sandbox is left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// First processes of sandboxes, by pid.
    pub processes: BTreeSet<u32>,
    /// Mounts that this process sees below the data directory.
    pub mounts: BTreeSet<String>,
    /// Control groups that the provider made for this data directory.
    pub cgroups: BTreeSet<PathBuf>,
    /// Directories of sandboxes.
    pub directories: BTreeSet<PathBuf>,
}

impl Leftovers {
    /// Looks at the host. The ready pool is not left over: it is not counted.
    pub fn of(data: &Path) -> Self {
        let mut found = Self::default();
        let sandboxes = data.join("run/runtimes/sandboxes");
        for entry in fs::read_dir(&sandboxes).into_iter().flatten().flatten() {
            if let Some(pid) = runtime_pid(&entry.path())
                && Path::new(&format!("/proc/{pid}")).exists()
            {
                found.processes.insert(pid);
            }
            found.directories.insert(entry.path());
        }
        // A runtime may have the groups of an earlier one, and so not its own name there.
        let pool = directories(&data.join("run/runtimes/pool"));
        let waiting: BTreeSet<PathBuf> = pool.iter().flat_map(|dir| groups(dir)).collect();
        for base in fs::read_to_string(data.join("run/groups")).unwrap_or_default().lines() {
            found.cgroups.extend(directories(Path::new(base)).difference(&waiting).cloned());
        }
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let needle = data.display().to_string();
        found.mounts =
            mountinfo.lines().filter(|line| line.contains(&needle)).map(str::to_owned).collect();
        found
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The directories in a directory.
fn directories(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// What a runtime's directory says of it.
fn record(dir: &Path) -> serde_json::Value {
    let text = fs::read(dir.join("runtime.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn runtime_pid(dir: &Path) -> Option<u32> {
    record(dir)["process"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

fn groups(dir: &Path) -> Vec<PathBuf> {
    let record = record(dir);
    let groups = record["groups"].as_array().into_iter().flatten();
    groups.filter_map(|group| group.as_str().map(PathBuf::from)).collect()
}
