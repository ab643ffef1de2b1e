//! The loop: what is ready, whose it is, and what each can do next.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    net::SocketFlags,
    process::{DumpableBehavior, Pid, WaitOptions, WaitStatus},
};
use stacyvm_agent_proto::{Event, StreamId};
use stacyvm_hostkit::{
    process::{self, Starter},
    signals,
};

use crate::{
    Setup,
    connection::{Broken, Connection},
    console::Console,
    exec::Exec,
    files::Root,
    limits::{
        ENDED_BYTES, ENDED_FOR, MAX_CONNECTIONS, MAX_ENDED, MAX_LEFTOVERS, READ_SIZE, READER_GRACE,
        READS_PER_TURN,
    },
    poll::{Interest, Poll, Source, Watched},
    started::StartedIds,
    stream::{Stream, Work},
};

/// Where connections come from.
pub(crate) enum Channel {
    /// A listening socket.
    Listener(OwnedFd),
    /// This is the only one.
    Single(OwnedFd),
}

/// What requests need to know of the sandbox.
pub(crate) struct Context {
    pub(crate) root: Root,
    pub(crate) proc: OwnedFd,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) workspace: String,
    /// The null device, opened before anyone could replace it.
    pub(crate) null: Option<OwnedFd>,
}

/// Everything that the agent holds.
pub(crate) struct Agent {
    pub(crate) poll: Poll,
    pub(crate) context: Context,
    pub(crate) starter: Starter,
    pub(crate) execs: BTreeMap<u64, Exec>,
    pub(crate) started: StartedIds,
    pub(crate) console: Console,
    pub(crate) connections: BTreeMap<u32, Connection>,
    pub(crate) next_serial: u64,
    pub(crate) reader_grace: Duration,
    listener: Option<Watched>,
    children: Watched,
    leftovers: BTreeMap<u64, Watched>,
    next_connection: u32,
    /// Whether something could go on without any event.
    pub(crate) busy: bool,
    buffer: Vec<u8>,
}

/// Sets up and never returns. What cannot be set up ends the process: its launcher sees that.
pub(crate) fn serve(channel: Channel, setup: Setup) -> ! {
    let Ok(mut agent) = Agent::new(channel, setup) else { std::process::exit(1) };
    let mut ready = Vec::new();
    loop {
        agent.turn(&mut ready);
        if agent.listener.is_none() && agent.connections.is_empty() {
            std::process::exit(0);
        }
    }
}

impl Agent {
    fn new(channel: Channel, setup: Setup) -> std::io::Result<Self> {
        signals::reset();
        signals::ignore_broken_pipes();
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let mut poll = Poll::new()?;
        let mut children = poll.adopt(signals::child_events()?, Source::Children);
        poll.set(&mut children, Interest::IN);
        let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let proc = match setup.proc {
            Some(proc) => proc,
            None => rustix::fs::open("/proc", directory, Mode::empty())?,
        };
        let null_flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let workspace = match setup.workspace {
            path if path.is_empty() => "/workspace".to_owned(),
            path => path,
        };
        let context = Context {
            root: Root::open()?,
            proc,
            env: setup.env,
            workspace,
            null: rustix::fs::open("/dev/null", null_flags, Mode::empty()).ok(),
        };
        let mut agent = Self {
            poll,
            context,
            starter: Starter::new()?,
            execs: BTreeMap::new(),
            started: StartedIds::default(),
            console: Console::default(),
            connections: BTreeMap::new(),
            next_serial: 0,
            reader_grace: setup.reader_grace.unwrap_or(READER_GRACE),
            listener: None,
            children,
            leftovers: BTreeMap::new(),
            next_connection: 0,
            busy: false,
            buffer: Vec::new(),
        };
        match channel {
            Channel::Listener(listener) => {
                rustix::io::ioctl_fionbio(&listener, true)?;
                let mut listener = agent.poll.adopt(listener, Source::Listener);
                agent.poll.set(&mut listener, Interest::IN);
                agent.listener = Some(listener);
            }
            Channel::Single(channel) => {
                rustix::io::ioctl_fionbio(&channel, true)?;
                agent.connect(channel);
            }
        }
        Ok(agent)
    }

    /// Waits for something, and does everything that follows from it.
    fn turn(&mut self, ready: &mut Vec<(u64, Interest)>) {
        let timeout = if self.busy { Some(Duration::ZERO) } else { self.until_timer() };
        self.busy = false;
        self.poll.wait(timeout, ready);
        for (token, interest) in ready.iter() {
            if let Some(source) = self.poll.source(*token) {
                self.on_event(source, *interest);
            }
        }
        self.on_timers();
        let ids: Vec<u32> = self.connections.keys().copied().collect();
        for id in ids {
            self.pump(id);
        }
        for exec in self.execs.values_mut().filter(|exec| !exec.is_over()) {
            exec.watch_output(&self.poll);
        }
    }

    fn on_event(&mut self, source: Source, _interest: Interest) {
        match source {
            Source::Listener => self.accept(),
            Source::Children => self.reap(),
            Source::Connection(id) => self.read_connection(id),
            Source::Output(serial, stderr) => {
                self.lend_buffer();
                if let Some(exec) = self.execs.get_mut(&serial) {
                    exec.read_output(stderr, &mut self.poll, &mut self.console, &mut self.buffer);
                }
            }
            Source::Stdin(serial) => {
                if let Some(exec) = self.execs.get_mut(&serial) {
                    exec.flush_stdin(&mut self.poll);
                }
            }
            Source::Dial(connection, stream) => self.on_dial(connection, stream),
            Source::Leftover(key) => self.read_leftover(key),
        }
    }

    fn lend_buffer(&mut self) {
        self.buffer.resize(READ_SIZE, 0);
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        if let Ok(socket) = rustix::net::accept_with(listener.as_fd(), flags) {
            if MAX_CONNECTIONS <= self.connections.len() {
                return;
            }
            self.connect(socket);
        }
    }

    fn connect(&mut self, socket: OwnedFd) {
        self.next_connection = self.next_connection.wrapping_add(1);
        let id = self.next_connection;
        let socket = self.poll.adopt(socket, Source::Connection(id));
        let mut connection = Connection::new(socket);
        connection.watch(&self.poll);
        self.connections.insert(id, connection);
    }

    /// Ends a connection and whatever hung on it. Commands run on.
    pub(crate) fn disconnect(&mut self, id: u32) {
        let Some(connection) = self.connections.remove(&id) else { return };
        for (stream_id, stream) in connection.streams {
            self.drop_work((id, stream_id), stream.work);
        }
        drop(self.poll.release(connection.socket));
        if self.connections.is_empty() {
            self.buffer = Vec::new();
            process::release_memory();
        }
    }

    /// Undoes what a stream that is gone was doing.
    pub(crate) fn drop_work(&mut self, key: (u32, StreamId), work: Work) {
        match work {
            Work::Follow(serial) => {
                if let Some(exec) = self.execs.get_mut(&serial) {
                    exec.detach(key, Instant::now() + self.reader_grace);
                }
            }
            Work::Dial(dial) => dial.close(&mut self.poll),
            Work::Waiting | Work::Read(_) | Work::Write(_) | Work::Walk(_) | Work::Over => {}
        }
    }

    fn read_connection(&mut self, id: u32) {
        self.lend_buffer();
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.connections.get(&id) else { break };
            let read = connection.read(&mut buffer);
            let result = match read {
                Ok(None) => break,
                Ok(Some(length)) => self.receive(id, &buffer[..length]),
                Err(broken) => Err(broken),
            };
            if result.is_err() {
                self.disconnect(id);
                return;
            }
        }
        self.buffer = buffer;
    }

    fn receive(&mut self, id: u32, mut input: &[u8]) -> Result<(), Broken> {
        loop {
            let connection = self.connections.get_mut(&id).ok_or(Broken)?;
            match connection.mux.receive(&mut input).map_err(|_| Broken)? {
                None => return Ok(()),
                Some(Event::Opened(stream)) => {
                    connection.streams.insert(stream, Stream::new());
                }
                Some(Event::Data(stream, data)) => self.on_data(id, stream, data),
                Some(Event::Ended(stream)) => self.on_ended(id, stream),
                Some(Event::Reset(stream)) => {
                    if let Some(gone) = connection.streams.remove(&stream) {
                        self.drop_work((id, stream), gone.work);
                    }
                }
                Some(Event::Writable(_) | Event::GoAway(_)) => {}
            }
        }
    }

    fn reap(&mut self) {
        signals::drain(self.children.as_fd());
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.on_child(pid, status);
        }
    }

    /// A child is gone: a command, or an orphan that nobody waits for.
    fn on_child(&mut self, pid: Pid, status: WaitStatus) {
        let found = self.execs.values().find(|exec| exec.pid == pid && !exec.is_over());
        let Some(serial) = found.map(Exec::serial) else { return };
        self.lend_buffer();
        let Some(exec) = self.execs.get_mut(&serial) else { return };
        let leftovers =
            exec.ended(status, &mut self.poll, &mut self.console, &mut self.buffer, Instant::now());
        for leftover in leftovers {
            self.keep_leftover(leftover);
        }
        self.forget_old();
    }

    /// Keeps a pipe open that something a command left behind still holds, so that its writes do
    /// not fail.
    fn keep_leftover(&mut self, mut pipe: Watched) {
        self.next_serial += 1;
        let key = self.next_serial;
        self.poll.reassign(&pipe, Source::Leftover(key));
        self.poll.set(&mut pipe, Interest::IN);
        self.leftovers.insert(key, pipe);
        if MAX_LEFTOVERS < self.leftovers.len()
            && let Some((_, oldest)) = self.leftovers.pop_first()
        {
            drop(self.poll.release(oldest));
        }
    }

    fn read_leftover(&mut self, key: u64) {
        self.lend_buffer();
        let Some(pipe) = self.leftovers.get(&key) else { return };
        match rustix::io::read(pipe.as_fd(), &mut self.buffer[..]) {
            Ok(length) if 0 < length => self.console.push(&self.buffer[..length]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => {
                if let Some(pipe) = self.leftovers.remove(&key) {
                    drop(self.poll.release(pipe));
                }
            }
        }
    }

    fn until_timer(&self) -> Option<Duration> {
        let forget = self.execs.values().filter_map(Exec::forgettable_since).min();
        let next = self.execs.values().filter_map(Exec::next_timer).min();
        let next = [next, forget.map(|since| since + ENDED_FOR)].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn on_timers(&mut self) {
        let now = Instant::now();
        for exec in self.execs.values_mut() {
            if exec.next_timer().is_some_and(|at| at <= now) {
                exec.on_timer(&self.context.proc, now);
            }
        }
        self.forget_old();
    }

    /// Forgets ended commands that are too old, too many or too large, the oldest first.
    fn forget_old(&mut self) {
        let mut ended: Vec<(Instant, u64, u64)> = self
            .execs
            .values()
            .filter_map(|exec| Some((exec.forgettable_since()?, exec.serial(), exec.journal.len())))
            .collect();
        ended.sort_unstable();
        let mut bytes: u64 = ended.iter().map(|(_, _, bytes)| bytes).sum();
        let mut count = ended.len();
        let now = Instant::now();
        for (since, serial, size) in ended {
            let keep = count <= MAX_ENDED && bytes <= ENDED_BYTES && now < since + ENDED_FOR;
            if keep {
                return;
            }
            self.execs.remove(&serial);
            count -= 1;
            bytes -= size;
        }
    }
}
