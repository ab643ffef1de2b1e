//! Joins a running command to this program's own input, output, terminal and signals.

use std::{collections::VecDeque, io, time::Duration};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use stacyvm_client::{Frame, OutputStream, SessionInput};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Stderr, Stdout},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

use crate::{
    exit::{ExitStatus, Failure},
    output::failed as output_failed,
    terminal,
};

/// How long a command may go on after it was told to end by any signal but SIGINT.
const GRACE: Duration = Duration::from_secs(5);
const CHUNK: usize = 32 << 10;

/// What of this program's surroundings is joined to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// Standard input is sent to the command.
    pub stdin: bool,
    /// The command has a terminal: its size follows ours.
    pub terminal: bool,
}

/// How a joined command came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The command ended.
    Exit {
        /// Its exit code, as a shell shows it.
        code: i32,
        /// `exit`, `signal`, `timeout` or `lost`.
        reason: String,
    },
    /// The user, or the system, asked this program to end before the command did.
    Interrupted(i32),
}

impl Ended {
    /// What to exit with.
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Exit { code, reason } => ExitStatus::of_command(*code, reason),
            Self::Interrupted(signal) => ExitStatus::of_command(128 + signal, "signal"),
        }
    }
}

/// Copies until the command ends: its output to ours, our input, signals and terminal size to it.
///
/// Signals: in raw mode Ctrl-C is a byte like any other. Otherwise SIGINT, SIGTERM, SIGHUP and
/// SIGQUIT are passed on to the command. The second one, or [`GRACE`] after one other than SIGINT,
/// ends the wait.
///
/// `translate` turns input into what the command's own channel takes.
pub async fn drive<E, I>(
    mut frames: impl Stream<Item = Result<Frame, E>> + Unpin,
    input: mpsc::Sender<I>,
    translate: fn(SessionInput) -> I,
    joined: Joined,
) -> Result<Ended, Failure>
where
    Failure: From<E>,
{
    let mut signals = Signals::listen().map_err(output_failed)?;
    let mut outgoing = Outgoing { sender: Some(input), translate, queue: VecDeque::new() };
    let mut writer = Writer::new();
    let mut stdin = joined.stdin.then(tokio::io::stdin);
    let mut buffer = vec![0; CHUNK];
    let mut ended = None;
    let mut give_up: Option<(Instant, i32)> = None;

    loop {
        if writer.is_idle()
            && let Some(ended) = ended
        {
            return Ok(ended);
        }
        let give_up_at = give_up.map_or_else(Instant::now, |(at, _)| at);
        tokio::select! {
            number = signals.next() => {
                if number == Signals::RESIZED {
                    if joined.terminal {
                        let (rows, cols) = terminal::size();
                        outgoing.urgent(SessionInput::Resize { rows, cols });
                    }
                } else if signals.is_second() {
                    return Ok(Ended::Interrupted(number));
                } else {
                    outgoing.urgent(SessionInput::Signal(number));
                    if number != Signals::INTERRUPT {
                        give_up = Some((Instant::now() + GRACE, number));
                    }
                }
            }
            () = tokio::time::sleep_until(give_up_at), if give_up.is_some() => {
                return Ok(Ended::Interrupted(give_up.map_or(0, |(_, number)| number)));
            }
            written = writer.step(), if !writer.is_idle() => written.map_err(output_failed)?,
            frame = frames.next(), if writer.is_idle() && ended.is_none() => match frame {
                Some(Ok(Frame::Output(chunk))) => writer.push(chunk.stream, chunk.data),
                Some(Ok(Frame::Truncated { .. })) => {
                    writer.words("stacyvm: some output is lost: nobody read it in time");
                }
                Some(Ok(Frame::Exit { code, reason, .. })) => {
                    if reason == "timeout" {
                        writer.words("stacyvm: the command met its deadline and was killed");
                    }
                    ended = Some(Ended::Exit { code, reason });
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::new(
                    ExitStatus::NOT_RUN,
                    "the command's end is not known: its output ended without an exit code",
                )),
            },
            sent = outgoing.send(), if outgoing.has_work() => {
                if !sent {
                    stdin = None;
                }
            }
            read = read(stdin.as_mut(), &mut buffer), if stdin.is_some() && outgoing.is_idle() => {
                match read {
                    Ok(0) | Err(_) => {
                        stdin = None;
                        outgoing.push(SessionInput::Eof);
                    }
                    Ok(n) => outgoing.push(SessionInput::Data(Bytes::copy_from_slice(&buffer[..n]))),
                }
            }
        }
    }
}

async fn read(stdin: Option<&mut tokio::io::Stdin>, buffer: &mut [u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// One piece of output on its way to the terminal. Every step may be cancelled and taken again.
struct Writer {
    stdout: Stdout,
    stderr: Stderr,
    pending: Option<(OutputStream, Bytes)>,
    /// What the command wrote last to standard error did not end its line.
    in_line: bool,
}

impl Writer {
    fn new() -> Self {
        Self {
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
            pending: None,
            in_line: false,
        }
    }

    const fn is_idle(&self) -> bool {
        self.pending.is_none()
    }

    fn push(&mut self, stream: OutputStream, data: Bytes) {
        if stream == OutputStream::Stderr {
            self.in_line = data.last().is_some_and(|byte| *byte != b'\n');
        }
        self.pending = Some((stream, data));
    }

    /// Our own words, on a line of their own.
    fn words(&mut self, words: &str) {
        let before = if self.in_line { "\n" } else { "" };
        self.push(OutputStream::Stderr, format!("{before}{words}\n").into());
    }

    async fn step(&mut self) -> io::Result<()> {
        let Some((stream, data)) = &mut self.pending else { return Ok(()) };
        let written = match (&stream, data.is_empty()) {
            (OutputStream::Stdout, false) => self.stdout.write(data).await?,
            (OutputStream::Stderr, false) => self.stderr.write(data).await?,
            (OutputStream::Stdout, true) => {
                self.stdout.flush().await?;
                self.pending = None;
                return Ok(());
            }
            (OutputStream::Stderr, true) => {
                self.stderr.flush().await?;
                self.pending = None;
                return Ok(());
            }
        };
        data.advance(written);
        Ok(())
    }
}

/// What waits to be sent: at most one piece of input, and signals and sizes before it.
struct Outgoing<I> {
    sender: Option<mpsc::Sender<I>>,
    translate: fn(SessionInput) -> I,
    queue: VecDeque<SessionInput>,
}

impl<I> Outgoing<I> {
    const MAX_URGENT: usize = 16;

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    fn push(&mut self, input: SessionInput) {
        if self.sender.is_some() {
            self.queue.push_back(input);
        }
    }

    fn urgent(&mut self, input: SessionInput) {
        if self.sender.is_some() && self.queue.len() < Self::MAX_URGENT {
            let bulk = self.queue.iter().position(|i| matches!(i, SessionInput::Data(_)));
            self.queue.insert(bulk.unwrap_or(self.queue.len()), input);
        }
    }

    /// Sends one; false when the command no longer listens.
    async fn send(&mut self) -> bool {
        let Some(sender) = &self.sender else { return false };
        if let Ok(permit) = sender.reserve().await {
            if let Some(input) = self.queue.pop_front() {
                permit.send((self.translate)(input));
            }
            return true;
        }
        self.sender = None;
        self.queue.clear();
        false
    }
}

struct Signals {
    streams: [(i32, Signal); 5],
    seen: bool,
}

impl Signals {
    const INTERRUPT: i32 = 2;
    const RESIZED: i32 = 28;

    fn listen() -> io::Result<Self> {
        let on = |kind: SignalKind| io::Result::Ok((kind.as_raw_value(), signal(kind)?));
        Ok(Self {
            streams: [
                on(SignalKind::interrupt())?,
                on(SignalKind::terminate())?,
                on(SignalKind::hangup())?,
                on(SignalKind::quit())?,
                on(SignalKind::window_change())?,
            ],
            seen: false,
        })
    }

    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Whether this signal is one too many; remembers that there was one.
    fn is_second(&mut self) -> bool {
        std::mem::replace(&mut self.seen, true)
    }
}
