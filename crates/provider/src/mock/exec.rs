//! One running command: its driver moves bytes, delivers signals, keeps the deadline and ends the
//! journal.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::{Buf, Bytes};
use rustix::process::{Pid, Signal, kill_process_group};
use stacyvm_types::ExecId;
use tokio::{
    io::Interest,
    net::unix::pipe,
    sync::mpsc,
    task,
    time::{self, Instant as TokioInstant},
};

use crate::{
    Exec, ExecInput, Exit, Output,
    mock::{
        command::Started,
        journal::{Journal, Space},
        logs::Logs,
        processes,
    },
};

/// Bytes read from a pipe at once.
const PIECE: usize = 64 << 10;

/// Inputs that wait for the command.
const INPUTS: usize = 16;

/// A command that was started: what callers attach to.
pub(super) struct Running {
    id: ExecId,
    pub(super) journal: Arc<Journal>,
    input: mpsc::Sender<ExecInput>,
}

impl Running {
    /// Follows the command from an offset.
    pub(super) fn follow(&self, offset: u64) -> Exec {
        Exec { id: self.id.clone(), events: self.journal.follow(offset), input: self.input.clone() }
    }
}

/// What moves one command along. Must be run to its end, or the command stands still.
pub(super) struct Driver {
    started: Started,
    pid: Option<i32>,
    mark: String,
    deadline: Option<TokioInstant>,
    input: mpsc::Receiver<ExecInput>,
    journal: Arc<Journal>,
    logs: Arc<Mutex<Logs>>,
    pending: Bytes,
    next: Option<ExecInput>,
}

/// A running command and its driver.
pub(super) fn prepare(
    id: ExecId,
    started: Started,
    mark: String,
    deadline: Option<std::time::Duration>,
    logs: Arc<Mutex<Logs>>,
) -> (Running, Driver) {
    let (sender, input) = mpsc::channel(INPUTS);
    let journal = Arc::new(Journal::new());
    let running = Running { id, journal: Arc::clone(&journal), input: sender };
    let pid = started.child.id().and_then(|pid| i32::try_from(pid).ok());
    let deadline = deadline.map(|after| TokioInstant::now() + after);
    let driver = Driver {
        started,
        pid,
        mark,
        deadline,
        input,
        journal,
        logs,
        pending: Bytes::new(),
        next: None,
    };
    (running, driver)
}

/// Waits for what it can read, or forever where there is nothing to wait for.
async fn readable(pipe: &pipe::Receiver, open: bool) {
    if !open || pipe.readable().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn writable(pipe: Option<&pipe::Sender>) {
    match pipe {
        Some(pipe) if pipe.writable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

async fn until(instant: Option<TokioInstant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Moves the command to its end, then takes what its children in the background still write.
    pub(super) async fn run(mut self) {
        let exit = self.until_exit().await;
        self.drain().await;
        self.journal.finish(exit, Instant::now());
        self.input.close();
        self.started.stdin = None;
        let Started { stdout, stderr, .. } = self.started;
        tokio::join!(discard(stdout), discard(stderr));
    }

    async fn until_exit(&mut self) -> Exit {
        let (mut out_open, mut err_open, mut input_open) = (true, true, true);
        let mut changes = self.journal.changes();
        let mut buffer = vec![0; PIECE];
        loop {
            changes.borrow_and_update();
            let space = self.journal.space(Instant::now());
            let free = space == Space::Free;
            let grace = match space {
                Space::Full(Some(ends)) => Some(TokioInstant::from_std(ends)),
                Space::Full(None) | Space::Free => None,
            };
            let idle_input = input_open && self.next.is_none();
            let stdin = self.started.stdin.as_ref().filter(|_| !self.pending.is_empty());
            tokio::select! {
                status = self.started.child.wait() => return exit_of(status),
                () = until(self.deadline) => {
                    self.kill().await;
                    // Reaped here, so that the process is gone when its end is told.
                    let _ = self.started.child.wait().await;
                    return Exit::Timeout;
                }
                () = readable(&self.started.stdout, out_open && free) => {
                    out_open = self.read(Output::Stdout, &mut buffer);
                }
                () = readable(&self.started.stderr, err_open && free) => {
                    err_open = self.read(Output::Stderr, &mut buffer);
                }
                () = writable(stdin) => self.write(),
                input = self.input.recv(), if idle_input => match input {
                    Some(input) => self.take(input),
                    None => input_open = false,
                },
                _ = changes.changed(), if !free => {}
                () = until(grace), if !free => {}
            }
        }
    }

    fn read(&self, stream: Output, buffer: &mut [u8]) -> bool {
        let pipe = match stream {
            Output::Stdout => &self.started.stdout,
            Output::Stderr => &self.started.stderr,
        };
        match pipe.try_read(buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.keep(stream, &buffer[..count]);
                true
            }
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }

    fn keep(&self, stream: Output, bytes: &[u8]) {
        self.journal.append(stream, bytes);
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).append(bytes);
    }

    /// Takes an input. Data that finds earlier data unwritten waits; signals do not.
    fn take(&mut self, input: ExecInput) {
        match input {
            ExecInput::Signal(signal) => self.signal(signal),
            ExecInput::Resize(_) => {}
            data if !self.pending.is_empty() => self.next = Some(data),
            ExecInput::Data(bytes) if self.started.stdin.is_some() => self.pending = bytes,
            ExecInput::Data(_) => {}
            ExecInput::Eof => self.started.stdin = None,
        }
    }

    fn write(&mut self) {
        let Some(stdin) = &self.started.stdin else { return };
        match stdin.try_write(&self.pending) {
            Ok(count) => self.pending.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                self.pending.clear();
                self.started.stdin = None;
            }
        }
        if self.pending.is_empty()
            && let Some(next) = self.next.take()
        {
            self.take(next);
        }
    }

    fn signal(&self, signal: i32) {
        // The leader is not reaped yet, so its group's number cannot belong to another.
        let group = self.pid.and_then(Pid::from_raw);
        let signal = Signal::from_named_raw(signal);
        if let (Some(group), Some(signal)) = (group, signal) {
            let _ = kill_process_group(group, signal);
        }
    }

    async fn kill(&self) {
        let (mark, pid) = (self.mark.clone(), self.pid);
        // Where something cannot be found or killed there is nothing more to be done.
        let _ = task::spawn_blocking(move || processes::kill_tree(&mark, pid)).await;
    }

    /// Takes what is in the pipes at the command's end, and no more: children in the background
    /// may hold them open and go on writing.
    async fn drain(&mut self) {
        let mut buffer = vec![0; PIECE];
        for stream in [Output::Stdout, Output::Stderr] {
            let pipe = match stream {
                Output::Stdout => self.started.stdout.as_fd(),
                Output::Stderr => self.started.stderr.as_fd(),
            };
            let mut left = rustix::io::ioctl_fionread(pipe).unwrap_or(0);
            while 0 < left {
                let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match rustix::io::read(pipe, &mut buffer[..most]) {
                    Ok(count) if 0 < count => {
                        self.keep(stream, &buffer[..count]);
                        left = left.saturating_sub(count as u64);
                    }
                    _ => break,
                }
            }
        }
    }
}

/// Reads what nobody will see, so that children in the background are not killed by a closed pipe.
async fn discard(pipe: pipe::Receiver) {
    let mut buffer = vec![0; 4096];
    while pipe.ready(Interest::READABLE).await.is_ok() {
        match pipe.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn exit_of(status: io::Result<std::process::ExitStatus>) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Lost,
        },
        Err(_) => Exit::Lost,
    }
}
