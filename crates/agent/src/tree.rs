//! Killing a command with everything it started, also what left its session or its parent.
//!
//! The command is a subreaper, so orphans below it become its children and the tree hangs together
//! for as long as it lives. It is therefore stopped first and killed last: everything below is
//! stopped until a look at the process table finds nothing new (a stopped process cannot fork),
//! then killed.

use std::{collections::BTreeSet, os::fd::OwnedFd};

use rustix::process::{Pid, Signal};

use crate::{
    limits::{KILL_PASSES, KILL_STEPS},
    procfs::{self, Process},
};

/// A tree that is being killed.
pub(crate) struct TreeKill {
    root: Pid,
    known: BTreeSet<i32>,
    steps: u32,
}

impl TreeKill {
    pub(crate) const fn new(root: Pid) -> Self {
        Self { root, known: BTreeSet::new(), steps: 0 }
    }

    /// One step; `true` when the first process was killed, too. Its end is seen as any other.
    pub(crate) fn step(&mut self, proc: &OwnedFd) -> bool {
        self.steps += 1;
        signal(self.root.as_raw_nonzero().get(), Signal::STOP);
        let mut alive = true;
        for _ in 0..KILL_PASSES {
            let Ok(table) = procfs::processes(proc) else { break };
            let below = self.below(&table);
            alive = below.iter().any(|process| !process.zombie);
            let mut stable = true;
            for process in below {
                if self.known.insert(process.pid) {
                    signal(process.pid, Signal::STOP);
                    stable = false;
                }
            }
            if stable {
                break;
            }
        }
        for pid in &self.known {
            signal(*pid, Signal::KILL);
        }
        // Numbers are only kept within a step: a dead one may be given to another process.
        self.known.clear();
        if alive && self.steps < KILL_STEPS {
            return false;
        }
        signal(self.root.as_raw_nonzero().get(), Signal::KILL);
        true
    }

    fn below(&self, table: &[Process]) -> Vec<Process> {
        let mut inside = BTreeSet::from([self.root.as_raw_nonzero().get()]);
        let mut found = Vec::new();
        loop {
            let before = found.len();
            for process in table {
                if inside.contains(&process.parent) && inside.insert(process.pid) {
                    found.push(*process);
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // One that is gone already needs no signal.
        let _ = rustix::process::kill_process(pid, signal);
    }
}
