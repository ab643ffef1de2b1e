//! Groups that wait for another runtime.
//!
//! Making and removing the groups of a runtime costs as much as all of its mounts. What a group
//! remembers is for this server alone, since no sandbox sees control groups: so the groups of a
//! runtime that ended are used again, while there is something to do, for one with the same limits.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use stacyvm_types::Limits;

use super::{CgroupFs, Groups};

/// Groups of so many runtimes wait at once.
const SPARES: usize = 16;
/// For so long, then they are removed.
const IDLE: Duration = Duration::from_secs(1);
/// Memory that may still be charged to a group; the kernel frees the last of it in its own time.
const RESIDUE: u64 = 1 << 20;

struct Spare {
    groups: Groups,
    limits: Limits,
    since: Instant,
}

/// The groups that wait, the oldest first; `None` when no more are kept.
pub(crate) struct Spares(Mutex<Option<Vec<Spare>>>);

impl Default for Spares {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

/// Groups for a runtime.
pub(crate) struct Used {
    /// The groups, with the limits that were asked for.
    pub(crate) groups: Groups,
    /// The processor time in microseconds that they have counted for others.
    pub(crate) cpu_us: u64,
}

fn same(one: &Limits, other: &Limits) -> bool {
    let Limits { memory_mb, vcpus, pids, disk_mb: _ } = one;
    (memory_mb, vcpus, pids) == (&other.memory_mb, &other.vcpus, &other.pids)
}

impl Spares {
    fn locked(&self) -> MutexGuard<'_, Option<Vec<Spare>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Groups with these limits that are as good as new, if some wait.
    pub(crate) fn take(&self, kernel: &dyn CgroupFs, limits: &Limits) -> Option<Used> {
        let groups = {
            let mut spares = self.locked();
            let all = spares.as_mut()?;
            // The one that waited longest has the least charged to it.
            let at = all.iter().position(|spare| same(&spare.limits, limits))?;
            all.remove(at).groups
        };
        let charged = groups.memory_bytes(kernel).is_some_and(|bytes| RESIDUE < bytes);
        let cpu_us = if groups.counts_cpu(kernel) { groups.cpu_us(kernel) } else { Some(0) };
        match cpu_us {
            Some(cpu_us) if !charged => Some(Used { groups, cpu_us }),
            _ => {
                let left = groups.remove(kernel);
                if !left.is_empty() {
                    tracing::warn!(groups = ?left, "control groups cannot be removed");
                }
                None
            }
        }
    }

    /// Keeps the groups of a runtime that has ended, if they are of use.
    pub(crate) fn offer(&self, kernel: &dyn CgroupFs, groups: &Groups, limits: Limits) -> bool {
        if groups.0.is_empty() || !groups.processes(kernel).is_empty() {
            return false;
        }
        match self.locked().as_mut() {
            Some(all) if all.len() < SPARES => {
                all.push(Spare { groups: groups.clone(), limits, since: Instant::now() });
                true
            }
            _ => false,
        }
    }

    /// Those that have waited for too long.
    pub(crate) fn outdated(&self) -> Vec<Groups> {
        let mut spares = self.locked();
        let Some(all) = spares.as_mut() else { return Vec::new() };
        let count = all.iter().take_while(|spare| IDLE <= spare.since.elapsed()).count();
        all.drain(..count).map(|spare| spare.groups).collect()
    }

    /// All of them; from now on none are kept.
    pub(crate) fn close(&self) -> Vec<Groups> {
        let all = self.locked().take().unwrap_or_default();
        all.into_iter().map(|spare| spare.groups).collect()
    }

    /// How long until one has waited for too long; `None` when none waits.
    pub(crate) fn next_outdated(&self) -> Option<Duration> {
        let spares = self.locked();
        spares.as_ref()?.first().map(|spare| IDLE.saturating_sub(spare.since.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{super::fs::Recorder, *};

    const LIMITS: Limits = Limits { memory_mb: 256, vcpus: 2, pids: 64, disk_mb: 100 };

    fn groups() -> Groups {
        Groups(vec![PathBuf::from("/cg/memory/rt-1"), PathBuf::from("/cg/cpuacct/rt-1")])
    }

    fn kernel(procs: &str, memory: &str) -> Recorder {
        Recorder::with_files(&[
            ("/cg/memory/rt-1/cgroup.procs", procs),
            ("/cg/memory/rt-1/memory.usage_in_bytes", memory),
            ("/cg/cpuacct/rt-1/cpuacct.usage", "7000000\n"),
        ])
    }

    #[test]
    fn groups_wait_for_a_runtime_with_the_same_limits() {
        let (kernel, spares) = (kernel("", "4096\n"), Spares::default());
        assert!(spares.offer(&kernel, &groups(), LIMITS));
        assert!(spares.take(&kernel, &Limits { pids: 65, ..LIMITS }).is_none());
        let used = spares.take(&kernel, &Limits { disk_mb: 1, ..LIMITS }).unwrap();
        assert_eq!((used.groups, used.cpu_us), (groups(), 7000));
        assert!(spares.take(&kernel, &LIMITS).is_none());
        assert!(kernel.lines().is_empty(), "nothing was made, written or removed");
    }

    #[test]
    fn groups_with_processes_in_them_are_not_kept() {
        let spares = Spares::default();
        assert!(!spares.offer(&kernel("4711\n", "0\n"), &groups(), LIMITS));
    }

    #[test]
    fn groups_with_memory_charged_to_them_are_removed() {
        let (kernel, spares) = (kernel("", "2000000\n"), Spares::default());
        spares.offer(&kernel, &groups(), LIMITS);
        assert!(spares.take(&kernel, &LIMITS).is_none());
        assert_eq!(kernel.lines(), ["rmdir /cg/memory/rt-1", "rmdir /cg/cpuacct/rt-1"]);
    }

    #[test]
    fn groups_whose_processor_time_cannot_be_read_are_removed() {
        let files = [("/cg/memory/rt-1/cgroup.procs", ""), ("/cg/cpuacct/rt-1/cpuacct.usage", "?")];
        let (kernel, spares) = (Recorder::with_files(&files), Spares::default());
        assert!(spares.offer(&kernel, &groups(), LIMITS));
        assert!(spares.take(&kernel, &LIMITS).is_none());
        assert_eq!(kernel.lines().len(), 2);
    }

    #[test]
    fn no_more_wait_than_are_wanted() {
        let (kernel, spares) = (kernel("", "0\n"), Spares::default());
        let kept = (0..100).filter(|_| spares.offer(&kernel, &groups(), LIMITS)).count();
        assert_eq!(kept, SPARES);
        assert!(spares.outdated().is_empty() && spares.next_outdated().is_some());
        assert_eq!(spares.close().len(), SPARES);
        assert!(spares.next_outdated().is_none());
        assert!(!spares.offer(&kernel, &groups(), LIMITS), "kept although nobody removes them");
    }
}
