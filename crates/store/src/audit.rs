//! The audit log: who did what with which outcome, and every request to the admin routes.
//!
//! Records are kept by when they were made and read from the newest back, page by page. Texts are
//! bounded by whoever makes a record; the store keeps what it is given.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use stacyvm_types::{AuditId, ExecId, OwnerId, SandboxId, Timestamp};

use crate::{ExecLog, Result};

/// Records that one page looks at. A filter that few records match would otherwise read the whole
/// log for one page; it gets fewer rows and goes on where it was.
pub const LOOKED_AT: usize = 10_000;

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Success,
    /// It did not.
    Failure,
}

impl Outcome {
    /// The word in rows and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }

    /// The outcome with this word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Success, Self::Failure].into_iter().find(|outcome| outcome.as_str() == text)
    }
}

/// One operation, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRecord {
    /// Its id.
    pub id: AuditId,
    /// When it was over.
    pub at: Timestamp,
    /// Who asked for it: a credential's name, never the credential.
    pub actor: String,
    /// What was asked for, such as `file.write`.
    pub action: String,
    /// With which sandbox.
    pub sandbox: Option<SandboxId>,
    /// Whose.
    pub owner: Option<OwnerId>,
    /// Of which tenant.
    pub tenant: Option<String>,
    /// The provider, or `unknown`.
    pub provider: String,
    /// The image, command, path or name that it was about.
    pub resource: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How: figures, or the sentence that the caller was told.
    pub detail: String,
    /// The request that asked for it.
    pub request_id: Option<String>,
}

/// One request to an admin route, allowed or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminRecord {
    /// Its id.
    pub id: AuditId,
    /// When it was answered.
    pub at: Timestamp,
    /// Who asked: a credential's name, never the credential.
    pub actor: String,
    /// The HTTP method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// How long the answer took; kept in microseconds.
    pub duration: Duration,
    /// The request's id.
    pub request_id: String,
    /// From where.
    pub remote_addr: String,
    /// With what.
    pub user_agent: String,
    /// For which tenant.
    pub tenant: Option<String>,
}

/// A place in the log: the next page has what is older than it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When the record there was made.
    pub at: Timestamp,
    /// Its id.
    pub id: AuditId,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at.as_micros(), self.id)
    }
}

impl Position {
    /// Parses what `Display` prints.
    pub fn parse(text: &str) -> Option<Self> {
        let (at, id) = text.split_once('.')?;
        let plain = !at.is_empty() && at.bytes().all(|b| b.is_ascii_digit());
        let at = at.parse().ok().filter(|_| plain).map(Timestamp::from_micros)?;
        Some(Self { at, id: AuditId::parse(id).ok()? })
    }
}

/// Records, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The records.
    pub rows: Vec<T>,
    /// Where the next page begins; `None` when nothing older can match.
    pub next: Option<Position>,
}

/// What the pages of both kinds of record have in common.
pub trait Filter {
    /// What it filters.
    type Record;

    /// Where a record is.
    fn position(record: &Self::Record) -> Position;
    /// Only records made at or after this.
    fn since(&self) -> Option<Timestamp>;
    /// Only records made before this.
    fn until(&self) -> Option<Timestamp>;
    /// Whether the fields of a record are the wanted ones, its time aside.
    fn matches(&self, record: &Self::Record) -> bool;

    /// Below which time and id the first page begins.
    fn start(&self, before: Option<Position>) -> (Timestamp, String) {
        let end = (self.until().unwrap_or(Timestamp::from_micros(i64::MAX)), String::new());
        match before {
            Some(Position { at, id }) => end.min((at, id.to_string())),
            None => end,
        }
    }
}

/// Which operations to read. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperationFilter {
    /// Only of this actor.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only with this sandbox.
    pub sandbox: Option<SandboxId>,
    /// Only of this owner.
    pub owner: Option<OwnerId>,
    /// Only with this outcome.
    pub outcome: Option<Outcome>,
    /// Only made at or after this.
    pub since: Option<Timestamp>,
    /// Only made before this.
    pub until: Option<Timestamp>,
}

/// The list of operations that a filter walks through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationList<'f> {
    /// Those with a sandbox.
    OfSandbox(&'f SandboxId),
    /// Those of an owner.
    OfOwner(&'f OwnerId),
    /// Those of an actor.
    OfActor(&'f str),
    /// Those that failed.
    Failed,
    /// All.
    All,
}

impl OperationList<'_> {
    /// Whether a record is in the list.
    pub fn holds(self, record: &OperationRecord) -> bool {
        match self {
            Self::OfSandbox(id) => record.sandbox.as_ref() == Some(id),
            Self::OfOwner(owner) => record.owner.as_ref() == Some(owner),
            Self::OfActor(actor) => record.actor == actor,
            Self::Failed => record.outcome == Outcome::Failure,
            Self::All => true,
        }
    }
}

impl OperationFilter {
    /// The shortest list that holds everything that matches.
    pub fn list(&self) -> OperationList<'_> {
        match self {
            Self { sandbox: Some(id), .. } => OperationList::OfSandbox(id),
            Self { owner: Some(owner), .. } => OperationList::OfOwner(owner),
            Self { actor: Some(actor), .. } => OperationList::OfActor(actor),
            Self { outcome: Some(Outcome::Failure), .. } => OperationList::Failed,
            _ => OperationList::All,
        }
    }
}

fn is<T: PartialEq>(wanted: &Option<T>, value: &T) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted == value)
}

impl Filter for OperationFilter {
    type Record = OperationRecord;

    fn position(record: &OperationRecord) -> Position {
        Position { at: record.at, id: record.id.clone() }
    }

    fn since(&self) -> Option<Timestamp> {
        self.since
    }

    fn until(&self) -> Option<Timestamp> {
        self.until
    }

    fn matches(&self, record: &OperationRecord) -> bool {
        (self.sandbox.is_none() || self.sandbox == record.sandbox)
            && (self.owner.is_none() || self.owner == record.owner)
            && is(&self.actor, &record.actor)
            && is(&self.action, &record.action)
            && is(&self.outcome, &record.outcome)
    }
}

/// Which admin requests to read. Empty fields match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdminFilter {
    /// Only of this actor.
    pub actor: Option<String>,
    /// Only with this method.
    pub method: Option<String>,
    /// Only with this status.
    pub status: Option<u16>,
    /// Only with this in the path.
    pub path: Option<String>,
    /// Only made at or after this.
    pub since: Option<Timestamp>,
    /// Only made before this.
    pub until: Option<Timestamp>,
}

impl Filter for AdminFilter {
    type Record = AdminRecord;

    fn position(record: &AdminRecord) -> Position {
        Position { at: record.at, id: record.id.clone() }
    }

    fn since(&self) -> Option<Timestamp> {
        self.since
    }

    fn until(&self) -> Option<Timestamp> {
        self.until
    }

    fn matches(&self, record: &AdminRecord) -> bool {
        is(&self.actor, &record.actor)
            && is(&self.method, &record.method)
            && is(&self.status, &record.status)
            && self.path.as_ref().is_none_or(|part| record.path.contains(part))
    }
}

/// Gathers one page from records that come newest first.
#[derive(Debug)]
pub struct Pager<'f, F: Filter> {
    filter: &'f F,
    limit: usize,
    looked_at: usize,
    page: Page<F::Record>,
}

impl<'f, F: Filter> Pager<'f, F> {
    /// An empty page of at most `limit` records.
    pub fn new(filter: &'f F, limit: u32) -> Self {
        let page = Page { rows: Vec::new(), next: None };
        Self { filter, limit: limit as usize, looked_at: 0, page }
    }

    /// Looks at the next record. Whether another one is wanted.
    pub fn look(&mut self, record: F::Record) -> bool {
        let position = F::position(&record);
        if self.limit == 0 || self.filter.since().is_some_and(|since| position.at < since) {
            return false;
        }
        self.looked_at += 1;
        if self.filter.matches(&record) {
            self.page.rows.push(record);
        }
        let full = self.page.rows.len() == self.limit || self.looked_at == LOOKED_AT;
        if full {
            self.page.next = Some(position);
        }
        !full
    }

    /// The page.
    pub fn finish(self) -> Page<F::Record> {
        self.page
    }
}

/// What is remembered about what was done.
///
/// Promises, each with a case in the suite:
/// - A record stays as it was written first: repeating one changes nothing.
/// - Records are read at once, and outlive the server's process; the next
///   [`sync`](crate::Store::sync) takes them to the disk. Whoever keeps records writes many at a
///   time and nobody waits for one of them, so they hold up no other change.
/// - Pages are read from the newest record back (those of one instant by falling id), and following
///   `next` meets every record that was there at the start exactly once.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Keeps records of operations, all or none of them.
    async fn record_operations(&self, records: Vec<OperationRecord>) -> Result<()>;

    /// Operations older than `before` that match the filter, at most `limit`. A page looks at
    /// [`LOOKED_AT`] records at most, so it may have fewer rows than there are.
    async fn operation_records(
        &self,
        filter: OperationFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<OperationRecord>>;

    /// The record of a finished command of this sandbox, if it is there.
    async fn exec_log(&self, sandbox: &SandboxId, id: &ExecId) -> Result<Option<ExecLog>>;

    /// Keeps records of admin requests, all or none of them.
    async fn record_admin_requests(&self, records: Vec<AdminRecord>) -> Result<()>;

    /// Admin requests, as [`AuditStore::operation_records`].
    async fn admin_records(
        &self,
        filter: AdminFilter,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page<AdminRecord>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back_as_it_prints() {
        let id = AuditId::from_entropy([7; 10]);
        let position = Position { at: Timestamp::from_micros(17), id };
        assert_eq!(Position::parse(&position.to_string()), Some(position));
        for bad in
            ["", "17", "17.", ".au-07070707070707070707", "-1.au-07070707070707070707", "x.y"]
        {
            assert_eq!(Position::parse(bad), None, "{bad:?}");
        }
    }
}
