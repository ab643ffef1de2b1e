//! What a provider can do on this host, and whether it can run at all.

use std::borrow::Cow;

/// What a provider can do here. A flat struct: the API shows it, placement filters on it, the
/// suite selects by it, so a false claim in either direction fails a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Code inside cannot see or touch the host.
    pub isolation: bool,
    /// Its own process numbers: nothing of the host's processes is visible.
    pub pid_namespace: bool,
    /// Its own network, with nothing but a loopback device.
    pub network_none: bool,
    /// Memory above the limit kills inside the sandbox only, enforced by the kernel.
    pub memory_limit: bool,
    /// The process limit is enforced by the kernel, per sandbox.
    pub pids_limit: bool,
    /// The cpu limit is enforced by the kernel.
    pub cpu_limit: bool,
    /// Writable space is limited.
    pub disk_limit: bool,
    /// Files and commands may use many user ids inside.
    pub many_uids: bool,
    /// The system directories of the image are writable inside (on the sandbox's own layer).
    pub writable_root: bool,
    /// Imported root file systems can be launched.
    pub images: bool,
    /// Runtimes survive the server and are found again.
    pub adoption: bool,
    /// Freezing and thawing.
    pub pause: bool,
    /// Terminals.
    pub pty: bool,
    /// Connections to ports inside.
    pub dial: bool,
    /// Resource figures.
    pub stats: bool,
}

impl Capabilities {
    /// The names of what is present, as the API shows them.
    pub fn names(mut self) -> Vec<&'static str> {
        let mut names = vec!["spawn", "exec", "exec_stream", "files", "console", "health"];
        names.extend(self.flags().into_iter().filter_map(|(on, name)| on.then_some(name)));
        names
    }

    /// What these names say. Words that this version does not know are left out.
    pub fn from_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut capabilities = Self::default();
        for word in names {
            for (flag, name) in capabilities.flags() {
                *flag |= name == word;
            }
        }
        capabilities
    }

    fn flags(&mut self) -> [(&mut bool, &'static str); 15] {
        let Self {
            isolation,
            pid_namespace,
            network_none,
            memory_limit,
            pids_limit,
            cpu_limit,
            disk_limit,
            many_uids,
            writable_root,
            images,
            adoption,
            pause,
            pty,
            dial,
            stats,
        } = self;
        [
            (isolation, "isolation"),
            (pid_namespace, "pid_namespace"),
            (network_none, "network_none"),
            (memory_limit, "memory_limit"),
            (pids_limit, "pids_limit"),
            (cpu_limit, "cpu_limit"),
            (disk_limit, "disk_limit"),
            (many_uids, "many_uids"),
            (writable_root, "writable_root"),
            (images, "images"),
            (adoption, "runtime_inventory"),
            (pause, "pause"),
            (pty, "pty"),
            (dial, "dial"),
            (stats, "stats"),
        ]
    }
}

/// Whether a provider can run on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whether it can launch sandboxes at all.
    pub usable: bool,
    /// One sentence: why not, or how well (the rung that this host gives).
    pub summary: String,
    /// What was looked at, for `stacyvm doctor`.
    pub findings: Vec<Finding>,
}

/// One thing that a probe looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: Cow<'static, str>,
    /// Whether it is as wanted.
    pub ok: bool,
    /// What was found, and what to do if it is not as wanted.
    pub detail: String,
}
