//! Finding and ending what a sandbox's commands started, by walking `/proc`.
//!
//! Every command carries a mark in its environment that its descendants inherit, so children that
//! left their session or lost their parent are found too. What cleared its environment and lost
//! its parent is not found: without a process namespace nothing ties it to the sandbox.

use std::{
    collections::HashSet,
    fs,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// The variable that marks a command's process tree.
pub(super) const MARK: &str = "STACYVM_MOCK";

/// How long one kill may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A live process, held so that its number cannot be taken by another.
struct Process {
    pid: i32,
    handle: OwnedFd,
}

struct Stat {
    parent: i32,
    group: i32,
    threads: u64,
    ticks: u64,
    pages: u64,
    dead: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        dead: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        threads: number(17)?,
        pages: number(21)?,
    })
}

fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether the environment holds a mark that starts with `prefix`.
fn is_marked(pid: i32, prefix: &str) -> bool {
    let wanted = format!("{MARK}={prefix}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|b| *b == 0).any(|entry| entry.starts_with(wanted.as_bytes())))
}

/// The live processes of a tree: those marked, the group of `root`, and all their descendants.
fn tree(mark: &str, root: Option<i32>) -> Vec<Process> {
    let own = getpid().as_raw_nonzero().get();
    let stats: Vec<(i32, Stat)> = all()
        .into_iter()
        .filter(|pid| *pid != own && 1 < *pid)
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .filter(|(_, stat)| !stat.dead)
        .collect();
    let mut members: HashSet<i32> = stats
        .iter()
        .filter(|(pid, stat)| root.is_some_and(|root| stat.group == root) || is_marked(*pid, mark))
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let before = members.len();
        for (pid, stat) in &stats {
            if members.contains(&stat.parent) {
                members.insert(*pid);
            }
        }
        if members.len() == before {
            break;
        }
    }
    members
        .into_iter()
        .filter_map(|pid| {
            let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            let stat = stat(pid)?;
            let still = is_marked(pid, mark)
                || root.is_some_and(|root| stat.group == root)
                || stats.iter().any(|(other, was)| *other == pid && was.parent == stat.parent);
            still.then_some(Process { pid, handle })
        })
        .collect()
}

/// Stops and then kills a whole tree. Blocking. Answers whether nothing of it is left.
pub(super) fn kill_tree(mark: &str, root: Option<i32>) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut stopped: HashSet<i32> = HashSet::new();
    loop {
        let found = tree(mark, root);
        let fresh: Vec<&Process> = found.iter().filter(|p| !stopped.contains(&p.pid)).collect();
        if fresh.is_empty() || deadline < Instant::now() {
            for process in &found {
                // It may have ended by itself, which is as good.
                let _ = pidfd_send_signal(&process.handle, Signal::KILL);
            }
            break;
        }
        for process in fresh {
            let _ = pidfd_send_signal(&process.handle, Signal::STOP);
            stopped.insert(process.pid);
        }
    }
    loop {
        let left = tree(mark, root);
        if left.is_empty() {
            return true;
        }
        if deadline < Instant::now() {
            return false;
        }
        for process in &left {
            let _ = pidfd_send_signal(&process.handle, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// What the processes under a mark use now.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu_us: u64,
    pub(super) memory_bytes: u64,
    pub(super) threads: u64,
}

/// Sums up the live processes under a mark. Blocking.
pub(super) fn usage(mark: &str) -> Usage {
    let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let page = rustix::param::page_size() as u64;
    tree(mark, None).iter().filter_map(|process| stat(process.pid)).fold(
        Usage::default(),
        |sum, stat| Usage {
            cpu_us: sum.cpu_us + stat.ticks * tick_us,
            memory_bytes: sum.memory_bytes + stat.pages * page,
            threads: sum.threads + stat.threads,
        },
    )
}
