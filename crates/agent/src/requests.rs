//! What each request does, and how its answer flows.

use std::time::{Duration, Instant};

use stacyvm_agent_proto::{
    Bytes, Exec as ExecRequest, FailKind, HelloReply, Input, MAX_CHUNK, PROTOCOL_VERSION, Reply,
    Request, StreamId, Usage, decode, mux::OUTPUT_LIMIT,
};
use stacyvm_hostkit::process;

use crate::{
    agent::{Agent, Context},
    dial::{Dial, Dialed},
    exec::{Exec, Identity, Produced},
    fail::{Fail, Result},
    files::{self, Upload},
    limits::{MAX_EXEC_ID, MAX_RUNNING, STDIN_QUEUE},
    procfs,
    start::launch,
    stream::{Slice, Stream, Work},
};

/// A clock tick as procfs counts it, which is fixed for programs.
const TICK_US: u64 = 10_000;

/// Turns of one stream before the next gets its own.
const ROUNDS: usize = 4;

type Key = (u32, StreamId);

impl Agent {
    fn stream(&mut self, (connection, stream): Key) -> Option<&mut Stream> {
        self.connections.get_mut(&connection)?.streams.get_mut(&stream)
    }

    /// Bytes arrived on a stream.
    pub(crate) fn on_data(&mut self, connection: u32, id: StreamId, data: &[u8]) {
        let key = (connection, id);
        let Some(stream) = self.stream(key) else { return };
        stream.owed += data.len();
        if let Work::Dial(dial) = &mut stream.work {
            dial.push(data);
            let dialed = dial.flush();
            self.after_dial(key, dialed);
        } else {
            stream.inbox.push(data);
            self.take_messages(key);
        }
        self.give_back(key);
    }

    /// Lets the peer send more, unless what it sent still waits for a slow receiver.
    fn give_back(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key.0) else { return };
        let Some(stream) = connection.streams.get_mut(&key.1) else { return };
        let waiting = match &stream.work {
            Work::Follow(serial) => self.execs.get(serial).map_or(0, Exec::stdin_waiting),
            Work::Dial(dial) => dial.waiting(),
            Work::Waiting | Work::Read(_) | Work::Write(_) | Work::Walk(_) | Work::Over => 0,
        };
        if waiting < STDIN_QUEUE {
            let owed = std::mem::take(&mut stream.owed);
            connection.mux.consumed(key.1, owed);
        }
    }

    fn take_messages(&mut self, key: Key) {
        let Some(stream) = self.stream(key) else { return };
        let mut inbox = std::mem::take(&mut stream.inbox);
        let mut malformed = false;
        loop {
            match inbox.next_raw() {
                Ok(Some(raw)) => {
                    if self.on_message(key, raw).is_err() {
                        malformed = true;
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    malformed = true;
                    break;
                }
            }
        }
        let Some(stream) = self.stream(key) else { return };
        if malformed {
            let fail = Fail::new(FailKind::Unsupported, "the agent does not know this request");
            let work = std::mem::replace(&mut stream.work, Work::Over);
            stream.fail(&fail);
            self.drop_work(key, work);
        } else if matches!(stream.work, Work::Dial(_)) {
            let rest = inbox.take_rest();
            if let Work::Dial(dial) = &mut stream.work {
                dial.push(&rest);
            }
        } else if !inbox.is_empty() {
            stream.inbox = inbox;
        }
    }

    fn on_message(&mut self, key: Key, raw: &[u8]) -> Result<(), ()> {
        let Some(stream) = self.stream(key) else { return Ok(()) };
        match &mut stream.work {
            Work::Waiting => {
                let request = decode(raw).map_err(drop)?;
                self.start(key, request);
            }
            Work::Follow(serial) => {
                let serial = *serial;
                let input = decode(raw).map_err(drop)?;
                if let Some(exec) = self.execs.get_mut(&serial) {
                    exec.input(&input, &mut self.poll);
                }
            }
            Work::Write(upload) => {
                let done = match decode(raw).map_err(drop)? {
                    Input::Data(bytes) => upload.write(bytes.0).err().map(Err),
                    Input::Eof => Some(upload.complete()),
                    Input::Signal(_) | Input::Resize { .. } => return Err(()),
                };
                if let Some(result) = done {
                    stream.work = Work::Over;
                    stream.conclude(&result.map(Reply::Stat));
                }
            }
            // What the host says after it has all it asked for, or too early, means nothing.
            Work::Read(_) | Work::Walk(_) | Work::Dial(_) | Work::Over => {}
        }
        Ok(())
    }

    fn start(&mut self, key: Key, request: Request<'_>) {
        let work = self.begin(key, request);
        let Some(stream) = self.stream(key) else { return };
        match work {
            Ok(work) => stream.work = work,
            Err(fail) => {
                stream.work = Work::Over;
                stream.fail(&fail);
            }
        }
    }

    fn begin(&mut self, key: Key, request: Request<'_>) -> Result<Work> {
        let root = &self.context.root;
        match request {
            Request::Hello(_) => {
                let running = self.execs.values().filter(|exec| !exec.is_over()).count();
                let reply = HelloReply {
                    version: PROTOCOL_VERSION,
                    build: env!("CARGO_PKG_VERSION"),
                    running: u32::try_from(running).unwrap_or(u32::MAX),
                };
                self.answer(key, &Reply::Hello(reply))
            }
            Request::Exec(request) => self.begin_exec(key, &request),
            Request::Attach { id, offset } => self.attach(key, id, offset),
            Request::Read { path, range } => {
                let reading = root.read(path, range)?;
                if let Some(stream) = self.stream(key) {
                    stream.say(&reading.head());
                }
                Ok(Work::Read(reading))
            }
            Request::Write { path, mode } => {
                let upload = Upload::begin(root, path, mode)?;
                if let Some(stream) = self.stream(key) {
                    stream.say(&Reply::Ready);
                }
                Ok(Work::Write(Box::new(upload)))
            }
            Request::List { path } => Ok(Work::Walk(Box::new(files::Listing::begin(root, path)?))),
            Request::Glob { pattern } => {
                Ok(Work::Walk(Box::new(files::Glob::begin(pattern, &self.context.workspace)?)))
            }
            Request::Remove { path, recursive: true } => {
                Ok(Work::Walk(Box::new(files::Removal::begin(root, path)?)))
            }
            Request::Stat { path } => {
                let entry = root.stat(path)?;
                self.answer(key, &Reply::Stat(entry))
            }
            Request::Rename { from, to } => root.rename(from, to).and_then(|()| self.done(key)),
            Request::Chmod { path, mode } => root.chmod(path, mode).and_then(|()| self.done(key)),
            Request::Remove { path, recursive: false } => {
                root.remove(path).and_then(|()| self.done(key))
            }
            Request::Dial { port } => {
                let dial = Dial::begin(port, key, &mut self.poll)?;
                Ok(Work::Dial(Box::new(dial)))
            }
            Request::Stats => {
                let usage = usage(&self.context);
                self.answer(key, &Reply::Stats(usage))
            }
            Request::Logs { lines } => {
                let lines = usize::try_from(lines).unwrap_or(usize::MAX);
                let lines = self.console.lines(lines);
                self.answer(key, &Reply::Lines(lines.into_iter().map(Into::into).collect()))
            }
        }
    }

    fn answer(&mut self, key: Key, reply: &Reply<'_>) -> Result<Work> {
        if let Some(stream) = self.stream(key) {
            stream.say(reply);
            stream.last = true;
        }
        Ok(Work::Over)
    }

    fn done(&mut self, key: Key) -> Result<Work> {
        self.answer(key, &Reply::Done)
    }

    fn begin_exec(&mut self, key: Key, request: &ExecRequest<'_>) -> Result<Work> {
        if request.id.is_empty() || MAX_EXEC_ID < request.id.len() {
            return Err(Fail::invalid("the exec id is empty or too long"));
        }
        if self.execs.values().any(|exec| *exec.id == *request.id) {
            return self.attach(key, request.id, 0);
        }
        if self.started.contains(request.id) {
            let message =
                format!("command {} has run, and its output is not kept any more", request.id);
            return Err(Fail::new(FailKind::NotFound, message));
        }
        if MAX_RUNNING <= self.execs.values().filter(|exec| !exec.is_over()).count() {
            let message = format!("{MAX_RUNNING} commands run in this sandbox already");
            return Err(Fail::new(FailKind::Exhausted, message));
        }
        let launched = launch(&self.context, &mut self.starter, request)?;
        self.started.insert(request.id);
        self.next_serial += 1;
        let deadline = request.deadline_ms.map(Duration::from_millis);
        let identity = Identity {
            id: request.id,
            serial: self.next_serial,
            terminal: request.terminal.is_some(),
            deadline: deadline.and_then(|after| Instant::now().checked_add(after)),
        };
        let mut exec = Exec::new(&identity, launched, &mut self.poll);
        exec.attach(key, 0);
        self.execs.insert(identity.serial, exec);
        Ok(Work::Follow(identity.serial))
    }

    fn attach(&mut self, key: Key, id: &str, offset: u64) -> Result<Work> {
        let exec = self.execs.values_mut().find(|exec| *exec.id == *id).ok_or_else(|| {
            Fail::new(FailKind::NotFound, format!("no command {id} is known, or not any more"))
        })?;
        if exec.journal.end() < offset {
            let message = format!("offset {offset} is after the output's end");
            return Err(Fail::invalid(message));
        }
        exec.attach(key, offset);
        Ok(Work::Follow(exec.serial()))
    }

    /// The host sends no more on a stream.
    pub(crate) fn on_ended(&mut self, connection: u32, id: StreamId) {
        let key = (connection, id);
        let Some(stream) = self.stream(key) else { return };
        stream.peer_ended = true;
        match &mut stream.work {
            Work::Waiting => {
                stream.work = Work::Over;
                stream.last = true;
            }
            Work::Write(_) => {
                // Dropping an upload that is not complete undoes it.
                stream.work = Work::Over;
                stream.fail(&Fail::invalid("the file's end was not sent"));
            }
            Work::Dial(dial) => {
                dial.end_input();
                let dialed = dial.flush();
                self.after_dial(key, dialed);
            }
            Work::Follow(_) | Work::Read(_) | Work::Walk(_) | Work::Over => {}
        }
    }

    /// A dialled socket is ready.
    pub(crate) fn on_dial(&mut self, connection: u32, id: StreamId) {
        let key = (connection, id);
        let Some(host) = self.connections.get_mut(&connection) else { return };
        let Some(stream) = host.streams.get_mut(&id) else { return };
        let Work::Dial(dial) = &mut stream.work else { return };
        let dialed = dial.on_ready(key, &mut self.poll, &mut stream.out);
        self.after_dial(key, dialed);
    }

    fn after_dial(&mut self, key: Key, dialed: Dialed) {
        let Some(stream) = self.stream(key) else { return };
        let fail = match dialed {
            Dialed::Going => return,
            Dialed::Broken => None,
            Dialed::Refused(fail) => Some(fail),
        };
        let work = std::mem::replace(&mut stream.work, Work::Over);
        stream.last = true;
        if let Some(fail) = fail {
            stream.fail(&fail);
        }
        self.drop_work(key, work);
    }

    /// Lets every stream of a connection go on as far as the host takes it, then writes.
    pub(crate) fn pump(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut progress = false;
        for stream in connection.in_turn() {
            progress |= self.pump_stream((id, stream));
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // A stream that found no room made no progress, and nothing else would wake it.
        let full = OUTPUT_LIMIT <= connection.mux.output().len();
        if connection.write().is_err() {
            self.disconnect(id);
            return;
        }
        self.busy |= (progress || full) && connection.mux.output().is_empty();
        connection.watch(&self.poll);
    }

    /// Whether the stream could go on at once if what it said so far were written.
    fn pump_stream(&mut self, key: Key) -> bool {
        self.give_back(key);
        let mut more = false;
        for _ in 0..ROUNDS {
            let Some(connection) = self.connections.get_mut(&key.0) else { return false };
            let Some(stream) = connection.streams.get_mut(&key.1) else { return false };
            if stream.sent < stream.out.len() {
                let Ok(taken) = connection.mux.send(key.1, &stream.out[stream.sent..]) else {
                    return false;
                };
                stream.sent += taken;
                if stream.sent < stream.out.len() {
                    return 0 < taken;
                }
            }
            stream.out.clear();
            stream.sent = 0;
            if stream.last {
                connection.mux.finish(key.1);
                if let Some(stream) = connection.streams.remove(&key.1) {
                    self.drop_work(key, stream.work);
                }
                return false;
            }
            more = self.produce(key);
            if !more {
                break;
            }
        }
        more
    }

    /// Makes the next part of an answer; whether there may be more.
    fn produce(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(&key.0) else { return false };
        let room = connection.mux.capacity(key.1);
        let Some(stream) = connection.streams.get_mut(&key.1) else { return false };
        match &mut stream.work {
            Work::Waiting | Work::Write(_) | Work::Over => false,
            Work::Follow(serial) => match self.execs.get_mut(serial) {
                None => false,
                Some(exec) => match exec.produce(key, &mut stream.out) {
                    Produced::Nothing => false,
                    Produced::Some => true,
                    Produced::Last => {
                        stream.last = true;
                        true
                    }
                },
            },
            Work::Read(reading) => {
                match reading.next(MAX_CHUNK) {
                    Ok(bytes) if bytes.is_empty() => stream.conclude(&Ok(Reply::Done)),
                    Ok(bytes) => stream.say(&Reply::Data(Bytes(&bytes))),
                    Err(fail) => stream.fail(&fail),
                }
                true
            }
            Work::Walk(walk) => {
                match walk.step(&self.context.root, &mut stream.out) {
                    Ok(Slice::More) => {}
                    Ok(Slice::Done) => stream.conclude(&Ok(Reply::Done)),
                    Err(fail) => stream.fail(&fail),
                }
                true
            }
            Work::Dial(dial) => {
                dial.read(room, &mut stream.out);
                dial.watch(&self.poll, 0 < room);
                stream.last = dial.output_ended() && dial.is_over();
                if dial.output_ended() && !stream.last {
                    // The host learns of it at once; its own direction goes on.
                    connection.mux.finish(key.1);
                }
                !stream.out.is_empty() || stream.last
            }
        }
    }
}

fn usage(context: &Context) -> Usage {
    let mut usage = Usage::default();
    if let Ok(table) = procfs::processes(&context.proc) {
        let page = process::page_size();
        usage.pids = Some(table.iter().map(|process| process.threads).sum());
        let ticks = table.iter().fold(0_u64, |sum, process| sum.saturating_add(process.ticks));
        usage.cpu_us = Some(ticks.saturating_mul(TICK_US));
        let pages = table.iter().fold(0_u64, |sum, process| sum.saturating_add(process.pages));
        usage.memory_bytes = Some(pages.saturating_mul(page));
    }
    if let Ok(disk) = rustix::fs::statfs("/") {
        let block = u64::try_from(disk.f_frsize).unwrap_or(0);
        let used = disk.f_blocks.saturating_sub(disk.f_bfree);
        usage.disk_bytes = Some(used.saturating_mul(block));
        usage.disk_limit_bytes = Some(disk.f_blocks.saturating_mul(block));
    }
    if let Some((received, sent)) = network(context) {
        usage.net_rx_bytes = Some(received);
        usage.net_tx_bytes = Some(sent);
    }
    usage
}

/// Bytes over all interfaces but the loopback.
fn network(context: &Context) -> Option<(u64, u64)> {
    let mut buffer = vec![0; 16 * 1024];
    let text = procfs::read(&context.proc, b"self/net/dev", &mut buffer).ok()?;
    let text = String::from_utf8_lossy(text);
    let mut total = (0_u64, 0_u64);
    for line in text.lines() {
        let Some((name, figures)) = line.split_once(':') else { continue };
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        if let (false, [received, _, _, _, _, _, _, _, sent, ..]) =
            (name.trim() == "lo", &figures[..])
        {
            total = (total.0.saturating_add(*received), total.1.saturating_add(*sent));
        }
    }
    Some(total)
}
