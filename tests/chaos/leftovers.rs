//! What a run left on the host that it should not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use stacyvm_tests::host::Leftovers;

/// Where runtimes may be kept in memory.
const MEMORY: [&str; 2] = ["/run", "/dev/shm"];
const GROUPS: &str = "/sys/fs/cgroup";
/// How long the kernel may take to be done with what ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// What there is of what a cluster must leave none of. In namespaces of its own that is all that
/// the test's own processes have; elsewhere it is everybody's.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Command lines by process.
    pub(crate) processes: BTreeMap<u32, String>,
    /// The namespaces that processes are in.
    pub(crate) namespaces: BTreeSet<PathBuf>,
    /// What is mounted in each of their namespaces of mounts.
    pub(crate) mounts: BTreeSet<String>,
    /// Network devices of this process's network.
    pub(crate) devices: BTreeSet<String>,
}

impl Host {
    pub(crate) fn now() -> Self {
        let mut found = Self::default();
        for (pid, dir) in processes() {
            let line = fs::read(dir.join("cmdline")).unwrap_or_default();
            found.processes.insert(pid, String::from_utf8_lossy(&line).replace('\0', " "));
            if let Ok(its) = fs::read_link(dir.join("ns/mnt"))
                && !found.namespaces.contains(&its)
            {
                let mounts = fs::read_to_string(dir.join("mountinfo")).unwrap_or_default();
                found.mounts.extend(mounts.lines().map(|line| format!("{} {line}", its.display())));
            }
            let namespaces = fs::read_dir(dir.join("ns")).into_iter().flatten().flatten();
            found
                .namespaces
                .extend(namespaces.filter_map(|namespace| fs::read_link(namespace.path()).ok()));
        }
        let devices = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
        found.devices = devices
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(device, _)| device.trim().to_owned())
            .collect();
        found
    }

    /// How much of each there is beyond what was there before.
    pub(crate) fn more_than(&self, before: &Self) -> [(&'static str, usize); 4] {
        let more = |now: &BTreeSet<String>, then| now.difference(then).count();
        let processes = self.processes.keys().filter(|pid| !before.processes.contains_key(*pid));
        [
            ("processes", processes.count()),
            ("namespaces", self.namespaces.difference(&before.namespaces).count()),
            ("mounts", more(&self.mounts, &before.mounts)),
            ("network devices", more(&self.devices, &before.devices)),
        ]
    }

    /// What is here and was not there before.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        let mut more: Vec<String> = self
            .processes
            .iter()
            .filter(|(pid, _)| !before.processes.contains_key(*pid))
            .map(|(pid, line)| format!("process {pid}: {line}"))
            .collect();
        let namespaces = self.namespaces.difference(&before.namespaces);
        more.extend(namespaces.map(|namespace| format!("namespace {}", namespace.display())));
        more.extend(self.mounts.difference(&before.mounts).map(|mount| format!("mount {mount}")));
        let devices = self.devices.difference(&before.devices);
        more.extend(devices.map(|device| format!("network device {device}")));
        more
    }
}

fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// Processes whose command line, environment or directories name `root`, mounts below it, and what
/// the workers' providers keep outside of their data.
pub(crate) fn of(root: &Path, homes: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    let needle = root.as_os_str().as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    for (pid, dir) in processes().filter(|(pid, _)| *pid != std::process::id()) {
        let files = ["cmdline", "environ"].map(|file| fs::read(dir.join(file)));
        let links = ["cwd", "root"].map(|link| fs::read_link(dir.join(link)));
        let named = files.into_iter().flatten().any(|bytes| holds(&bytes))
            || links.into_iter().flatten().any(|path| holds(path.as_os_str().as_bytes()));
        if named {
            let line = fs::read(dir.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.push(format!("process {pid}: {line}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = root.display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&root)).map(|m| format!("mount {m}")));
    for home in homes {
        let left = Leftovers::of(&home.join("data"));
        if !left.is_empty() {
            found.push(format!("{left:?}"));
        }
    }
    let instances = homes.iter().filter_map(|home| instance(home)).collect();
    found.extend(elsewhere(&instances).into_iter().map(|path| path.display().to_string()));
    found
}

/// Asks until nothing is left, and returns what is after a time.
pub(crate) fn at_last(look: impl Fn() -> Vec<String>) -> Vec<String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let left = look();
        if left.is_empty() || give_up < Instant::now() {
            return left;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The name under which a worker's native provider keeps things elsewhere.
fn instance(home: &Path) -> Option<String> {
    fs::read_to_string(home.join("data/run/instance")).ok()
}

/// The control groups of the workers of these homes, wherever they are.
pub(crate) fn groups(homes: &[PathBuf]) -> Vec<PathBuf> {
    let instances = homes.iter().filter_map(|home| instance(home)).collect();
    let mut found = Vec::new();
    let mut open = named(Path::new(GROUPS), &instances);
    while let Some(group) = open.pop() {
        open.extend(directories(&group));
        found.push(group);
    }
    found
}

/// Directories in memory and control groups that have the name of an instance.
fn elsewhere(instances: &BTreeSet<String>) -> Vec<PathBuf> {
    let in_memory =
        |instance: &String| MEMORY.map(|m| Path::new(m).join(format!("stacyvm-{instance}")));
    let mut found: Vec<PathBuf> = instances.iter().flat_map(in_memory).collect();
    found.retain(|path| path.exists());
    found.extend(named(Path::new(GROUPS), instances));
    found
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// The directories below `dir` that have one of these names.
fn named(dir: &Path, names: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in directories(dir) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        match name.is_some_and(|name| names.contains(&name)) {
            true => found.push(path),
            false => found.extend(named(&path, names)),
        }
    }
    found
}

/// Removes what the workers whose homes are two levels below these directories have elsewhere, once
/// none of their processes lives any more, and says what that was.
pub(crate) fn clear(parents: impl Iterator<Item = PathBuf>) -> Result<Vec<String>> {
    let homes = parents.flat_map(|parent| directories(&parent)).flat_map(|run| directories(&run));
    let instances = homes.filter_map(|home| instance(&home)).collect();
    let found = elsewhere(&instances);
    for path in &found {
        let give_up = Instant::now() + PATIENCE;
        let is_group = path.starts_with(GROUPS);
        loop {
            let removed = if is_group { remove_group(path) } else { fs::remove_dir_all(path) };
            let Err(error) = removed else { break };
            ensure!(Instant::now() < give_up, "{} is left: {error}", path.display());
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(found.into_iter().map(|path| path.display().to_string()).collect())
}

fn remove_group(group: &Path) -> io::Result<()> {
    directories(group).iter().try_for_each(|below| remove_group(below))?;
    fs::remove_dir(group)
}
