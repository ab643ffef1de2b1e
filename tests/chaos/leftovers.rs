//! What a run left on the host that it should not have.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use stacyvm_tests::host::Leftovers;

/// Processes whose command line, environment or directories name `root`, mounts below it, and
/// control groups and directories of the workers' sandboxes.
pub(crate) fn of(root: &Path, homes: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    let needle = root.as_os_str().as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        let files = ["cmdline", "environ"].map(|file| fs::read(entry.path().join(file)));
        let links = ["cwd", "root"].map(|link| fs::read_link(entry.path().join(link)));
        let named = files.into_iter().flatten().any(|bytes| holds(&bytes))
            || links.into_iter().flatten().any(|path| holds(path.as_os_str().as_bytes()));
        if named {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            found.push(format!("process {name}: {line}"));
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
    found
}

/// Processes that are in one of these network namespaces.
pub(crate) fn who_is_in(namespaces: &BTreeSet<PathBuf>) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let its = fs::read_link(entry.path().join("ns/net"));
            its.is_ok_and(|its| namespaces.contains(&its))
        })
        .map(|entry| format!("{} is in a network namespace of a member", entry.path().display()))
        .collect()
}
