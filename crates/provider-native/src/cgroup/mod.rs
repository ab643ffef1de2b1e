//! Memory, process and processor limits through control groups: version 1, version 2, and hosts
//! that have some controllers on the one and some on the other.
//!
//! Everything below the server's own place in each hierarchy:
//! `<own>/stacyvm/<instance>/<runtime>`. All changes go through [`CgroupFs`], so that what would be
//! written on another kind of host is tested on this one.

mod fs;
mod places;
mod spares;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(crate) use fs::{CgroupFs, Kernel};
pub(crate) use places::Places;
pub(crate) use spares::{Spares, Used};
use stacyvm_types::Limits;

/// What a limit is kept with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    /// Memory in bytes.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
    /// Counting processor time; only version 1 has it apart.
    CpuAccounting,
}

/// Which version of control groups a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// One hierarchy for each controller, or for a few.
    V1,
    /// One hierarchy for all.
    V2,
}

/// One hierarchy that limits are kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Its version.
    pub(crate) version: Version,
    /// Our directory in it, `<own>/stacyvm/<instance>`.
    pub(crate) base: PathBuf,
    /// What is limited through it.
    pub(crate) controllers: Vec<Controller>,
}

const CPU_PERIOD_US: u64 = 100_000;

/// The groups of one runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Groups(pub(crate) Vec<PathBuf>);

impl Groups {
    /// Makes the groups of runtime `name` with its limits. What was made is removed on failure.
    pub(crate) fn make(
        kernel: &dyn CgroupFs,
        hierarchies: &[Hierarchy],
        name: &str,
        limits: &Limits,
    ) -> io::Result<Self> {
        let mut made = Self(Vec::with_capacity(hierarchies.len()));
        for hierarchy in hierarchies {
            let group = hierarchy.base.join(name);
            let done = kernel.make(&group).and_then(|()| {
                made.0.push(group.clone());
                set_limits(kernel, hierarchy, &group, limits)
            });
            if let Err(error) = done {
                made.remove(kernel);
                return Err(error);
            }
        }
        Ok(made)
    }

    /// Whether these are groups of this server, one for each hierarchy: a predecessor may have had
    /// others.
    pub(crate) fn lie_in(&self, hierarchies: &[Hierarchy]) -> bool {
        let parents = self.0.iter().map(|group| group.parent());
        parents.eq(hierarchies.iter().map(|hierarchy| Some(hierarchy.base.as_path())))
    }

    /// Changes the limits of a runtime that exists.
    pub(crate) fn adjust(
        &self,
        kernel: &dyn CgroupFs,
        hierarchies: &[Hierarchy],
        limits: &Limits,
    ) -> io::Result<()> {
        for group in &self.0 {
            let hierarchy = hierarchies.iter().find(|h| group.parent() == Some(&h.base));
            if let Some(hierarchy) = hierarchy {
                set_limits(kernel, hierarchy, group, limits)?;
            }
        }
        Ok(())
    }

    /// Removes the groups, waiting a little for the kernel to let go of what ended in them. Groups
    /// that are gone are fine; those that stay are given back.
    pub(crate) fn remove(&self, kernel: &dyn CgroupFs) -> Vec<PathBuf> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut left = Vec::new();
        for group in &self.0 {
            loop {
                match kernel.remove(group) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(_) if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Err(_) => {
                        left.push(group.clone());
                        break;
                    }
                }
            }
        }
        left
    }

    /// The processes in the groups.
    pub(crate) fn processes(&self, kernel: &dyn CgroupFs) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .0
            .iter()
            .filter_map(|group| kernel.read(&group.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>())
            .filter(|pid| *pid > 0)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }
}

fn set_limits(
    kernel: &dyn CgroupFs,
    hierarchy: &Hierarchy,
    group: &Path,
    limits: &Limits,
) -> io::Result<()> {
    let write = |file: &str, value: u64| kernel.write(&group.join(file), &value.to_string());
    for controller in &hierarchy.controllers {
        match (controller, hierarchy.version) {
            (Controller::Memory, version) => set_memory(kernel, version, group, limits)?,
            // The first process is not the guest's.
            (Controller::Pids, _) => write("pids.max", u64::from(limits.pids) + 1)?,
            (Controller::Cpu, Version::V1) => {
                write("cpu.cfs_period_us", CPU_PERIOD_US)?;
                write("cpu.cfs_quota_us", CPU_PERIOD_US * u64::from(limits.vcpus))?;
            }
            (Controller::Cpu, Version::V2) => {
                let quota = CPU_PERIOD_US * u64::from(limits.vcpus);
                kernel.write(&group.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
            }
            (Controller::CpuAccounting, _) => {}
        }
    }
    Ok(())
}

/// Limits memory, and swap with it where the kernel counts swap. Out of memory kills one process
/// and not the group: the agent must live to tell.
fn set_memory(
    kernel: &dyn CgroupFs,
    version: Version,
    group: &Path,
    limits: &Limits,
) -> io::Result<()> {
    let bytes = (u64::from(limits.memory_mb) << 20).to_string();
    let optional = |file: &str, value: &str| match kernel.write(&group.join(file), value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    match version {
        Version::V1 => {
            let limit = group.join("memory.limit_in_bytes");
            // Memory with swap may never be below memory alone, so the order depends on the
            // direction; the second try is for the way up.
            let first = kernel.write(&limit, &bytes);
            optional("memory.memsw.limit_in_bytes", &bytes)?;
            first.or_else(|_| kernel.write(&limit, &bytes))
        }
        Version::V2 => {
            kernel.write(&group.join("memory.max"), &bytes)?;
            optional("memory.swap.max", "0")
        }
    }
}

/// What a runtime uses, out of its groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time in microseconds.
    pub(crate) cpu_us: Option<u64>,
    /// Memory in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// Processes and threads.
    pub(crate) pids: Option<u64>,
}

impl Groups {
    fn first(&self, kernel: &dyn CgroupFs, file: &str) -> Option<String> {
        self.0.iter().find_map(|group| kernel.read(&group.join(file)).ok())
    }

    fn number(&self, kernel: &dyn CgroupFs, file: &str) -> Option<u64> {
        self.first(kernel, file)?.trim().parse().ok()
    }

    /// Whether they count processor time at all.
    fn counts_cpu(&self, kernel: &dyn CgroupFs) -> bool {
        ["cpuacct.usage", "cpu.stat"].iter().any(|file| self.first(kernel, file).is_some())
    }

    /// Processor time in microseconds.
    fn cpu_us(&self, kernel: &dyn CgroupFs) -> Option<u64> {
        if let Some(ns) = self.number(kernel, "cpuacct.usage") {
            return Some(ns / 1000);
        }
        let text = self.first(kernel, "cpu.stat")?;
        text.lines().find_map(|l| l.strip_prefix("usage_usec "))?.trim().parse().ok()
    }

    /// Memory in bytes.
    fn memory_bytes(&self, kernel: &dyn CgroupFs) -> Option<u64> {
        self.number(kernel, "memory.usage_in_bytes")
            .or_else(|| self.number(kernel, "memory.current"))
    }

    /// Reads what the groups count.
    pub(crate) fn usage(&self, kernel: &dyn CgroupFs) -> Usage {
        Usage {
            cpu_us: self.cpu_us(kernel),
            memory_bytes: self.memory_bytes(kernel),
            // Without the first process, which the limit does not count either.
            pids: self.number(kernel, "pids.current").map(|n| n.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fs::Recorder, *};

    const LIMITS: Limits = Limits { memory_mb: 256, vcpus: 2, pids: 64, disk_mb: 100 };

    fn v2() -> Hierarchy {
        Hierarchy {
            version: Version::V2,
            base: "/cg/own/stacyvm/abc".into(),
            controllers: vec![Controller::Memory, Controller::Pids, Controller::Cpu],
        }
    }

    fn v1(name: &str, controller: Controller) -> Hierarchy {
        Hierarchy {
            version: Version::V1,
            base: format!("/cg/{name}/stacyvm/abc").into(),
            controllers: vec![controller],
        }
    }

    #[test]
    fn version_2_limits_are_written_as_the_kernel_wants_them() {
        let recorder = Recorder::default();
        Groups::make(&recorder, &[v2()], "rt-1", &LIMITS).unwrap();
        assert_eq!(
            recorder.lines(),
            [
                "mkdir /cg/own/stacyvm/abc/rt-1",
                "/cg/own/stacyvm/abc/rt-1/memory.max = 268435456",
                "/cg/own/stacyvm/abc/rt-1/memory.swap.max = 0",
                "/cg/own/stacyvm/abc/rt-1/pids.max = 65",
                "/cg/own/stacyvm/abc/rt-1/cpu.max = 200000 100000",
            ]
        );
    }

    #[test]
    fn version_1_limits_are_written_per_controller() {
        let recorder = Recorder::default();
        let hierarchies = [
            v1("memory", Controller::Memory),
            v1("pids", Controller::Pids),
            v1("cpu", Controller::Cpu),
        ];
        Groups::make(&recorder, &hierarchies, "rt-1", &LIMITS).unwrap();
        assert_eq!(
            recorder.lines(),
            [
                "mkdir /cg/memory/stacyvm/abc/rt-1",
                "/cg/memory/stacyvm/abc/rt-1/memory.limit_in_bytes = 268435456",
                "/cg/memory/stacyvm/abc/rt-1/memory.memsw.limit_in_bytes = 268435456",
                "mkdir /cg/pids/stacyvm/abc/rt-1",
                "/cg/pids/stacyvm/abc/rt-1/pids.max = 65",
                "mkdir /cg/cpu/stacyvm/abc/rt-1",
                "/cg/cpu/stacyvm/abc/rt-1/cpu.cfs_period_us = 100000",
                "/cg/cpu/stacyvm/abc/rt-1/cpu.cfs_quota_us = 200000",
            ]
        );
    }

    #[test]
    fn groups_of_a_predecessor_with_other_hierarchies_are_not_this_servers() {
        let hierarchies = [v1("memory", Controller::Memory), v1("pids", Controller::Pids)];
        let groups = |paths: &[&str]| Groups(paths.iter().map(PathBuf::from).collect());
        let ours = groups(&["/cg/memory/stacyvm/abc/rt-1", "/cg/pids/stacyvm/abc/rt-1"]);
        assert!(ours.lie_in(&hierarchies));
        let one_less = groups(&["/cg/memory/stacyvm/abc/rt-1"]);
        let elsewhere = groups(&["/cg/memory/b/stacyvm/abc/rt-1", "/cg/pids/stacyvm/abc/rt-1"]);
        let other_order = groups(&["/cg/pids/stacyvm/abc/rt-1", "/cg/memory/stacyvm/abc/rt-1"]);
        for theirs in [one_less, elsewhere, other_order] {
            assert!(!theirs.lie_in(&hierarchies), "{theirs:?}");
        }
    }

    #[test]
    fn a_group_that_cannot_be_limited_is_not_left_behind() {
        let recorder = Recorder::refusing("pids.max");
        assert!(Groups::make(&recorder, &[v2()], "rt-1", &LIMITS).is_err());
        assert_eq!(recorder.lines().last().unwrap(), "rmdir /cg/own/stacyvm/abc/rt-1");
    }

    #[test]
    fn a_mixed_host_uses_both_versions_for_what_each_has() {
        let recorder = Recorder::default();
        let mut unified = v2();
        unified.controllers = vec![Controller::Pids];
        let hierarchies = [v1("memory", Controller::Memory), unified];
        let groups = Groups::make(&recorder, &hierarchies, "rt-1", &LIMITS).unwrap();
        groups.adjust(&recorder, &hierarchies, &Limits { memory_mb: 1, ..LIMITS }).unwrap();
        let text = recorder.lines().join("\n");
        assert!(text.contains("/cg/memory/stacyvm/abc/rt-1/memory.limit_in_bytes = 1048576"));
        assert!(!text.contains("memory.max"));
    }
}
