//! One command: its process, streams, journal and readers.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, WaitStatus},
};
use stacyvm_agent_proto::{Bytes, End, Input, MAX_CHUNK, Reply, StreamId, encode};
use stacyvm_hostkit::{pty, signals};

use crate::{
    console::Console,
    journal::Journal,
    limits::{GREETING, JOURNAL, KILL_PAUSE, LAST_OUTPUT, READ_SIZE},
    poll::{Interest, Poll, Source, Watched},
    start::Launched,
    stdio::{Output, Stdin},
    tree::TreeKill,
};

/// Someone who follows a command.
struct Reader {
    key: (u32, StreamId),
    next: u64,
    greeted: bool,
}

/// Whether someone follows a command.
#[derive(Clone, Copy)]
enum Company {
    /// Someone does, or nobody has vanished yet.
    Followed,
    /// The last reader vanished; until then the command waits for another.
    Alone(Instant),
    /// Nobody came back: its oldest output gives way.
    Abandoned,
}

/// Whether a pipe is empty and nobody is left who could write to it: how most commands end.
fn is_deserted(pipe: &Watched) -> bool {
    let mut state = [PollFd::new(pipe, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut state, Some(&now)), Ok(1)) && state[0].revents() == PollFlags::HUP
}

/// Where a command is in its life.
pub(crate) enum Phase {
    /// Its program runs.
    Running,
    /// It ended, and all its output is in the journal.
    Ended(End, Instant),
}

/// What a reader got.
pub(crate) enum Produced {
    /// Nothing new.
    Nothing,
    /// Some messages.
    Some,
    /// The last message.
    Last,
}

/// A command.
pub(crate) struct Exec {
    pub(crate) id: Box<str>,
    pub(crate) pid: Pid,
    pub(crate) phase: Phase,
    /// Until then its readers are not told that it runs, and its output is not looked at: most short
    /// commands have ended by then, and everything about them is done and told in one turn. Cleared
    /// by the timer or the end, and never compared with another reading of the clock.
    quiet_until: Option<Instant>,
    pub(crate) journal: Journal,
    serial: u64,
    terminal: bool,
    stdout: Option<Output>,
    stderr: Option<Output>,
    stdin: Option<Stdin>,
    readers: Vec<Reader>,
    company: Company,
    deadline: Option<Instant>,
    kill: Option<(TreeKill, Instant)>,
    timed_out: bool,
}

/// What identifies a new command.
pub(crate) struct Identity<'a> {
    pub(crate) id: &'a str,
    pub(crate) serial: u64,
    pub(crate) terminal: bool,
    pub(crate) deadline: Option<Instant>,
}

impl Exec {
    pub(crate) fn new(identity: &Identity<'_>, launched: Launched, poll: &mut Poll) -> Self {
        let serial = identity.serial;
        let stdout = poll.adopt(launched.stdout, Source::Output(serial, false));
        let stderr = launched.stderr.map(|fd| poll.adopt(fd, Source::Output(serial, true)));
        let stdin = launched.stdin.map(|fd| poll.adopt(fd, Source::Stdin(serial)));
        Self {
            id: identity.id.into(),
            pid: launched.pid,
            phase: Phase::Running,
            // What a terminal shows is somebody's echo.
            quiet_until: (!identity.terminal).then(|| Instant::now() + GREETING),
            journal: Journal::default(),
            serial,
            terminal: identity.terminal,
            stdout: Some(Output::new(stdout)),
            stderr: stderr.map(Output::new),
            stdin: stdin.map(|pipe| Stdin::new(pipe, identity.terminal)),
            readers: Vec::new(),
            company: Company::Followed,
            deadline: identity.deadline,
            kill: None,
            timed_out: false,
        }
    }

    pub(crate) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended(..))
    }

    /// When it ended, if it did and nobody follows it.
    pub(crate) fn forgettable_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended(_, at) if self.readers.is_empty() => Some(at),
            Phase::Running | Phase::Ended(..) => None,
        }
    }

    pub(crate) fn attach(&mut self, key: (u32, StreamId), offset: u64) {
        self.readers.push(Reader { key, next: offset, greeted: false });
        self.company = Company::Followed;
    }

    /// A reader leaves; if it was the last, another is waited for until then.
    pub(crate) fn detach(&mut self, key: (u32, StreamId), until: Instant) {
        self.readers.retain(|reader| reader.key != key);
        if self.readers.is_empty() {
            self.company = Company::Alone(until);
        }
    }

    /// Writes what a reader has not seen yet, a bounded part of it.
    pub(crate) fn produce(&mut self, key: (u32, StreamId), out: &mut Vec<u8>) -> Produced {
        let greet_later = self.quiet_until.is_some() && self.journal.end() == 0;
        let Some(reader) = self.readers.iter_mut().find(|reader| reader.key == key) else {
            return Produced::Nothing;
        };
        if !reader.greeted {
            if greet_later {
                return Produced::Nothing;
            }
            reader.greeted = true;
            encode(&Reply::Started, out);
        }
        if reader.next < self.journal.start() {
            reader.next = self.journal.start();
            encode(&Reply::Truncated { resume: reader.next }, out);
        }
        while out.len() < MAX_CHUNK
            && let Some(piece) = self.journal.piece(reader.next, MAX_CHUNK)
        {
            let data = Bytes(&piece.data);
            encode(&Reply::Output { offset: reader.next, stderr: piece.stderr, data }, out);
            reader.next += piece.data.len() as u64;
        }
        match self.phase {
            Phase::Ended(end, _) if self.journal.end() <= reader.next => {
                encode(&Reply::Exit(end), out);
                Produced::Last
            }
            _ if out.is_empty() => Produced::Nothing,
            _ => Produced::Some,
        }
    }

    /// The oldest offset that a reader still needs.
    fn slowest(&self) -> Option<u64> {
        let start = self.journal.start();
        self.readers.iter().map(|reader| reader.next.max(start)).min()
    }

    /// How many bytes may be read from the command now.
    fn allowance(&self) -> u64 {
        let kept = match (self.slowest(), self.company) {
            (Some(slowest), _) => self.journal.end() - slowest,
            (None, Company::Abandoned) => 0,
            (None, Company::Followed | Company::Alone(_)) => self.journal.len(),
        };
        JOURNAL.saturating_sub(kept)
    }

    fn record(&mut self, stderr: bool, data: &[u8]) {
        let needed = match (self.slowest(), self.company) {
            (Some(slowest), _) => slowest,
            (None, Company::Abandoned) => u64::MAX,
            (None, Company::Followed | Company::Alone(_)) => self.journal.start(),
        };
        self.journal.append(stderr, data, needed);
    }

    /// Waits for output exactly while there is room for it.
    pub(crate) fn watch_output(&mut self, poll: &Poll) {
        if self.quiet_until.is_some() {
            return;
        }
        let interest = if 0 < self.allowance() { Interest::IN } else { Interest::empty() };
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            poll.set(&mut output.pipe, interest);
        }
    }

    const fn output(&mut self, stderr: bool) -> &mut Option<Output> {
        if stderr { &mut self.stderr } else { &mut self.stdout }
    }

    /// Reads once from a stream that is ready.
    pub(crate) fn read_output(
        &mut self,
        stderr: bool,
        poll: &mut Poll,
        console: &mut Console,
        buffer: &mut [u8],
    ) {
        let room = usize::try_from(self.allowance()).unwrap_or(usize::MAX);
        let most = buffer.len().min(READ_SIZE).min(room);
        let Some(output) = self.output(stderr) else { return };
        if most == 0 {
            return;
        }
        match rustix::io::read(output.pipe.as_fd(), &mut buffer[..most]) {
            Ok(length) if 0 < length => {
                let bytes = output.complete(&buffer[..length]);
                console.push(&buffer[..length]);
                self.record(stderr, &bytes);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The end of a pipe, or a terminal that nobody holds any more.
            Ok(_) | Err(_) => self.close_output(stderr, poll),
        }
    }

    fn close_output(&mut self, stderr: bool, poll: &mut Poll) {
        let Some(mut output) = self.output(stderr).take() else { return };
        let rest = output.rest();
        self.record(stderr, &rest);
        drop(poll.release(output.pipe));
    }

    /// Takes what the command wrote before it ended, without waiting for anything that still holds
    /// its streams open. Returns the streams that something does hold open.
    fn last_output(
        &mut self,
        poll: &mut Poll,
        console: &mut Console,
        buffer: &mut [u8],
    ) -> Vec<Watched> {
        let mut leftovers = Vec::new();
        for stderr in [false, true] {
            let is_terminal = self.terminal;
            let Some(mut output) = self.output(stderr).take() else { continue };
            let there = rustix::io::ioctl_fionread(output.pipe.as_fd()).unwrap_or(0);
            let there = usize::try_from(there).unwrap_or(LAST_OUTPUT).min(LAST_OUTPUT);
            // A terminal passes output on by itself, so it is asked until it has no more.
            let mut left = if is_terminal { LAST_OUTPUT } else { there };
            let mut open = true;
            while 0 < left {
                let most = left.min(buffer.len());
                match rustix::io::read(output.pipe.as_fd(), &mut buffer[..most]) {
                    Ok(length) if 0 < length => {
                        left -= length;
                        console.push(&buffer[..length]);
                        let bytes = output.complete(&buffer[..length]);
                        // A slow reader must not lose the end, so the limit may be passed here.
                        self.journal.append(stderr, &bytes, 0);
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Ok(_) | Err(_) => {
                        open = false;
                        break;
                    }
                }
            }
            self.journal.append(stderr, &output.rest(), 0);
            if open && !is_terminal && !is_deserted(&output.pipe) {
                leftovers.push(output.pipe);
            } else {
                drop(poll.release(output.pipe));
            }
        }
        leftovers
    }

    /// The process ended. Returns pipes that something it left behind may still hold.
    pub(crate) fn ended(
        &mut self,
        status: WaitStatus,
        poll: &mut Poll,
        console: &mut Console,
        buffer: &mut [u8],
        now: Instant,
    ) -> Vec<Watched> {
        let leftovers = self.last_output(poll, console, buffer);
        let end = match (status.exit_status(), status.terminating_signal()) {
            _ if self.timed_out => End::Timeout,
            (Some(code), _) => End::Code(code),
            (None, Some(signal)) => End::Signal(signal),
            (None, None) => End::Lost,
        };
        self.close_stdin(poll);
        self.journal.settle();
        self.deadline = None;
        self.quiet_until = None;
        self.kill = None;
        self.phase = Phase::Ended(end, now);
        leftovers
    }

    /// What a reader sends.
    pub(crate) fn input(&mut self, input: &Input<'_>, poll: &mut Poll) {
        if self.is_over() {
            return;
        }
        match *input {
            Input::Data(bytes) => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.push(bytes.0);
                }
                self.flush_stdin(poll);
            }
            Input::Eof => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.end();
                }
                self.flush_stdin(poll);
            }
            Input::Signal(signal) => {
                if (1..=signals::MAX_SIGNAL).contains(&signal) {
                    // A group that is gone needs no signal; the end is on its way.
                    let _ = signals::send_group(self.pid, signal);
                }
            }
            Input::Resize { rows, cols } => {
                if let Some(output) = self.stdout.as_ref().filter(|_| self.terminal) {
                    // A terminal that is gone has no size.
                    let _ = pty::resize(output.pipe.as_fd(), rows, cols);
                }
            }
        }
    }

    /// How many bytes wait for the command to read them.
    pub(crate) fn stdin_waiting(&self) -> usize {
        self.stdin.as_ref().map_or(0, Stdin::waiting)
    }

    pub(crate) fn flush_stdin(&mut self, poll: &mut Poll) {
        if self.stdin.as_mut().is_some_and(|stdin| !stdin.flush(poll)) {
            self.close_stdin(poll);
        }
    }

    fn close_stdin(&mut self, poll: &mut Poll) {
        if let Some(stdin) = self.stdin.take() {
            drop(poll.release(stdin.pipe));
        }
    }

    /// When something must happen without an event.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let kill = self.kill.as_ref().map(|(_, at)| *at);
        let alone = match self.company {
            Company::Alone(until) if !self.is_over() => Some(until),
            Company::Followed | Company::Alone(_) | Company::Abandoned => None,
        };
        [self.deadline, kill, alone, self.quiet_until].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn on_timer(&mut self, proc: &OwnedFd, now: Instant) {
        self.quiet_until = self.quiet_until.filter(|until| now < *until);
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.timed_out = true;
            self.kill = Some((TreeKill::new(self.pid), now));
        }
        if let Some((kill, at)) = &mut self.kill
            && *at <= now
        {
            if kill.step(proc) {
                self.kill = None;
            } else {
                *at = now + KILL_PAUSE;
            }
        }
        if let Company::Alone(until) = self.company
            && until <= now
        {
            self.company = Company::Abandoned;
        }
    }

    /// The serial under which the agent knows it.
    pub(crate) const fn serial(&self) -> u64 {
        self.serial
    }
}
