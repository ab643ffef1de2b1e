//! Commands: what to run, what it says, how it ends.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use stacyvm_types::ExecId;
use tokio::sync::mpsc;

use crate::Result;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    /// Chosen by the caller. Starting the same id twice starts nothing the second time: the
    /// second call attaches to the first one's output.
    pub id: ExecId,
    /// What to run.
    pub program: Program,
    /// Added to the sandbox's default environment (`PATH`, `HOME`, `LANG`, `TERM` with a terminal).
    pub env: BTreeMap<String, String>,
    /// Absolute directory; `None` is `/workspace`.
    pub workdir: Option<String>,
    /// A user name or number inside the sandbox, optionally `user:group`; `None` is its root.
    pub user: Option<String>,
    /// What standard input is.
    pub stdin: Stdin,
    /// A terminal of this size instead of pipes; then all output is [`Output::Stdout`].
    pub terminal: Option<Size>,
    /// When this much time has passed the whole process tree is killed. `None` is no deadline.
    pub deadline: Option<Duration>,
}

/// The program of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A line for `sh -c`.
    Shell(String),
    /// A program, looked up in `PATH` unless it holds a slash, and its arguments.
    Argv(Vec<String>),
}

/// What a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: end of file at once.
    Null,
    /// What the caller sends.
    Pipe,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a command says, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Output. Offsets count the bytes of both streams together, in the order they were read,
    /// and are gapless unless a [`ExecEvent::Truncated`] stands between. A piece never ends inside
    /// a UTF-8 sequence that the next one completes.
    Output {
        /// The offset of the first byte.
        offset: u64,
        /// Where it came from.
        stream: Output,
        /// The bytes, as the command wrote them.
        data: Bytes,
    },
    /// Bytes before this offset are lost: the journal overflowed while nobody was reading.
    Truncated {
        /// The offset at which output goes on.
        resume: u64,
    },
    /// The end; nothing follows.
    Exit(Exit),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// It met its deadline and its whole tree was killed.
    Timeout,
    /// Its sandbox ended, or its end cannot be known.
    Lost,
}

impl Exit {
    /// The code as a shell would show it: signals are 128 and up, timeouts 124, lost ones 137.
    pub const fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::Timeout => 124,
            Self::Lost => 137,
        }
    }

    /// The reason as a word: `exit`, `signal`, `timeout` or `lost`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Code(_) => "exit",
            Self::Signal(_) => "signal",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
        }
    }
}

/// What a caller sends to a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for standard input.
    Data(Bytes),
    /// No more bytes.
    Eof,
    /// A signal for the command's process group.
    Signal(i32),
    /// The terminal's new size.
    Resize(Size),
}

/// A started command. Dropping it detaches: the command runs on, and its output is kept in the
/// bounded journal for a later [`crate::Guest::attach`].
pub struct Exec {
    /// The command's id.
    pub id: ExecId,
    /// What it says. Ends after [`ExecEvent::Exit`]. An error item means the channel broke, not
    /// that the command ended: attach again by offset.
    pub events: BoxStream<'static, Result<ExecEvent>>,
    /// What it is told. Bounded: sending waits while the command does not read.
    pub input: mpsc::Sender<ExecInput>,
}
