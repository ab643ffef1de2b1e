//! One error type for both contracts. Its kinds answer "what can the caller do?", its outcome
//! "did it happen?".

use std::{error::Error as StdError, fmt};

/// The result of a provider or guest call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No runtime with this id.
    NoSandbox,
    /// No such image; it must be imported first.
    NoImage,
    /// No such file, directory or exec.
    NotFound,
    /// The request cannot be right, whatever the state: a bad path, mode, pattern or argument.
    Invalid,
    /// The state does not allow it: the target exists, is a directory, is not empty, is in use.
    Conflict,
    /// The sandbox's own rules refuse it (permission inside the sandbox).
    Denied,
    /// The program to run does not exist or cannot be executed.
    NotExecutable,
    /// This provider cannot do this at all.
    Unsupported,
    /// A limit of the sandbox or the provider is reached.
    Exhausted,
    /// The sandbox's or the host's disk is full.
    DiskFull,
    /// The request or its body is larger than the provider takes.
    TooLarge,
    /// It took too long.
    Timeout,
    /// A stale generation: a newer owner exists.
    Fenced,
    /// The runtime or the provider does not answer.
    Unavailable,
    /// A bug, or a host that broke its promises.
    Internal,
}

/// Whether the effect may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did not happen.
    NotDone,
    /// It may have happened; ask before doing it again.
    Unknown,
}

/// A failed call. `message` may be shown to a client: it names nothing of the host.
pub struct Error {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// Whether it happened.
    pub outcome: Outcome,
    /// One sentence for a client.
    pub message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error whose effect did not happen.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, outcome: Outcome::NotDone, message: message.into(), source: None }
    }

    /// An error whose effect may have happened.
    pub fn unknown(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, outcome: Outcome::Unknown, message: message.into(), source: None }
    }

    /// The same error with what caused it, for logs only.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}: {}", self.kind, self.outcome, self.message)?;
        let mut source = StdError::source(self);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}
