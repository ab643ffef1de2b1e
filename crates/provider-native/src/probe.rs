//! What this host allows, and how to get more out of it.
//!
//! [`Facts`] are gathered without changing anything and without starting a process; [`decide`] is a
//! pure function from them to the [`Rung`] that the host gives, the capabilities that follow, and
//! the findings that `stacyvm doctor` prints. Cheap enough for every few seconds.

mod gather;
#[cfg(test)]
mod tests;

use stacyvm_provider::{Capabilities, Probe, capabilities::Finding};

use crate::cgroup::{Controller, Hierarchy, Places, Version};

/// How well sandboxes are enclosed here, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rung {
    /// Sandboxes cannot be started.
    Unusable,
    /// Not root: everything inside is one user, the server's own.
    OneUser,
    /// Not root, with a range of users that the administrator lent.
    LentUsers,
    /// Root, but the kernel does not keep all limits.
    RootWithoutLimits,
    /// Root: a range of users for each sandbox, and all limits kept by the kernel.
    Full,
}

/// Which limits control groups keep here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeptLimits {
    memory: Option<Version>,
    pids: Option<Version>,
    cpu: Option<Version>,
    /// Why hierarchies are left out, one sentence each.
    reasons: Vec<String>,
}

impl KeptLimits {
    /// What the provider has settled in, and why not in more.
    pub(crate) fn settled(hierarchies: &[Hierarchy], reasons: &[String]) -> Self {
        let with = |wanted| {
            hierarchies.iter().find(|h| h.controllers.contains(&wanted)).map(|h| h.version)
        };
        Self {
            memory: with(Controller::Memory),
            pids: with(Controller::Pids),
            cpu: with(Controller::Cpu),
            reasons: reasons.to_vec(),
        }
    }

    /// What a provider could settle in, by the look of it.
    fn expected(places: &Places) -> Self {
        let mut kept = Self::default();
        for (own, version, controllers) in places.iter() {
            if let Err(error) = rustix::fs::access(own, rustix::fs::Access::WRITE_OK) {
                kept.reasons.push(format!("{}: {error}", own.display()));
                continue;
            }
            for controller in controllers {
                match controller {
                    Controller::Memory => kept.memory = Some(version),
                    Controller::Pids => kept.pids = Some(version),
                    Controller::Cpu => kept.cpu = Some(version),
                    Controller::CpuAccounting => {}
                }
            }
        }
        kept
    }
}

/// Whether the kernel mounts overlays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlay {
    /// It does.
    Ready,
    /// It is not loaded; a mount asks for it.
    Loadable,
    /// It cannot.
    Missing,
}

/// What was found on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Major and minor version.
    pub(crate) kernel: (u32, u32),
    /// Whether the effective user is root.
    pub(crate) root: bool,
    /// Capabilities that root needs and this process lacks, as in a container.
    pub(crate) missing_capabilities: Vec<&'static str>,
    /// What stands against user namespaces, and what to do; `None` when nothing is known to.
    pub(crate) namespaces_refused: Option<String>,
    /// Overlay mounts.
    pub(crate) overlay: Overlay,
    /// Whether `openat2` and `pidfd_open` answer.
    pub(crate) calls: bool,
    /// Whether system calls can be filtered.
    pub(crate) seccomp: bool,
    /// Landlock's version.
    pub(crate) landlock: Option<u32>,
    /// How many user ids were lent to this user, with the programs that map them installed.
    pub(crate) lent_ids: Option<u32>,
    /// The limits that control groups keep.
    pub(crate) limits: KeptLimits,
    /// Why the image `host` cannot be made.
    pub(crate) host_image_refused: Option<String>,
}

/// What follows from the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The rung.
    pub(crate) rung: Rung,
    /// What sandboxes can do on it.
    pub(crate) capabilities: Capabilities,
    /// What people are told.
    pub(crate) probe: Probe,
}

/// What this host allows, for a program without a running provider, such as `stacyvm doctor`.
/// Looks only: nothing is made or started, so a launch may still find more that is in its way.
pub fn doctor() -> Probe {
    let limits = match Places::of_this_process(&crate::cgroup::Kernel) {
        Ok(places) => KeptLimits::expected(&places),
        Err(error) => KeptLimits {
            reasons: vec![format!("/proc/self/cgroup: {error}")],
            ..KeptLimits::default()
        },
    };
    let host = crate::skeleton::check(std::path::Path::new("/"));
    let refused = host.err().map(|error| error.to_string());
    decide(&Facts::gather(limits, refused)).probe
}

/// Overlays take id-mapped layers since then.
const ROOT_KERNEL: (u32, u32) = (5, 19);
/// Overlays in user namespaces, and `mount_setattr`, since then.
const ROOTLESS_KERNEL: (u32, u32) = (5, 12);
/// Memory file systems keep what an overlay notes about replaced directories since then.
const WHOLE_OVERLAY_KERNEL: (u32, u32) = (6, 6);

/// The rung, the capabilities and the findings that follow from the facts.
pub(crate) fn decide(facts: &Facts) -> Decision {
    let limits = &facts.limits;
    let all_limits = limits.memory.is_some() && limits.pids.is_some() && limits.cpu.is_some();
    let usable = facts.calls
        && facts.seccomp
        && needed_kernel(facts) <= facts.kernel
        && facts.missing_capabilities.is_empty()
        && facts.namespaces_refused.is_none()
        && facts.overlay != Overlay::Missing;
    let rung = match (usable, facts.root) {
        (false, _) => Rung::Unusable,
        (true, true) if all_limits => Rung::Full,
        (true, true) => Rung::RootWithoutLimits,
        (true, false) if facts.lent_ids.is_some() => Rung::LentUsers,
        (true, false) => Rung::OneUser,
    };
    let findings = findings(facts);
    let summary = match rung {
        Rung::Full => "root, with every limit kept by the kernel".to_owned(),
        Rung::RootWithoutLimits => {
            "root, but not every limit is kept by the kernel (see the findings)".to_owned()
        }
        Rung::LentUsers => "rootless, with a lent range of users".to_owned(),
        Rung::OneUser => "rootless, with one user inside".to_owned(),
        Rung::Unusable => findings
            .iter()
            .find(|finding| !finding.ok && NEEDED.contains(&&*finding.name))
            .map_or_else(|| "sandboxes cannot be started".to_owned(), |f| f.detail.clone()),
    };
    Decision {
        rung,
        capabilities: capabilities(rung, limits),
        probe: Probe { usable: rung != Rung::Unusable, summary, findings },
    }
}

fn needed_kernel(facts: &Facts) -> (u32, u32) {
    if facts.root { ROOT_KERNEL } else { ROOTLESS_KERNEL }
}

fn capabilities(rung: Rung, limits: &KeptLimits) -> Capabilities {
    if rung == Rung::Unusable {
        return Capabilities::default();
    }
    Capabilities {
        isolation: true,
        pid_namespace: true,
        network_none: true,
        memory_limit: limits.memory.is_some(),
        pids_limit: limits.pids.is_some(),
        cpu_limit: limits.cpu.is_some(),
        disk_limit: true,
        many_uids: rung != Rung::OneUser,
        // `/usr` of the image `host` is the host's own, and read-only.
        writable_root: false,
        images: true,
        adoption: true,
        pause: false,
        pty: true,
        dial: true,
        stats: true,
    }
}

/// Findings without which nothing starts; the first that is wrong is the summary.
const NEEDED: [&str; 6] =
    ["kernel", "privileges", "namespaces", "overlay", "system calls", "seccomp"];

fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![
        kernel(facts),
        privileges(facts),
        namespaces(facts),
        overlay(facts),
        calls(facts),
        seccomp(facts),
        landlock(facts),
        users(facts),
    ];
    let limits = &facts.limits;
    all.extend([
        limit(facts, "memory limit", limits.memory, "a watchdog kills what uses too much, late"),
        limit(facts, "process limit", limits.pids, "the host's limit per user is all there is"),
        limit(facts, "cpu limit", limits.cpu, "a busy sandbox takes what its neighbours leave"),
    ]);
    all.push(match &facts.host_image_refused {
        None => finding("host image", true, "this machine's programs can be shown read-only"),
        Some(reason) => finding("host image", false, reason),
    });
    all
}

fn finding(name: &'static str, ok: bool, detail: &str) -> Finding {
    Finding { name: name.into(), ok, detail: detail.to_owned() }
}

fn kernel(facts: &Facts) -> Finding {
    let (major, minor) = facts.kernel;
    let (needed_major, needed_minor) = needed_kernel(facts);
    if facts.kernel < (needed_major, needed_minor) {
        let who = if facts.root { "root" } else { "a plain user" };
        let detail = format!(
            "Linux {major}.{minor} is too old: as {who} at least {needed_major}.{needed_minor} is \
             needed"
        );
        return finding("kernel", false, &detail);
    }
    if facts.kernel < WHOLE_OVERLAY_KERNEL {
        let detail = format!(
            "Linux {major}.{minor} works, but a directory of the image that is deleted inside \
             cannot be made again; from 6.6 on it can"
        );
        return finding("kernel", false, &detail);
    }
    finding("kernel", true, &format!("Linux {major}.{minor}"))
}

fn privileges(facts: &Facts) -> Finding {
    if !facts.root {
        let detail = "not root: sandboxes have no users of their own; start the server as root to \
                      give each a range of its own";
        return finding("privileges", true, detail);
    }
    if facts.missing_capabilities.is_empty() {
        return finding("privileges", true, "root, with the capabilities that launches need");
    }
    let missing = facts.missing_capabilities.join(", ");
    let detail = format!(
        "root without {missing}: give these to the container or service, or start the server as \
         a plain user"
    );
    finding("privileges", false, &detail)
}

fn namespaces(facts: &Facts) -> Finding {
    match &facts.namespaces_refused {
        None => finding("namespaces", true, "nothing stands against user namespaces"),
        Some(reason) => finding("namespaces", false, reason),
    }
}

fn overlay(facts: &Facts) -> Finding {
    match facts.overlay {
        Overlay::Ready => finding("overlay", true, "the kernel mounts overlays"),
        Overlay::Loadable => {
            finding("overlay", true, "not loaded yet; the first mount asks the kernel for it")
        }
        Overlay::Missing => {
            finding("overlay", false, "no overlay file system: load it with: modprobe overlay")
        }
    }
}

fn calls(facts: &Facts) -> Finding {
    if facts.calls {
        return finding("system calls", true, "openat2 and pidfd_open answer");
    }
    let detail = "openat2 or pidfd_open is refused: in a container, loosen its seccomp profile";
    finding("system calls", false, detail)
}

fn seccomp(facts: &Facts) -> Finding {
    if facts.seccomp {
        return finding("seccomp", true, "system calls are filtered");
    }
    finding("seccomp", false, "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)")
}

fn landlock(facts: &Facts) -> Finding {
    match facts.landlock {
        Some(version) => finding("landlock", true, &format!("version {version}")),
        None => finding(
            "landlock",
            false,
            "not there: one layer fewer; add landlock to the kernel's lsm= parameter",
        ),
    }
}

fn users(facts: &Facts) -> Finding {
    if facts.root {
        return finding("users", true, "65,536 users of its own for each sandbox");
    }
    match facts.lent_ids {
        Some(count) => {
            let detail = format!("{count} lent users, the same ones for all sandboxes");
            finding("users", true, &detail)
        }
        None => finding(
            "users",
            false,
            "one user inside, so chown, su and package managers fail: install uidmap (newuidmap, \
             newgidmap) and lend ids with lines such as NAME:100000:65536 in /etc/subuid and \
             /etc/subgid",
        ),
    }
}

fn limit(facts: &Facts, name: &'static str, kept: Option<Version>, without: &str) -> Finding {
    match kept {
        Some(Version::V1) => finding(name, true, "kept by control groups, version 1"),
        Some(Version::V2) => finding(name, true, "kept by control groups, version 2"),
        None => {
            let advice = if facts.root {
                "mount a control group hierarchy with this controller, writable"
            } else {
                "start the server as root, or in a systemd service with Delegate=yes"
            };
            let why = match facts.limits.reasons.as_slice() {
                [] => String::new(),
                reasons => format!(" ({})", reasons.join("; ")),
            };
            finding(name, false, &format!("not kept by the kernel{why}: {without}; {advice}"))
        }
    }
}
