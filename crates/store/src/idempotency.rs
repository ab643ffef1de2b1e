//! Idempotency keys: which piece of work a key stands for, who does it now, and what it answered.

use async_trait::async_trait;
use stacyvm_types::{Timestamp, WorkerId};

use crate::{Durability, Result};

/// A key that somebody brings, and what the work would be done with if the key is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Who brings it for which route, as one short text; equal for repeats and for nothing else.
    pub id: String,
    /// What was asked for, as one short text.
    pub fingerprint: String,
    /// What the work is to be known by, chosen before it begins.
    pub resource: String,
    /// The server that would do the work. A server with the same name is the same or its successor,
    /// and knows by itself what it is doing.
    pub holder: WorkerId,
    /// Until when other servers leave the work to this one.
    pub held_until: Timestamp,
}

/// What a key says to whoever brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The work is the caller's.
    Yours(Turn),
    /// Another server holds it.
    Held,
    /// It was done.
    Done(Turn, Answer),
    /// It stands for something else.
    Mismatch,
}

/// The right to do the work of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What the work is known by.
    pub resource: String,
    /// Rises with every turn; only the last one may say how the work went.
    pub attempt: u64,
    /// When the first turn began.
    pub begun_at: Timestamp,
}

/// What the work answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its content type.
    pub content_type: String,
    /// Its body; `None` when it can only be made anew.
    pub body: Option<String>,
}

/// What bodies of one caller may take together. A body that would pass it is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Whose it is, as one short text.
    pub caller: String,
    /// Bytes of all bodies that were kept for the caller under an allowance and are not forgotten.
    pub bytes: u64,
}

/// Keys that make repeats of a request harmless.
///
/// Promises, each with a case in the suite:
/// - A key has one fingerprint and one turn at a time; of many callers one gets the first turn.
/// - A turn that was taken over, or whose key is gone, changes nothing any more.
/// - An answer that was kept is never changed.
/// - Bodies that were kept for one caller under an allowance never take more than it.
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Takes the next turn of a key, unless it is done, stands for something else, or another
    /// holder has it and its time is not over at `now`. The first turn brings the key into being
    /// with `new.resource`; later ones get the resource of the key. What is stored is as durable as
    /// `durability` says.
    async fn begin_key(&self, new: NewKey, durability: Durability, now: Timestamp)
    -> Result<Begun>;

    /// Other holders leave the turn alone until then, in place of what it was taken for. Survives
    /// the process. [`crate::Error::LeaseLost`] when the turn is not the last.
    async fn hold_key(&self, id: &str, attempt: u64, until: Timestamp) -> Result<()>;

    /// Gives the key another resource. [`crate::Error::LeaseLost`] when the turn is not the last.
    async fn renew_key(&self, id: &str, attempt: u64, resource: &str) -> Result<()>;

    /// Keeps the answer, on the disk; its body counts against the allowance, where there is one, and
    /// is left out when it does not fit. [`crate::Error::LeaseLost`] when the turn is not the last.
    async fn finish_key(
        &self,
        id: &str,
        attempt: u64,
        answer: Answer,
        allowance: Option<Allowance>,
    ) -> Result<()>;

    /// Leaves the work to the next turn, whoever takes it. Nothing when the turn is not the last.
    async fn release_key(&self, id: &str, attempt: u64) -> Result<()>;

    /// Forgets keys that began before `before`, the oldest first, at most `limit`, and says how
    /// many. One whose work still goes on is forgotten too: the caller leaves those out by `before`.
    async fn prune_keys(&self, before: Timestamp, limit: u32) -> Result<u64>;
}
