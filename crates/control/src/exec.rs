//! Commands.
//!
//! The path of a command holds one point read of the store, one look-up of the runtime, and the
//! agent's answer. What is recorded about it goes through the event queue. A caller that goes away
//! detaches: the command runs on until its own deadline and can be attached to again by id. Its end
//! is seen and recorded all the same, unless the server ends first; then whoever attaches later
//! sees it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use stacyvm_provider::{
    self as provider, Exec, ExecEvent, ExecSpec, Exit, Guest, Output, Program, Stdin, failpoint,
};
use stacyvm_store::{ExecLog, Sandbox};
use stacyvm_types::{Cause, CauseKind, EventKind, ExecId, Operation, Phase, SandboxId};
use tokio::time::{Instant, sleep};

use crate::{
    Collected, Control, Error, ExecRequest, Result, Started,
    events::{self, Record},
    failpoints,
    follow::{self, Meta},
    operations::{Act, Attempt},
    validate,
};

/// How often a broken channel to a running command is taken up again.
const REATTACHES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The deadline of one line of a template when the server has no default for commands.
const SETUP_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// How much of a failed line's output its error shows.
const SETUP_TAIL: usize = 512;
const RECORDED_COMMAND: usize = 1024;

impl Control {
    /// Starts a command. The events end with [`ExecEvent::Exit`]; the deadline is enforced in the
    /// sandbox and, a little later, here.
    #[tracing::instrument(name = "exec_stream", skip_all, fields(sandbox.id = %id))]
    pub async fn exec(&self, id: &SandboxId, request: ExecRequest) -> Result<Exec> {
        self.start(Operation::ExecStream, id, request).await.map(|(_, exec)| exec)
    }

    /// Runs a command to its end and collects what it said, each stream up to the cap. A broken
    /// channel to the sandbox is taken up again where it broke. Meeting the deadline is
    /// [`Error::ExecTimeout`].
    #[tracing::instrument(name = "exec", skip_all, fields(sandbox.id = %id))]
    pub async fn exec_collect(&self, id: &SandboxId, request: ExecRequest) -> Result<Collected> {
        let begun = Instant::now();
        let fed = request.stdin_data.is_some();
        let (meta, mut exec) = self.start(Operation::Exec, id, request).await?;
        let mut collected = Collecting::new(self.settings().exec_output_cap);
        let mut tries = 0;
        let exit = loop {
            let broken = match exec.events.next().await {
                Some(Ok(ExecEvent::Exit(exit))) => break exit,
                Some(Ok(event)) => {
                    collected.take(event);
                    tries = 0;
                    continue;
                }
                Some(Err(error)) => Some(error),
                None => None,
            };
            if fed {
                // How much of its input the command got is not known, so going on is not honest.
                return Err(lost_channel(broken));
            }
            // Should the caller leave meanwhile, somebody still sees the command's end.
            let unseen = follow::unseen(self.clone(), meta.clone(), collected.offset);
            exec = loop {
                if REATTACHES <= tries {
                    return Err(lost_channel(broken));
                }
                sleep(FIRST_PAUSE * 2_u32.pow(tries)).await;
                tries += 1;
                match self.follow(&meta, collected.offset).await {
                    Ok(exec) => break exec,
                    Err(Error::Unavailable(_)) => {}
                    Err(error) => return Err(error),
                }
            };
            unseen.seen_elsewhere();
        };
        if exit == Exit::Lost
            && let Some(cause) = self.ended(&meta.row).await
        {
            return Err(Error::Ended { id: id.clone(), cause });
        }
        if exit == Exit::Timeout {
            return Err(Error::ExecTimeout(id.clone()));
        }
        let Collecting { stdout, stderr, truncated, .. } = collected;
        Ok(Collected {
            id: meta.id.clone(),
            exit,
            stdout,
            stderr,
            truncated,
            duration: begun.elapsed(),
        })
    }

    /// Follows a command's output from a byte offset, also after its end for as long as the
    /// sandbox keeps it.
    #[tracing::instrument(name = "exec_attach", skip_all, fields(sandbox.id = %id))]
    pub async fn attach(&self, id: &SandboxId, exec: &ExecId, offset: u64) -> Result<Exec> {
        let row = self.usable(id).await?;
        let mut attempt = self.attempt(Act::Change(Operation::ExecStream.action()), "");
        attempt.concerns(&row);
        let meta = Meta { id: exec.clone(), deadline: None, row, attempt, is_ours: false };
        self.follow(&Arc::new(meta), offset).await
    }

    async fn follow(&self, meta: &Arc<Meta>, offset: u64) -> Result<Exec> {
        let exec = self.take_up(&meta.row, &meta.id, offset).await?;
        Ok(follow::watch(self.clone(), meta.clone(), exec, None))
    }

    /// A command's events from an offset on.
    pub(crate) async fn take_up(&self, row: &Sandbox, id: &ExecId, offset: u64) -> Result<Exec> {
        let guest = self.guest(row).await?;
        guest.attach(id, offset).await.map_err(|error| self.of_guest(row, error))
    }

    async fn start(
        &self,
        operation: Operation,
        id: &SandboxId,
        mut request: ExecRequest,
    ) -> Result<(Arc<Meta>, Exec)> {
        let exec_id = request.id.take();
        let exec_id = exec_id.unwrap_or_else(|| ExecId::from_entropy(self.0.entropy.id()));
        let command = shown(&request.program);
        let mut attempt = self.attempt(Act::Operation(operation), command).on(id);
        let stdin = request.stdin_data.take();
        match self.begin(&mut attempt, id, &exec_id, request, stdin.is_some()).await {
            Ok(Begun { row, deadline, exec, is_fresh }) => {
                let meta = Meta { id: exec_id, deadline, row, attempt, is_ours: is_fresh };
                let meta = Arc::new(meta);
                if is_fresh {
                    self.0.own.note(&meta);
                }
                // One that runs already was given its input.
                let stdin = stdin.filter(|_| is_fresh);
                let exec = follow::watch(self.clone(), meta.clone(), exec, stdin);
                Ok((meta, exec))
            }
            Err(error) => {
                attempt.failed(&error, vec![("exec_id", exec_id.to_string())]).await;
                Err(error)
            }
        }
    }

    async fn begin(
        &self,
        attempt: &mut Attempt,
        id: &SandboxId,
        exec_id: &ExecId,
        request: ExecRequest,
        is_fed: bool,
    ) -> Result<Begun> {
        validate::program(&request.program)?;
        validate::env(&request.env)?;
        if request.workdir.as_ref().is_some_and(|dir| !dir.starts_with('/')) {
            return Err(Error::invalid("workdir must be an absolute path"));
        }
        let row = self.usable(id).await?;
        attempt.concerns(&row);
        if let Some(exec) = self.started_before(&row, exec_id, request.started).await? {
            let deadline = match self.exec_deadline(&row, request.timeout).await {
                // A limit that was lowered since refuses no command that runs or has run.
                Err(Error::Limit(_)) => request.timeout,
                deadline => deadline?,
            };
            return Ok(Begun { row, deadline, exec, is_fresh: false });
        }
        let deadline = self.exec_deadline(&row, request.timeout).await?;
        let data = [("exec_id", exec_id.to_string()), ("provider", row.spec.provider.clone())];
        let started = Record::Event(events::about(&row, EventKind::ExecStarted, data));
        self.0.recorder.record_first(started).await?;
        failpoint!(failpoints::EXEC_RECORDED);
        let spec = ExecSpec {
            id: exec_id.clone(),
            program: request.program,
            env: merged(&row.spec.env, request.env),
            workdir: request.workdir,
            user: request.user,
            stdin: if is_fed { Stdin::Pipe } else { request.stdin },
            terminal: request.terminal,
            deadline,
        };
        let guest = self.guest(&row).await?;
        match guest.exec(spec).await {
            Ok(exec) => {
                failpoint!(failpoints::EXEC_STARTED);
                Ok(Begun { row, deadline, exec, is_fresh: true })
            }
            Err(error) => Err(self.of_ended(&row, self.of_guest(&row, error)).await),
        }
    }

    /// A command that was started before, where that is so.
    async fn started_before(
        &self,
        row: &Sandbox,
        id: &ExecId,
        started: Started,
    ) -> Result<Option<Exec>> {
        if started == Started::No {
            return Ok(None);
        }
        match self.take_up(row, id, 0).await {
            Ok(exec) => Ok(Some(exec)),
            Err(Error::NotFound(_)) if started == Started::Perhaps => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The inside of a sandbox that is running.
    pub(crate) async fn guest(&self, row: &Sandbox) -> Result<Arc<dyn Guest>> {
        let guest = match self.worker_of(row).await {
            Ok(worker) => worker.guest(&row.spec.provider, &row.spec.id, row.generation).await,
            Err(error) => Err(error),
        };
        match guest {
            Ok(guest) => Ok(guest),
            Err(error) => Err(self.of_ended(row, self.of_guest(row, error)).await),
        }
    }

    /// The error of a sandbox that ended while something in it was under way, with the cause that
    /// its row names; any other error as it is.
    pub(crate) async fn of_ended(&self, row: &Sandbox, error: Error) -> Error {
        match self.ended(row).await {
            Some(cause) => Error::Ended { id: row.spec.id.clone(), cause },
            None => error,
        }
    }

    /// Why a sandbox that lived a moment ago is ending or has ended, if it is.
    pub(crate) async fn ended(&self, row: &Sandbox) -> Option<Cause> {
        match self.store().sandbox(&row.spec.id).await {
            Ok(Some(Sandbox { phase: Phase::Stopping(cause) | Phase::Ended(cause), .. })) => {
                Some(cause)
            }
            _ => None,
        }
    }

    /// What a guest's error means for the caller. A runtime that is gone or silent wakes the
    /// reconciler, which looks and decides.
    pub(crate) fn of_guest(&self, row: &Sandbox, error: provider::Error) -> Error {
        use provider::ErrorKind as K;
        match error.kind {
            K::NoSandbox => {
                self.0.reconcile.wake();
                let detail = "its runtime ended by itself";
                let cause = Cause::new(CauseKind::RuntimeDied, detail);
                Error::Ended { id: row.spec.id.clone(), cause }
            }
            K::Unavailable | K::Timeout => {
                self.0.reconcile.wake();
                Error::from_provider(error, None)
            }
            _ => Error::from_provider(error, None),
        }
    }

    /// Writes down how a command ended.
    pub(crate) async fn record_exit(&self, meta: &Meta, exit: Exit) {
        failpoint!(failpoints::EXEC_ENDED);
        let own = self.0.own.of(meta);
        let meta = own.as_deref().unwrap_or(meta);
        let (row, attempt) = (&meta.row, &meta.attempt);
        let duration = attempt.elapsed();
        let figures = [
            ("exec_id", meta.id.to_string()),
            ("exit_code", exit.code().to_string()),
            ("reason", exit.reason().to_owned()),
            ("duration", stacyvm_types::format_duration(duration)),
        ];
        let log = ExecLog {
            id: meta.id.clone(),
            sandbox: row.spec.id.clone(),
            command: attempt.resource.clone(),
            exit_code: exit.code(),
            reason: exit.reason().to_owned(),
            duration,
            at: self.now(),
        };
        let failure = match exit {
            Exit::Code(_) | Exit::Signal(_) => None,
            Exit::Timeout => Some(Error::ExecTimeout(row.spec.id.clone())),
            Exit::Lost => Some(match self.ended(row).await {
                Some(cause) => Error::Ended { id: row.spec.id.clone(), cause },
                None => lost_channel(None),
            }),
        };
        let mut records = match &failure {
            None => {
                let [id, code, reason, took] = figures;
                let detail = format!("exit={} duration={} reason={}", code.1, took.1, reason.1);
                let data = [id, ("provider", row.spec.provider.clone()), code, reason, took];
                let completed = events::about(row, EventKind::ExecCompleted, data);
                [Record::Event(completed)].into_iter().chain(attempt.success(detail)).collect()
            }
            Some(error) => attempt.failure(error, figures.into()),
        };
        records.push(Record::Exec(log));
        let places = self.0.recorder.places(records.len()).await;
        // Nothing waits from here on: either all of it is recorded, once, or nothing was.
        if self.0.recorded.is_first(&meta.command()) {
            attempt.measure(failure.as_ref());
            places.fill(records).await;
        }
    }

    /// Whether the end of a command was recorded, by whichever server.
    pub(crate) async fn has_recorded(&self, meta: &Meta) -> bool {
        matches!(self.store().exec_log(&meta.row.spec.id, &meta.id).await, Ok(Some(_)))
    }

    /// Runs a template's lines in order, in a sandbox that is not handed out yet.
    pub(crate) async fn run_lines(
        &self,
        row: &Sandbox,
        lines: &[String],
    ) -> std::result::Result<(), SetUpFailed> {
        let name = row.spec.template.as_deref().unwrap_or_default();
        for (at, line) in lines.iter().enumerate() {
            let failed = |why: String, said| SetUpFailed {
                what: format!("template {name:?}: setup line {} of {} {why}", at + 1, lines.len()),
                said,
            };
            let (exit, tail) = self
                .run_line(row, line)
                .await
                .map_err(|error| failed(format!("failed: {error}"), None))?;
            if exit != Exit::Code(0) {
                let said = String::from_utf8_lossy(&tail).trim().to_owned();
                let why = format!("ended with {} {}", exit.reason(), exit.code());
                return Err(failed(why, Some(said)));
            }
        }
        Ok(())
    }

    async fn run_line(&self, row: &Sandbox, line: &str) -> Result<(Exit, Vec<u8>)> {
        let deadline = self.exec_deadline(row, None).await?.unwrap_or(SETUP_DEADLINE);
        let mut attempt = self.attempt(Act::Part(Operation::Exec), shown_line(line));
        attempt.concerns(row);
        let meta = Arc::new(Meta {
            id: ExecId::from_entropy(self.0.entropy.id()),
            deadline: Some(deadline),
            row: row.clone(),
            attempt,
            is_ours: true,
        });
        let spec = ExecSpec {
            id: meta.id.clone(),
            program: Program::Shell(line.to_owned()),
            env: row.spec.env.clone(),
            workdir: None,
            user: None,
            stdin: Stdin::Null,
            terminal: None,
            deadline: Some(deadline),
        };
        let guest = self.guest(row).await?;
        let exec = guest.exec(spec).await.map_err(|error| self.of_guest(row, error))?;
        let mut exec = follow::watch(self.clone(), meta, exec, None);
        let mut tail = Vec::new();
        loop {
            match exec.events.next().await {
                Some(Ok(ExecEvent::Exit(exit))) => return Ok((exit, tail)),
                Some(Ok(ExecEvent::Output { data, .. })) => {
                    tail.extend_from_slice(&data);
                    let surplus = tail.len().saturating_sub(SETUP_TAIL);
                    tail.drain(..surplus);
                }
                Some(Ok(ExecEvent::Truncated { .. })) => {}
                Some(Err(error)) => return Err(self.of_guest(row, error)),
                None => return Err(lost_channel(None)),
            }
        }
    }
}

/// A command that runs.
struct Begun {
    row: Sandbox,
    deadline: Option<Duration>,
    exec: Exec,
    /// Whether it was started now, and not before.
    is_fresh: bool,
}

/// Why a sandbox could not be set up.
#[derive(Debug)]
pub(crate) struct SetUpFailed {
    /// Which line of which template, and how it ended.
    pub(crate) what: String,
    /// The end of its output, where it said something.
    pub(crate) said: Option<String>,
}

impl fmt::Display for SetUpFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.said {
            Some(said) => write!(f, "{}: {said}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Output that is being collected.
struct Collecting {
    cap: usize,
    offset: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

impl Collecting {
    const fn new(cap: usize) -> Self {
        Self { cap, offset: 0, stdout: Vec::new(), stderr: Vec::new(), truncated: false }
    }

    fn take(&mut self, event: ExecEvent) {
        match event {
            ExecEvent::Output { offset, stream, data } => self.output(offset, stream, &data),
            ExecEvent::Truncated { resume } => {
                self.truncated = true;
                self.offset = self.offset.max(resume);
            }
            ExecEvent::Exit(_) => {}
        }
    }

    fn output(&mut self, offset: u64, stream: Output, data: &Bytes) {
        // A piece that was seen before the channel broke is not taken twice.
        let seen = usize::try_from(self.offset.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(fresh) = data.get(seen..) else { return };
        self.offset = offset.saturating_add(data.len() as u64).max(self.offset);
        let kept = match stream {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        };
        let room = self.cap.saturating_sub(kept.len()).min(fresh.len());
        kept.extend_from_slice(&fresh[..room]);
        self.truncated |= room < fresh.len();
    }
}

fn lost_channel(source: Option<provider::Error>) -> Error {
    let message = "the connection to the command was lost; it may still run";
    Error::Unavailable(match source {
        Some(source) => crate::Failure::because(message, source),
        None => message.into(),
    })
}

fn merged(
    base: &BTreeMap<String, String>,
    above: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut env = base.clone();
    env.extend(above);
    env
}

/// The command line for the record.
fn shown(program: &Program) -> String {
    match program {
        Program::Shell(line) => shown_line(line),
        Program::Argv(args) => shown_line(&args.join(" ")),
    }
}

fn shown_line(line: &str) -> String {
    line[..line.floor_char_boundary(RECORDED_COMMAND)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_capped_per_stream_and_never_taken_twice() {
        let mut collecting = Collecting::new(4);
        let out = |offset, stream, data: &'static str| ExecEvent::Output {
            offset,
            stream,
            data: Bytes::from_static(data.as_bytes()),
        };
        collecting.take(out(0, Output::Stdout, "abc"));
        collecting.take(out(0, Output::Stdout, "abc"));
        collecting.take(out(1, Output::Stdout, "bcd"));
        assert_eq!((collecting.stdout.as_slice(), collecting.offset), (b"abcd".as_slice(), 4));
        assert!(!collecting.truncated);
        collecting.take(out(4, Output::Stderr, "12345"));
        assert_eq!(collecting.stderr, b"1234");
        assert!(collecting.truncated);
        assert_eq!(collecting.offset, 9);
    }
}
