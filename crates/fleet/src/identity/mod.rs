//! Who calls whom between a control plane and its workers, and what for.
//!
//! One side shows a credential for one call ([`Credentials`]), the other finds out what it opens
//! ([`Authenticate`]). Both name the right by its [`Scope`], and [`scope_of`] is the one table of
//! what the methods of the worker RPC demand.
//!
//! Promises:
//! - A credential opens what it names, for the worker that it names, at the audience that it names.
//!   What is missing, unknown or misspelt opens nothing.
//! - Nothing that is shown to a caller, logged or printed holds a secret.

mod keys;
mod scope;
mod secret;
mod sides;
pub mod tls;
pub mod token;
mod watched;

use http::HeaderMap;
use stacyvm_types::WorkerId;

pub use keys::{KeyRing, Keys};
pub use scope::{Scope, Scopes, scope_of};
pub use secret::Secret;
pub use sides::{Checked, Shown};
pub use token::Audience;
pub use watched::Load;

/// The header that names the worker of a call.
pub const WORKER_ID: &str = "x-worker-id";
/// The header of the credential; `Authorization: Bearer` is understood too.
pub const WORKER_TOKEN: &str = "x-worker-token";

/// What one side shows the other, call by call.
pub trait Credentials: Send + Sync {
    /// The headers of a call about this worker that needs this right. They hold a secret that is
    /// good for this call and for a short time: they are made anew for each attempt.
    fn headers(&self, worker: &WorkerId, scope: Scope) -> Result<HeaderMap, NoCredential>;
}

/// What one side finds out about who calls it. It looks at headers only, so that nobody makes it
/// read a body first; who may open a connection is for TLS to say.
pub trait Authenticate: Send + Sync {
    /// What the credential in these headers opens in calls about this worker.
    fn authenticate(&self, worker: &WorkerId, headers: &HeaderMap) -> Result<Grant, Refusal>;
}

/// What a valid credential opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    scopes: Scopes,
}

impl Grant {
    /// What opens these rights.
    pub const fn of(scopes: Scopes) -> Self {
        Self { scopes }
    }

    /// Whether it opens this one.
    pub fn permit(self, scope: Scope) -> Result<(), Refusal> {
        match self.scopes.contains(scope) {
            true => Ok(()),
            false => Err(Refusal::Scope(scope)),
        }
    }
}

/// There is nothing to show: the settings give no credential for calls about this worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no worker credential is configured")]
pub struct NoCredential;

/// Why a call is refused. The text is for the log of the side that refuses; the caller learns the
/// kind only ([`Refusal::is_forbidden`]), which helps nobody guess.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The settings of this side name no credential, so none can be right.
    #[error("no worker credential is configured here")]
    NotConfigured,
    /// There is no credential in the headers, or half of one.
    #[error("the call shows no worker id or no token")]
    Missing,
    /// The worker that the headers name is not the one that the call is about.
    #[error("the call names another worker")]
    OtherWorker,
    /// The token is no static one of this side.
    #[error("the token is not the one that is configured here for the worker")]
    Unknown,
    /// The signed token is not good.
    #[error(transparent)]
    Token(token::Invalid),
    /// The credential is valid and does not open this.
    #[error("the credential does not hold the scope {0}")]
    Scope(Scope),
}

impl Refusal {
    /// Whether the credential was valid and opens too little, rather than not valid.
    pub const fn is_forbidden(&self) -> bool {
        matches!(self, Self::Scope(_))
    }
}
