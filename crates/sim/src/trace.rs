//! What happened in a run, in order. Two runs of a seed have the same trace, to the byte.

use std::{collections::VecDeque, fmt, time::Duration};

/// Lines that are kept for a failure's report.
const TAIL: usize = 200;

/// The trace of a run: all of it as one number, the end of it as text.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
    /// Where each line goes at once, for a replay that is watched.
    print: bool,
}

impl Trace {
    pub(crate) const fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: 0, tail: VecDeque::new(), print }
    }

    pub(crate) fn note(&mut self, at: Duration, who: &str, what: fmt::Arguments<'_>) {
        let line = format!("{:>11.6} {who:<8} {what}", at.as_secs_f64());
        // FNV-1a: not for enemies, and the same everywhere.
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.lines += 1;
        if self.print {
            print_line(&line);
        }
        if TAIL <= self.tail.len() {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}

#[expect(clippy::print_stdout, reason = "a replay is asked for by somebody who watches")]
fn print_line(line: &str) {
    println!("{line}");
}
