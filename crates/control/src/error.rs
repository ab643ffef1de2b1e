//! Why a use case failed, in words that a client may read.
//!
//! `Display` is the client's sentence and names nothing of the host; sources are for logs only.
//! There is no catch-all: a new variant must be translated by every caller.

use std::{error::Error as StdError, fmt};

use stacyvm_provider as provider;
use stacyvm_store as store;
use stacyvm_types::{Cause, CauseKind, Phase, SandboxId};

/// The result of a use case.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed use case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be right; the text says what would be.
    #[error("invalid input: {0}")]
    Invalid(String),
    /// No sandbox has this id.
    #[error("sandbox not found: {0}")]
    NoSandbox(SandboxId),
    /// The sandbox has ended, or its end is decided.
    #[error("sandbox destroyed: {id}")]
    Ended {
        /// The sandbox.
        id: SandboxId,
        /// Why it ended.
        cause: Cause,
    },
    /// No provider has this name.
    #[error("provider not found: {0}")]
    NoProvider(String),
    /// No image has this name.
    #[error("image not found: {0}; import it with `stacyvm image import {0} PATH`")]
    NoImage(String),
    /// No template has this name.
    #[error("not found: template {0:?}")]
    NoTemplate(String),
    /// A file, directory or command inside the sandbox is not there.
    #[error("{0}")]
    NotFound(String),
    /// The target's state does not allow it.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A line of a template failed in the sandbox that it was to set up.
    #[error("conflict: {what}: {said}")]
    SetUp {
        /// Which line, and how it ended.
        what: String,
        /// The end of its output.
        said: String,
    },
    /// The sandbox's phase does not allow it.
    #[error("sandbox {id} is {}; this needs a running one", standing(phase))]
    WrongState {
        /// The sandbox.
        id: SandboxId,
        /// The phase it is in.
        phase: Phase,
    },
    /// Somebody else owns the sandbox now.
    #[error("the sandbox has a newer owner")]
    Fenced,
    /// The work of this idempotency key goes on.
    #[error("the first request with this Idempotency-Key has not ended yet; try again")]
    KeyInUse,
    /// The idempotency key stands for something else.
    #[error(
        "this Idempotency-Key was used for another request; take a fresh one for every piece of \
         work"
    )]
    KeyReused,
    /// A limit refuses it.
    #[error("resource limit exceeded: {0}")]
    Limit(String),
    /// A command met its deadline and was killed.
    #[error("exec timeout: {0}")]
    ExecTimeout(SandboxId),
    /// This provider cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The program does not exist or cannot be executed.
    #[error("{0}")]
    NotExecutable(String),
    /// Permissions inside the sandbox refuse it.
    #[error("{0}")]
    Denied(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The request, the body or the answer is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The range starts at or after the end of the file.
    #[error("the range starts past the end of the file, which has {size} bytes")]
    RangePastEnd {
        /// The file's size in bytes.
        size: u64,
    },
    /// The disk of the sandbox or of the host is full.
    #[error("no space left: the disk of the sandbox or of its host is full")]
    DiskFull,
    /// The store, the provider or the runtime does not answer now; trying again may help.
    #[error("{0}")]
    Unavailable(Failure),
    /// A bug, or a host that broke its promises.
    #[error("internal error")]
    Internal(#[source] Failure),
}

/// A sentence and what caused it.
#[derive(Debug)]
pub struct Failure {
    /// One sentence for a client.
    pub message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

impl Failure {
    /// Whether a provider or a guest failed, and not the store.
    pub(crate) fn is_of_provider(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is::<provider::Error>())
    }

    pub(crate) fn because(
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { message: message.into(), source: Some(source.into()) }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { message, source: None }
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// The sentence for events and audit records, which hold no output of a sandbox.
    pub(crate) fn recorded(&self) -> String {
        match self {
            Self::SetUp { what, .. } => what.clone(),
            error => error.to_string(),
        }
    }

    /// One word for what kind of failure it is. It names nothing and nobody, so that whoever may see
    /// the server may read it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::NoSandbox(_) => "no_sandbox",
            Self::Ended { .. } => "ended",
            Self::NoProvider(_) => "no_provider",
            Self::NoImage(_) => "no_image",
            Self::NoTemplate(_) => "no_template",
            Self::NotFound(_) => "not_found",
            Self::Conflict(_) => "conflict",
            Self::SetUp { .. } => "set_up_failed",
            Self::WrongState { .. } => "wrong_state",
            Self::Fenced => "fenced",
            Self::KeyInUse => "key_in_use",
            Self::KeyReused => "key_reused",
            Self::Limit(_) => "resource_limit",
            Self::ExecTimeout(_) => "exec_timeout",
            Self::Unsupported(_) => "unsupported",
            Self::NotExecutable(_) => "not_executable",
            Self::Denied(_) => "denied",
            Self::Forbidden(_) => "forbidden",
            Self::TooLarge(_) => "too_large",
            Self::RangePastEnd { .. } => "range_past_end",
            Self::DiskFull => "disk_full",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable(Failure { message: message.into(), source: None })
    }

    pub(crate) fn internal(
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Internal(Failure::because(message, source))
    }

    /// A provider's or guest's error about the sandbox `id`, for a client.
    pub(crate) fn from_provider(error: provider::Error, image: Option<&str>) -> Self {
        use provider::ErrorKind as K;
        let message = error.message.clone();
        match error.kind {
            K::NoImage => Self::NoImage(image.unwrap_or(&message).to_owned()),
            K::NotFound => Self::NotFound(message),
            K::Invalid => Self::Invalid(message),
            K::Conflict => Self::Conflict(message),
            K::Denied => Self::Denied(message),
            K::NotExecutable => Self::NotExecutable(message),
            K::Unsupported => Self::Unsupported(message),
            K::Exhausted => Self::Limit(message),
            K::DiskFull => Self::DiskFull,
            K::TooLarge => Self::TooLarge(message),
            K::Fenced => Self::Fenced,
            K::NoSandbox | K::Timeout | K::Unavailable => {
                Self::Unavailable(Failure::because(message, error))
            }
            K::Internal => Self::Internal(Failure::because(message, error)),
        }
    }

    /// A store's error that needs no reading of the situation.
    pub(crate) fn from_store(error: store::Error) -> Self {
        use store::Error as E;
        match error {
            E::Fenced | E::LeaseHeld | E::LeaseLost => Self::Fenced,
            E::Full(full) => Self::Limit(full.to_string()),
            E::NotAllowed(refusal) => Self::Limit(refusal.to_string()),
            E::DiskFull => Self::DiskFull,
            E::WrongPhase(row) => Self::of_row(*row),
            E::Unavailable(_) => {
                Self::Unavailable(Failure::because("the store does not answer; try again", error))
            }
            E::Unfit(_) => Self::unavailable("no worker can take the sandbox now; try again"),
            E::NotFound => Self::NotFound("not found".to_owned()),
            E::Conflict => Self::Conflict("it exists already".to_owned()),
            E::Refused(refused) => Self::Conflict(refused.to_string()),
        }
    }

    /// Whether it says that a sandbox was lost while it was being started, and settled by another.
    pub(crate) fn is_lost_launch(&self) -> bool {
        match self {
            Self::Fenced => true,
            Self::Ended { cause, .. } => cause.kind == CauseKind::LaunchInterrupted,
            _ => false,
        }
    }

    /// What the caller of a spawn hears. A sandbox whose worker was lost while it was being started
    /// is nothing that this caller has or did wrong: another try makes another one.
    pub(crate) fn of_spawn(self) -> Self {
        match self.is_lost_launch() {
            true => Self::unavailable("the sandbox was lost while it was started; try again"),
            false => self,
        }
    }

    /// Why the row's phase refuses work.
    pub(crate) fn of_row(row: store::Sandbox) -> Self {
        let id = row.spec.id;
        match row.phase {
            Phase::Stopping(cause) | Phase::Ended(cause) => Self::Ended { id, cause },
            phase @ (Phase::Creating | Phase::Running | Phase::Paused | Phase::Unhealthy(_)) => {
                Self::WrongState { id, phase }
            }
        }
    }
}

/// The state, and why it is that.
fn standing(phase: &Phase) -> String {
    match phase {
        Phase::Unhealthy(cause) if !cause.detail.is_empty() => {
            format!("{} ({})", phase.wire_state(), cause.detail)
        }
        _ => phase.wire_state().to_owned(),
    }
}
