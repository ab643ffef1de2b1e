//! What callers ask for, followed to its outcome: the one place from which metrics, events and the
//! audit log learn of it.
//!
//! What is recorded of which outcome:
//! - Metrics: every [`Operation`], by provider.
//! - Audit: every failure, and every success that changes something. Looking (read, list, stat,
//!   glob) changes nothing and may be frequent: its successes are in the metrics and, for a file's
//!   content, in the events.
//! - Events: every failure about a sandbox that the caller may know of. Others would let anybody
//!   write into a log that owners follow.
//!
//! Recording waits for a place in the queue of [`crate::events`] and never for the disk.

use std::time::Duration;

use stacyvm_store::{
    NewEvent, Sandbox,
    audit::{OperationRecord, Outcome},
};
use stacyvm_types::{AuditId, EventKind, Operation, OwnerId, SandboxId};
use tokio::time::Instant;

use crate::{Control, Error, Result, events::Record};

/// The longest resource in a record, in bytes.
const RESOURCE: usize = 1024;
/// The longest detail in a record, in bytes.
const DETAIL: usize = 2048;
/// The longest name of a provider in a record, in bytes: callers may name one that there is not.
const PROVIDER: usize = 64;
/// The provider of a sandbox that is not known.
const UNKNOWN: &str = "unknown";

/// What is asked for, and how much of it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// A caller's operation: measured and audited.
    Operation(Operation),
    /// Another change, by its name in the audit log: audited, not measured.
    Change(&'static str),
    /// A command that belongs to an operation of its own: only its events are recorded.
    Part(Operation),
}

impl Act {
    const fn action(self) -> &'static str {
        match self {
            Self::Operation(operation) | Self::Part(operation) => operation.action(),
            Self::Change(action) => action,
        }
    }

    /// Whether its success leaves something changed.
    const fn changes(self) -> bool {
        use Operation as O;
        match self {
            Self::Change(_) => true,
            Self::Part(_) => false,
            Self::Operation(operation) => match operation {
                O::Spawn | O::Exec | O::ExecStream | O::Destroy => true,
                O::FileWrite | O::FileDelete | O::FileMove | O::FileChmod => true,
                O::FileRead | O::FileList | O::FileStat | O::FileGlob => false,
            },
        }
    }
}

/// An act under way.
#[derive(Clone)]
pub(crate) struct Attempt {
    control: Control,
    act: Act,
    begun: Instant,
    /// What it is about: an image, command, path or name.
    pub(crate) resource: String,
    /// Whose it is.
    pub(crate) owner: Option<OwnerId>,
    /// What is to carry it out.
    pub(crate) provider: Option<String>,
    sandbox: Option<SandboxId>,
    /// Whether the sandbox was found for this caller.
    found: bool,
}

impl Control {
    /// Begins an act.
    pub(crate) fn attempt(&self, act: Act, resource: impl Into<String>) -> Attempt {
        Attempt {
            control: self.clone(),
            act,
            begun: Instant::now(),
            resource: resource.into(),
            owner: None,
            provider: None,
            sandbox: None,
            found: false,
        }
    }

    /// Makes a change to what belongs to no sandbox, on the server's own tasks: whoever goes away,
    /// it ends and is recorded.
    pub(crate) async fn change<T, F>(
        &self,
        action: &'static str,
        resource: &str,
        told: fn(&T) -> String,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut attempt = self.attempt(Act::Change(action), resource);
        self.to_the_end(async move {
            let result = work.await;
            attempt.end(result, told).await
        })
        .await
    }
}

impl Attempt {
    /// It is about a sandbox that was not looked up yet.
    pub(crate) fn on(mut self, id: &SandboxId) -> Self {
        self.sandbox = Some(id.clone());
        self
    }

    /// It is about this sandbox.
    pub(crate) fn concerns(&mut self, row: &Sandbox) {
        self.sandbox = Some(row.spec.id.clone());
        self.owner = row.spec.owner.clone();
        self.provider = Some(row.spec.provider.clone());
        self.found = true;
    }

    /// Whether its sandbox was found.
    pub(crate) const fn has_found(&self) -> bool {
        self.found
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Records how it went and hands the result on. `told` says how a success went, in figures.
    pub(crate) async fn end<T>(
        &mut self,
        result: Result<T>,
        told: impl FnOnce(&T) -> String,
    ) -> Result<T> {
        match &result {
            Ok(value) => {
                let detail = told(value);
                self.succeeded(detail).await;
            }
            Err(error) => self.failed(error, Vec::new()).await,
        }
        result
    }

    /// Records that it did what was asked.
    pub(crate) async fn succeeded(&self, detail: String) {
        self.measure(None);
        if let Some(record) = self.success(detail) {
            self.control.0.recorder.record_soon(record).await;
        }
    }

    /// What is to be recorded when it did what was asked.
    pub(crate) fn success(&self, detail: String) -> Option<Record> {
        self.act.changes().then(|| self.audit(Outcome::Success, detail))
    }

    /// Records that it failed; `more` goes into the event.
    pub(crate) async fn failed(&mut self, error: &Error, more: Vec<(&'static str, String)>) {
        self.look_up(error).await;
        self.measure(Some(error));
        for record in self.failure(error, more) {
            self.control.0.recorder.record_soon(record).await;
        }
    }

    /// What is to be recorded when it failed.
    pub(crate) fn failure(&self, error: &Error, more: Vec<(&'static str, String)>) -> Vec<Record> {
        // What a caller wrote may be in it, as long as a request can be.
        let text = cut(error.recorded(), DETAIL);
        let is_told = self.found || self.act == Act::Operation(Operation::Spawn);
        let event = kind(self.act, error).filter(|_| is_told).map(|kind| {
            let data = [
                ("operation", self.act.action().to_owned()),
                ("provider", self.provider().to_owned()),
                ("error", text.clone()),
            ];
            let data = data.into_iter().chain(more);
            Record::Event(NewEvent {
                kind,
                sandbox: self.sandbox.clone(),
                owner: self.owner.clone(),
                data: data.map(|(key, value)| (key.to_owned(), value)).collect(),
            })
        });
        let is_part = matches!(self.act, Act::Part(_));
        let audit = (!is_part).then(|| self.audit(Outcome::Failure, text));
        event.into_iter().chain(audit).collect()
    }

    fn provider(&self) -> &str {
        let name = self.provider.as_deref().unwrap_or(UNKNOWN);
        &name[..name.floor_char_boundary(PROVIDER)]
    }

    /// Counts it, and how long it took.
    pub(crate) fn measure(&self, failure: Option<&Error>) {
        if let Act::Operation(operation) = self.act {
            self.control.0.metrics.record(operation, self.provider(), self.elapsed(), failure);
        }
    }

    /// Finds out whose sandbox it was that refused before its row was at hand. One that does not
    /// exist for the caller is nobody's.
    async fn look_up(&mut self, error: &Error) {
        if self.found || matches!(error, Error::NoSandbox(_) | Error::Unavailable(_)) {
            return;
        }
        if let Some(id) = &self.sandbox
            && let Ok(row) = self.control.row(id).await
        {
            self.concerns(&row);
        }
    }

    fn audit(&self, outcome: Outcome, detail: String) -> Record {
        Record::Operation(OperationRecord {
            id: AuditId::from_entropy(self.control.0.entropy.id()),
            at: self.control.now(),
            actor: self.control.caller().actor.clone(),
            action: self.act.action().to_owned(),
            sandbox: self.sandbox.clone(),
            owner: self.owner.clone(),
            tenant: None,
            provider: self.provider().to_owned(),
            resource: cut(self.resource.clone(), RESOURCE),
            outcome,
            detail: cut(detail, DETAIL),
            request_id: self.control.request_id().map(str::to_owned),
        })
    }
}

/// The event that tells of a failure; `None` when it was told where it happened.
fn kind(act: Act, error: &Error) -> Option<EventKind> {
    let action = act.action();
    Some(match error {
        Error::ExecTimeout(_) => EventKind::ExecTimeout,
        Error::Limit(_) => EventKind::ResourceLimit,
        // Jobs end sandboxes too, so `Control::destroy_runtime` tells for all of them.
        Error::Unavailable(failure) | Error::Internal(failure)
            if failure.is_of_provider() && action == Operation::Destroy.action() =>
        {
            return None;
        }
        Error::Unavailable(failure) | Error::Internal(failure) if failure.is_of_provider() => {
            EventKind::ProviderFailed
        }
        _ if action.starts_with(Operation::Exec.action()) => EventKind::ExecFailed,
        _ => EventKind::OperationFailed,
    })
}

/// A text of at most `most` bytes.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use stacyvm_provider as provider;

    use super::*;

    #[test]
    fn every_failure_has_the_event_of_its_kind() {
        let id = SandboxId::from_entropy([1; 10]);
        let broken = || {
            let error = provider::Error::new(provider::ErrorKind::Unavailable, "it is silent");
            Error::from_provider(error, None)
        };
        let of = |operation, error| kind(Act::Operation(operation), &error);
        use Operation as O;
        assert_eq!(of(O::Exec, Error::ExecTimeout(id)), Some(EventKind::ExecTimeout));
        for operation in Operation::ALL {
            let limit = Error::Limit("too many".to_owned());
            assert_eq!(of(*operation, limit), Some(EventKind::ResourceLimit));
        }
        assert_eq!(of(O::Spawn, broken()), Some(EventKind::ProviderFailed));
        assert_eq!(of(O::ExecStream, broken()), Some(EventKind::ProviderFailed));
        assert_eq!(of(O::Destroy, broken()), None);
        let store = || Error::unavailable("the store does not answer");
        assert_eq!(of(O::Destroy, store()), Some(EventKind::OperationFailed));
        assert_eq!(of(O::ExecStream, store()), Some(EventKind::ExecFailed));
        assert_eq!(of(O::FileStat, Error::DiskFull), Some(EventKind::OperationFailed));
    }
}
