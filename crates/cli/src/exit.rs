//! Exit codes. They are a promise: `docs/cli.md` lists them.

use std::fmt;

use stacyvm_api_types::Code;
use stacyvm_client::Error;

use crate::escape::escape;

/// How the program ends when a command of a sandbox does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub u8);

impl ExitStatus {
    /// All went well.
    pub const OK: Self = Self(0);
    /// It did not work.
    pub const FAILED: Self = Self(1);
    /// The command line is wrong.
    pub const USAGE: Self = Self(2);
    /// There is no such sandbox, file, image or template.
    pub const NOT_FOUND: Self = Self(3);
    /// The state, or a limit, refuses it.
    pub const REFUSED: Self = Self(4);
    /// The server cannot be reached, or does not answer.
    pub const UNREACHABLE: Self = Self(5);
    /// `exec` and `run`: the command met its deadline.
    pub const TIMEOUT: Self = Self(124);
    /// `exec` and `run`: StacyVM failed; the command did not run, or its end is not known.
    pub const NOT_RUN: Self = Self(125);
    /// `exec` and `run`: the program does not exist or cannot be executed.
    pub const NOT_EXECUTABLE: Self = Self(126);

    /// What a command of a sandbox ended with; `reason` is that of its exit frame.
    pub fn of_command(code: i32, reason: &str) -> Self {
        match reason {
            "timeout" => Self::TIMEOUT,
            "lost" => Self::NOT_RUN,
            _ => Self(u8::try_from(code & 0xFF).unwrap_or(u8::MAX)),
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.0)
    }
}

/// A failed command: what to tell the user, and how to exit.
#[derive(Debug)]
pub struct Failure {
    /// The sentence; empty when everything was said already.
    pub message: String,
    /// What to exit with.
    pub status: ExitStatus,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { message: message.into(), status }
    }

    /// The same failure, told apart from the exit codes of a command that did run.
    #[must_use]
    pub fn before_command(self) -> Self {
        match self.status {
            ExitStatus::TIMEOUT | ExitStatus::NOT_EXECUTABLE | ExitStatus::USAGE => self,
            // 128 and up say that a signal, or a closed pipe, ended this program.
            ExitStatus(128..) => self,
            _ => Self { status: ExitStatus::NOT_RUN, ..self },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Api(failure) => status_of(failure.code),
            Error::Connect { .. } | Error::NoAnswer(_) | Error::Broken(_) => {
                ExitStatus::UNREACHABLE
            }
            Error::Unexpected(_) | Error::Source(_) => ExitStatus::FAILED,
            Error::Invalid(_) => ExitStatus::USAGE,
        };
        let mut message = escape(&error.chain());
        if matches!(error, Error::Connect { .. }) {
            message.push_str("; is the server running? `stacyvm serve` starts one");
        }
        if let Some(failure) = error.api()
            && 500 <= failure.status
            && !failure.request_id.is_empty()
        {
            message.push_str(&format!(" (request {})", escape(&failure.request_id)));
        }
        Self { message, status }
    }
}

const fn status_of(code: Code) -> ExitStatus {
    match code {
        Code::BadRequest | Code::UriTooLong | Code::HeadersTooLarge => ExitStatus::USAGE,
        Code::NotFound => ExitStatus::NOT_FOUND,
        Code::Conflict
        | Code::WrongState
        | Code::IdempotencyKeyInUse
        | Code::IdempotencyKeyReused
        | Code::ResourceLimit
        | Code::Unauthorized
        | Code::Forbidden => ExitStatus::REFUSED,
        Code::NotExecutable => ExitStatus::NOT_EXECUTABLE,
        Code::Unavailable => ExitStatus::UNREACHABLE,
        Code::MethodNotAllowed
        | Code::Timeout
        | Code::PayloadTooLarge
        | Code::UnsupportedMediaType
        | Code::RangeNotSatisfiable
        | Code::Internal
        | Code::Unsupported
        | Code::DiskFull
        | Code::Unknown => ExitStatus::FAILED,
    }
}
