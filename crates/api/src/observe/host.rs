//! Numbers of this process and of the host, as the kernel tells them.

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use stacyvm_api_types::SystemStats;
use tokio::time::Instant;

/// How long one look at the host stays good.
const FRESH: Duration = Duration::from_secs(1);

/// The memory of this process in bytes; zeros where the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProcessMemory {
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) virtual_size: u64,
}

impl ProcessMemory {
    /// As it is now.
    pub(crate) fn now() -> Self {
        Self::of(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn of(status: &str) -> Self {
        let bytes = |name| field(status, name).unwrap_or(0).saturating_mul(1024);
        Self {
            resident: bytes("VmRSS:"),
            anonymous: bytes("RssAnon:"),
            virtual_size: bytes("VmSize:"),
        }
    }
}

/// How many descriptors this process has open, where the kernel tells.
pub(crate) fn open_descriptors() -> Option<usize> {
    fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

/// The processor time of this process, where the kernel tells.
pub(crate) fn process_time() -> Option<Duration> {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(u64::try_from(clock.tv_sec).ok()?, u32::try_from(clock.tv_nsec).ok()?))
}

/// What counts up, at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    busy: u64,
    all: u64,
    received: u64,
    sent: u64,
}

/// Looks at the host, at most once a second.
pub(crate) struct Host(Mutex<Looked>);

struct Looked {
    at: Instant,
    counts: Counts,
    stats: Option<SystemStats>,
}

impl Host {
    /// Rates are first told over the time from here on.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Looked { at: Instant::now(), counts: Counts::now(), stats: None }))
    }

    /// As it is now. `data` is on the file system that is asked for.
    pub(crate) fn stats(&self, data: &Path) -> SystemStats {
        let mut looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = looked.stats
            && looked.at.elapsed() < FRESH
        {
            return stats;
        }
        let (now, counts) = (Instant::now(), Counts::now());
        let stats = between(looked.counts, counts, now - looked.at);
        let stats = SystemStats {
            mem_pct: memory(&read("/proc/meminfo")),
            disk_pct: disk(data),
            load1: load(&read("/proc/loadavg")),
            ..stats
        };
        *looked = Looked { at: now, counts, stats: Some(stats) };
        stats
    }
}

impl Counts {
    fn now() -> Self {
        Self::of(&read("/proc/stat"), &read("/proc/net/dev"))
    }

    fn of(stat: &str, net: &str) -> Self {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
        // The fourth is idle time, the fifth is idle time with the disk busy.
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let all = ticks.iter().sum();
        let mut counts = Self { busy: all - idle, all, ..Self::default() };
        for (name, numbers) in net.lines().filter_map(|line| line.split_once(':')) {
            if name.trim() != "lo" {
                let mut numbers = numbers.split_whitespace().map(|n| n.parse().unwrap_or(0));
                counts.received += numbers.next().unwrap_or(0);
                counts.sent += numbers.nth(7).unwrap_or(0);
            }
        }
        counts
    }
}

fn between(old: Counts, new: Counts, time: Duration) -> SystemStats {
    let seconds = time.as_secs_f64();
    // Devices that went away took their counts with them.
    let rate = |old: u64, new: u64| match 0.0 < seconds {
        true => rounded(new.saturating_sub(old) as f64 / seconds),
        false => 0.0,
    };
    SystemStats {
        cpu_pct: percent(new.busy.saturating_sub(old.busy), new.all.saturating_sub(old.all)),
        net_rx_bps: rate(old.received, new.received),
        net_tx_bps: rate(old.sent, new.sent),
        ..SystemStats::default()
    }
}

fn memory(meminfo: &str) -> f64 {
    let total = field(meminfo, "MemTotal:").unwrap_or(0);
    let free = field(meminfo, "MemAvailable:").unwrap_or(total);
    percent(total.saturating_sub(free), total)
}

fn disk(path: &Path) -> f64 {
    let Ok(stat) = rustix::fs::statvfs(path) else { return 0.0 };
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    // As `df` has it: what only root may use is neither used nor free.
    percent(used, used.saturating_add(stat.f_bavail))
}

fn load(loadavg: &str) -> f64 {
    loadavg.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn percent(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => rounded(100.0 * part as f64 / whole as f64),
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_over_the_time_between_two_looks() {
        let net = |rx, tx| {
            format!(
                "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 99 0 0 0 0 0 0 0 99 0\n  \
                 eth0: {rx} 1 2 3 4 5 6 7 {tx} 9 9\n"
            )
        };
        let old = Counts::of("cpu  100 0 100 700 100 0 0 0 5 5\ncpu0 1\n", &net(1_000, 50));
        let new = Counts::of("cpu  150 0 100 820 130 0 0 0 5 5\ncpu0 1\n", &net(3_000, 51));
        let stats = between(old, new, Duration::from_secs(2));
        assert_eq!((stats.net_rx_bps, stats.net_tx_bps), (1_000.0, 0.5));
        assert_eq!(stats.cpu_pct, 25.0);
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_zero() {
        assert_eq!(ProcessMemory::of(""), ProcessMemory::default());
        assert_eq!((memory(""), load(""), disk(Path::new("/nonexistent"))), (0.0, 0.0, 0.0));
        let none = between(Counts::of("", ""), Counts::of("x", "y:"), Duration::ZERO);
        assert_eq!(none, SystemStats::default());
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let memory = ProcessMemory::now();
        assert!(0 < memory.anonymous && memory.resident <= memory.virtual_size, "{memory:?}");
        assert!(open_descriptors().is_some_and(|open| 2 < open));
        assert!(process_time().is_some_and(|time| !time.is_zero()));
    }
}
