//! Things that happened, as data that clients can follow.

use std::collections::BTreeMap;

use crate::{OwnerId, SandboxId, Timestamp};

/// One entry of the durable event log. `id` rises by one commit order and is never reused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the log; printed as `evt-<id>`.
    pub id: u64,
    /// What happened.
    pub kind: EventKind,
    /// The sandbox it happened to.
    pub sandbox: Option<SandboxId>,
    /// The sandbox's owner.
    pub owner: Option<OwnerId>,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// Details, by key. Values are numbers and words, never output of a sandbox or a secret.
    pub data: BTreeMap<String, String>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// The kinds of event, with their names on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum EventKind { $($(#[$doc])* $name,)* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The wire name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The kind with this wire name.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
            }
        }
    };
}

kinds! {
    /// The row exists and its place is reserved.
    SandboxCreated => "sandbox.created",
    /// The runtime answers.
    SandboxRunning => "sandbox.running",
    /// The deadline passed.
    SandboxExpired => "sandbox.expired",
    /// The deadline moved.
    SandboxExtended => "sandbox.extended",
    /// The runtime is gone and the row has ended.
    SandboxDestroyed => "sandbox.destroyed",
    /// The sandbox could not be made, or its runtime died.
    SandboxError => "sandbox.error",
    /// A command started.
    ExecStarted => "exec.started",
    /// A command ended by itself, whatever its exit code.
    ExecCompleted => "exec.completed",
    /// A command could not be run.
    ExecFailed => "exec.failed",
    /// A command met its deadline.
    ExecTimeout => "exec.timeout",
    /// A file was written.
    FileWritten => "file.written",
    /// A file was read.
    FileRead => "file.read",
    /// An operation other than an exec failed.
    OperationFailed => "operation.failed",
    /// A limit refused a request.
    ResourceLimit => "resource.limit",
    /// A provider could not do its work.
    ProviderFailed => "provider.failed",
    /// A spawn waits for a place.
    SpawnQueued => "spawn.queued",
    /// A spawn that waited has its place.
    SpawnDequeued => "spawn.dequeued",
    /// A spawn waited as long as it may.
    SpawnQueueTimeout => "spawn.queue_timeout",
    /// An owner's quota was decided.
    QuotaSaved => "quota.saved",
    /// An owner's quota was removed.
    QuotaDeleted => "quota.deleted",
    /// The reconciler changed something.
    ReconcileAction => "reconcile.action",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.as_str()), Some(*kind));
        }
    }
}
