//! What is said inside a stream: length-prefixed postcard messages.
//!
//! An agent outlives servers, so what exists is frozen: the variants of an enum keep their order
//! and their fields, and news are new variants at the end. A request that an agent does not know is
//! answered with [`FailKind::Unsupported`]. [`HelloReply::version`] tells a newer server what the
//! agent knows.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The version that this code speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest message, its prefix not counted: a mebibyte of arguments and some slack.
pub const MAX_MESSAGE: usize = (1 << 20) + 4096;

/// How much data one message carries at most when we send it.
pub const MAX_CHUNK: usize = 32 * 1024;

const PREFIX: usize = 4;

/// A message that is not one, or is longer than [`MAX_MESSAGE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Bytes, written as one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> de::Visitor<'de> for Borrowed {
            type Value = Bytes<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_borrowed_bytes<E: de::Error>(self, v: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Bytes(v))
            }
        }
        deserializer.deserialize_bytes(Borrowed)
    }
}

/// The first message on a stream, from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Who is there? Answer: [`Reply::Hello`].
    Hello(Hello),
    /// Starts a command, or follows it if its id is known. Answer: [`Reply::Started`], then
    /// [`Reply::Output`] and [`Reply::Truncated`], then one [`Reply::Exit`]. The host may send
    /// [`Input`] at any time. Dropping the stream detaches.
    Exec(#[serde(borrow)] Exec<'a>),
    /// Follows a command from a byte offset, as [`Request::Exec`].
    Attach {
        /// The command.
        id: &'a str,
        /// Where to start.
        offset: u64,
    },
    /// Reads a file. Answer: [`Reply::File`], [`Reply::Data`] …, [`Reply::Done`].
    Read {
        /// Absolute path.
        path: &'a str,
        /// First byte and the one after the last.
        range: Option<(u64, u64)>,
    },
    /// Replaces a file. Answer: [`Reply::Ready`]; then the host sends [`Input::Data`] … and
    /// [`Input::Eof`], and the answer is [`Reply::Stat`]. Without the [`Input::Eof`] nothing
    /// changes.
    Write {
        /// Absolute path.
        path: &'a str,
        /// Permission bits.
        mode: Option<u32>,
    },
    /// Lists a directory. Answer: [`Reply::Entries`] …, [`Reply::Done`], in no order.
    List {
        /// Absolute path.
        path: &'a str,
    },
    /// Describes what a path leads to. Answer: [`Reply::Stat`].
    Stat {
        /// Absolute path.
        path: &'a str,
    },
    /// Finds paths. Answer: [`Reply::Paths`] …, [`Reply::Done`], in no order.
    Glob {
        /// The pattern.
        pattern: &'a str,
    },
    /// Renames. Answer: [`Reply::Done`].
    Rename {
        /// The old path.
        from: &'a str,
        /// The new path.
        to: &'a str,
    },
    /// Sets permission bits. Answer: [`Reply::Done`].
    Chmod {
        /// Absolute path.
        path: &'a str,
        /// Permission bits.
        mode: u32,
    },
    /// Removes. Answer: [`Reply::Done`].
    Remove {
        /// Absolute path.
        path: &'a str,
        /// Whether a directory goes with all it holds.
        recursive: bool,
    },
    /// Connects to a port on the loopback. Answer: [`Reply::Done`], then bare bytes both ways.
    Dial {
        /// The port.
        port: u16,
    },
    /// Asks for figures. Answer: [`Reply::Stats`].
    Stats,
    /// Asks for the last lines that commands wrote. Answer: [`Reply::Lines`].
    Logs {
        /// How many.
        lines: u32,
    },
}

/// The host's side of a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version that the host speaks.
    pub version: u32,
}

/// The agent's side of a greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply<'a> {
    /// The version that the agent speaks.
    pub version: u32,
    /// Its build, for people.
    pub build: &'a str,
    /// Commands that run now.
    pub running: u32,
}

/// A command to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec<'a> {
    /// Chosen by the host.
    pub id: &'a str,
    /// What to run.
    #[serde(borrow)]
    pub program: Program<'a>,
    /// Added to the default environment.
    #[serde(borrow)]
    pub env: Vec<(&'a str, &'a str)>,
    /// Absolute directory.
    pub workdir: Option<&'a str>,
    /// Name or number, optionally with a group.
    pub user: Option<&'a str>,
    /// Whether standard input is what the host sends, or empty.
    pub stdin: bool,
    /// Rows and columns of a terminal.
    pub terminal: Option<(u16, u16)>,
    /// When the whole tree is killed.
    pub deadline_ms: Option<u64>,
}

/// The program of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program<'a> {
    /// A line for `sh -c`.
    Shell(&'a str),
    /// A program and its arguments.
    Argv(#[serde(borrow)] Vec<&'a str>),
}

/// What the host says after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input<'a> {
    /// Bytes for standard input, or of the file.
    Data(#[serde(borrow)] Bytes<'a>),
    /// No more bytes; a written file is complete.
    Eof,
    /// A signal for the command's process group.
    Signal(i32),
    /// The terminal's new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply<'a> {
    /// It did not work; nothing follows.
    Failed(#[serde(borrow)] Failure<'a>),
    /// The greeting.
    Hello(#[serde(borrow)] HelloReply<'a>),
    /// The command runs, or ran.
    Started,
    /// Output of a command.
    Output {
        /// The offset of the first byte over both streams.
        offset: u64,
        /// Whether it came from standard error.
        stderr: bool,
        /// The bytes.
        #[serde(borrow)]
        data: Bytes<'a>,
    },
    /// Output before this offset is lost.
    Truncated {
        /// Where it goes on.
        resume: u64,
    },
    /// The end of a command.
    Exit(End),
    /// The file being read and the part of it that follows.
    File {
        /// The file.
        #[serde(borrow)]
        entry: Entry<'a>,
        /// First byte.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
    /// Bytes of a file.
    Data(#[serde(borrow)] Bytes<'a>),
    /// The file may be sent now.
    Ready,
    /// One file.
    Stat(#[serde(borrow)] Entry<'a>),
    /// Some files.
    Entries(#[serde(borrow)] Vec<Entry<'a>>),
    /// Some paths.
    Paths(#[serde(borrow)] Vec<Cow<'a, str>>),
    /// Done, or the end of a list or body.
    Done,
    /// Figures.
    Stats(Usage),
    /// Lines, oldest first.
    Lines(#[serde(borrow)] Vec<Cow<'a, str>>),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// At its deadline.
    Timeout,
    /// Nobody knows.
    Lost,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// Absolute path, bytes that are not UTF-8 replaced.
    pub path: Cow<'a, str>,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: EntryKind,
    /// Last change of its content, in microseconds since 1970.
    pub modified_us: i64,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// What a sandbox uses, as far as can be seen from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in microseconds.
    pub cpu_us: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Written space in bytes.
    pub disk_bytes: Option<u64>,
    /// Writable space in bytes.
    pub disk_limit_bytes: Option<u64>,
    /// Bytes received.
    pub net_rx_bytes: Option<u64>,
    /// Bytes sent.
    pub net_tx_bytes: Option<u64>,
}

/// Why something did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure<'a> {
    /// What the caller can do.
    pub kind: FailKind,
    /// One sentence for a client.
    pub message: Cow<'a, str>,
}

/// The kinds of failure that an agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailKind {
    /// No such file, directory or command.
    NotFound,
    /// The request cannot be right.
    Invalid,
    /// The state does not allow it.
    Conflict,
    /// Permissions inside the sandbox refuse it.
    Denied,
    /// The program cannot be run.
    NotExecutable,
    /// This agent does not know the request.
    Unsupported,
    /// A limit is reached.
    Exhausted,
    /// No space is left.
    DiskFull,
    /// Too large an answer or request.
    TooLarge,
    /// Something inside does not answer.
    Unavailable,
    /// Anything else.
    Internal,
}

/// Appends a message with its prefix.
pub fn encode(message: &impl Serialize, output: &mut Vec<u8>) {
    let start = output.len();
    output.extend_from_slice(&[0; PREFIX]);
    let sink = Sink(output);
    postcard::serialize_with_flavor(message, sink).expect("writing to memory cannot fail");
    let length = output.len() - start - PREFIX;
    let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    output[start..start + PREFIX].copy_from_slice(&prefix);
}

/// Serialises onto the end of a vector, in runs.
struct Sink<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Sink<'_> {
    type Output = ();
    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Cuts a stream's bytes into messages. Keeps at most one message and what arrived after it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken == self.buffer.len() {
            self.buffer.clear();
        } else {
            self.buffer.drain(..self.taken);
        }
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out what waits, for a stream that goes on with bare bytes.
    pub fn take_rest(&mut self) -> Vec<u8> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        std::mem::take(&mut self.buffer)
    }

    /// The next whole message's bytes, or `None` until more arrived.
    pub fn next_raw(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let waiting = &self.buffer[self.taken..];
        let Some((prefix, rest)) = waiting.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if MAX_MESSAGE < length {
            return Err(Malformed);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.taken + PREFIX;
        self.taken = start + length;
        Ok(Some(&self.buffer[start..self.taken]))
    }

    /// The next whole message.
    pub fn next<'a, T: Deserialize<'a>>(&'a mut self) -> Result<Option<T>, Malformed> {
        match self.next_raw()? {
            Some(raw) => decode(raw).map(Some),
            None => Ok(None),
        }
    }
}

/// Reads one message.
pub fn decode<'a, T: Deserialize<'a>>(raw: &'a [u8]) -> Result<T, Malformed> {
    postcard::from_bytes(raw).map_err(|_| Malformed)
}
