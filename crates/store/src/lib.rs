//! The store's contract: what the control plane remembers, and the guarantees it relies on.
//!
//! A method is one transaction and speaks the domain. When it returns `Ok` its effect outlives the
//! host, or as much as its [`Durability`] says.
//! Implementations: [`memory::MemoryStore`] here (the oracle of the property tests), SQL in
//! `stacyvm-store-sql`. All run one suite, `contract` (cargo feature `contract`).

pub mod audit;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod error;
pub mod hints;
pub mod idempotency;
pub mod keys;
pub mod memory;
pub mod observe;
pub mod quotas;
pub mod retention;
pub mod rows;
pub mod workers;

use std::time::Duration;

use async_trait::async_trait;
use stacyvm_admission::Policy;
use stacyvm_types::{Event, Generation, Lease, SandboxId, Timestamp, Transition, WorkerId};

pub use audit::AuditStore;
pub use error::{Error, Result};
pub use hints::Hints;
pub use idempotency::{Allowance, Answer, Begun, IdempotencyStore, NewKey, Turn};
pub use keys::{ApiKey, KeyHash, KeyState, KeyStore};
pub use observe::{Census, LeaseCensus, ObserveStore, Timings};
pub use quotas::{Quota, QuotaCounts, QuotaFields, QuotaStore, Standing};
pub use retention::RetentionStore;
pub use rows::{
    Durability, EventFilter, ExecLog, Include, NewEvent, NewSandbox, Sandbox, Template,
    TemplateChange, TemplateFields,
};
pub use workers::{WorkerRow, WorkerStore};

/// What the control plane remembers.
///
/// Promises, each with a case in the suite:
/// - Every method is atomic and durable, and safe to cancel: a dropped call has happened or not.
/// - Changes are lost only with the host, only those that were to reach the kernel alone, and only
///   from the newest back: whatever reaches the disk takes everything before it there.
/// - A sandbox's `generation` rises on every acquire and is never reused, also after release.
/// - Events are appended in the same transaction as the change they report; their ids rise in
///   commit order. An id that was read is never given to another event, also when its own was lost
///   with the host; so ids may leave numbers out where a store was opened again.
/// - Times are arguments: the store reads no clock but the one that a [`WorkerStore`] judges
///   leases by.
#[async_trait]
pub trait Store:
    AuditStore
    + IdempotencyStore
    + KeyStore
    + ObserveStore
    + QuotaStore
    + RetentionStore
    + WorkerStore
    + Send
    + Sync
    + 'static
{
    /// Decides with [`stacyvm_admission::decide`] on the places that are taken, the owner's quota
    /// and `policy`, and if it is admitted inserts a sandbox in phase `Creating` with its first
    /// lease (generation 1) for `new.worker`, and the event [`NewEvent::created`]. At no instant do more sandboxes hold a place than a limit allowed
    /// when they were admitted: one holds it from here until it is `Ended`.
    /// A known id, also of an ended sandbox, is [`Error::Conflict`], whatever the limits say; no
    /// free place is [`Error::Full`], what no wait cures [`Error::NotAllowed`], and a worker that
    /// takes nothing now [`Error::Unfit`]. The row is as durable as `durability` says.
    async fn admit(
        &self,
        policy: &Policy,
        new: NewSandbox,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox>;

    /// One sandbox, ended ones too.
    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>>;

    /// Sandboxes, newest first; those of one instant by falling id.
    async fn sandboxes(&self, include: Include) -> Result<Vec<Sandbox>>;

    /// Sandboxes whose phase is live and not `Stopping` and whose `expires_at` is at or before
    /// `now`, oldest deadline first (those of one instant by id), at most `limit`.
    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Sandbox>>;

    /// The earliest `expires_at` of a live sandbox that is not `Stopping`.
    async fn next_expiry(&self) -> Result<Option<Timestamp>>;

    /// Applies `transition` to the sandbox's phase with [`stacyvm_types::Phase::step`] and appends
    /// `events`, both only if the phase changed. Reaching `Ended` releases the lease.
    /// Checked in this order: an unknown sandbox is [`Error::NotFound`]; a `generation` that is not
    /// the sandbox's own, because a newer one exists, is [`Error::Fenced`]; an end for its time
    /// before its deadline, which was moved meanwhile, is [`Error::WrongPhase`]; a transition that the
    /// phase refuses is [`Error::Refused`]; a loss while the lease of its holder holds, which was
    /// heard of meanwhile, is [`Error::LeaseHeld`]. Returns the row after, which is then as durable as
    /// `durability` says, also when nothing was left to change.
    async fn transition(
        &self,
        id: &SandboxId,
        generation: Generation,
        transition: Transition,
        events: Vec<NewEvent>,
        durability: Durability,
        now: Timestamp,
    ) -> Result<Sandbox>;

    /// Moves the deadline of a sandbox that is `Running`, `Paused` or `Creating` and not yet
    /// expired at `now`; otherwise [`Error::WrongPhase`], or [`Error::NotFound`] when it is unknown.
    async fn extend(
        &self,
        id: &SandboxId,
        expires_at: Timestamp,
        events: Vec<NewEvent>,
        now: Timestamp,
    ) -> Result<Sandbox>;

    /// Says that a sandbox is still being started, so that nobody takes its start for interrupted:
    /// `updated_at` is `now` from then on, and nothing else of it changes. One that is not `Creating` is
    /// [`Error::WrongPhase`], an unknown one [`Error::NotFound`].
    async fn still_creating(&self, id: &SandboxId, now: Timestamp) -> Result<Sandbox>;

    /// Takes or takes over the lease: free, held by `holder` already, or lapsed for at least
    /// `fence`, the time after which its holder has ended the runtime by itself. Raises the
    /// generation, and with it the row's version; the sandbox is the holder's from then on, and its
    /// place is. Held by somebody else is [`Error::LeaseHeld`], an unknown sandbox
    /// [`Error::NotFound`], a holder that is not registered or was not heard of in time
    /// [`Error::Unfit`], another worker that has no room for it [`Error::Full`], and a sandbox that
    /// has ended [`Error::WrongPhase`]: nothing is started of it any more.
    async fn acquire_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        fence: Duration,
        now: Timestamp,
    ) -> Result<Lease>;

    /// Renews the lease for `term` from now on, and never for less than it has: with it the holder's
    /// own, and so those of all its sandboxes, and it counts as heard of. Nothing that it said of
    /// itself changes. `holder` not holding it, or no longer, or an unknown sandbox is
    /// [`Error::LeaseLost`].
    async fn renew_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        term: Duration,
        now: Timestamp,
    ) -> Result<Lease>;

    /// Gives the lease back, also when it has lapsed. Not holding it with this generation, or an
    /// unknown sandbox, is [`Error::LeaseLost`].
    async fn release_lease(
        &self,
        id: &SandboxId,
        holder: &WorkerId,
        generation: Generation,
    ) -> Result<()>;

    /// The lease of a sandbox, lapsed or not; `None` when it is free or the sandbox is unknown. It
    /// lapses with its holder's, and that of nobody who is registered has lapsed ever since.
    async fn lease(&self, id: &SandboxId) -> Result<Option<Lease>>;

    /// Appends events that belong to no change of a row.
    async fn append_events(&self, events: Vec<NewEvent>, now: Timestamp) -> Result<()>;

    /// Events with an id above `after`, in order, at most `limit`, that match the filter.
    async fn events(&self, after: u64, limit: u32, filter: EventFilter) -> Result<Vec<Event>>;

    /// The id up to which events were given ids: no later event gets one that is not above it. 0
    /// before the first one.
    async fn last_event(&self) -> Result<u64>;

    /// Records a finished command. Repeating it changes nothing: the first record of an id in
    /// its sandbox stays. Other sandboxes may have commands of the same id: clients choose them.
    /// An unknown sandbox is [`Error::NotFound`].
    async fn log_exec(&self, log: ExecLog) -> Result<()>;

    /// The finished commands of a sandbox, newest first, at most `limit`.
    async fn exec_logs(&self, id: &SandboxId, limit: u32) -> Result<Vec<ExecLog>>;

    /// A template by name.
    async fn template(&self, name: &str) -> Result<Option<Template>>;

    /// All templates, by name.
    async fn templates(&self) -> Result<Vec<Template>>;

    /// Inserts a template, with version 1 whatever the argument says; a known name is
    /// [`Error::Conflict`].
    async fn create_template(&self, template: Template) -> Result<Template>;

    /// Changes the named fields of a template and raises its version, also when no field is named;
    /// an unknown name is [`Error::NotFound`].
    async fn update_template(
        &self,
        name: &str,
        change: TemplateChange,
        now: Timestamp,
    ) -> Result<Template>;

    /// Removes a template; an unknown name is [`Error::NotFound`].
    async fn delete_template(&self, name: &str) -> Result<()>;

    /// Returns when everything that was answered before the call has reached the disk. Other calls
    /// go on meanwhile. An error means that some of it may not have, and changes nothing else.
    async fn sync(&self) -> Result<()>;

    /// Whether the store answers: a small read on the path that every request takes.
    async fn ping(&self) -> Result<()>;

    /// What other servers on the same database did, as far as they say so. `None` where there can be
    /// no other.
    fn hints(&self) -> Option<Hints> {
        None
    }
}
