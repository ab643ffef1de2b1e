//! Store methods about the event log and the record of commands.

use std::time::Duration;

use stacyvm_store::{Error, EventFilter, ExecLog, NewEvent, Result};
use stacyvm_types::{Event, EventKind, ExecId, OwnerId, SandboxId, Timestamp};

use crate::{
    db::{Hint, Row, Tx, json, missing_counter, unknown_word},
    sandboxes, sql,
};

/// See [`stacyvm_store::Store::append_events`]; changes of rows append theirs with it too.
pub(crate) fn append(tx: &mut Tx<'_>, events: Vec<NewEvent>, now: Timestamp) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let count = events.len() as u64;
    let last: u64 = tx
        .query(sql::TAKE_EVENT_IDS)
        .bind(count)
        .first(|row| row.int())?
        .ok_or_else(missing_counter)?;
    for (event, id) in events.iter().zip(last + 1 - count..) {
        tx.query(sql::INSERT_EVENT)
            .bind(id)
            .bind(event.kind.as_str())
            .bind(event.sandbox.as_ref().map(SandboxId::as_str))
            .bind(event.owner.as_ref().map(OwnerId::as_str))
            .bind(now)
            .bind(json(&event.data)?)
            .execute()?;
    }
    tx.tell(Hint::Events);
    Ok(())
}

/// See [`stacyvm_store::Store::events`].
pub(crate) fn list(
    tx: &Tx<'_>,
    after: u64,
    limit: u32,
    filter: &EventFilter,
) -> Result<Vec<Event>> {
    let sandbox = filter.sandbox.as_ref().map(SandboxId::as_str);
    let owner = filter.owner.as_ref().map(OwnerId::as_str);
    let (sql, keys) = match (sandbox, owner) {
        (None, None) => (sql::EVENTS, [None, None]),
        (Some(sandbox), None) => (sql::EVENTS_OF_SANDBOX, [Some(sandbox), None]),
        (None, Some(owner)) => (sql::EVENTS_OF_OWNER, [Some(owner), None]),
        (Some(_), Some(_)) => (sql::EVENTS_OF_SANDBOX_AND_OWNER, [sandbox, owner]),
    };
    let query = tx.query(sql).bind(after).bind(limit).bind(wanted(&filter.kinds));
    keys.into_iter().flatten().fold(query, |query, key| query.bind(key)).all(read)
}

/// See [`stacyvm_store::Store::last_event`].
pub(crate) fn last(tx: &Tx<'_>) -> Result<u64> {
    tx.query(sql::LAST_EVENT).first(|row| row.int())?.ok_or_else(missing_counter)
}

/// See [`stacyvm_store::Store::log_exec`].
pub(crate) fn log_exec(tx: &mut Tx<'_>, log: &ExecLog) -> Result<()> {
    if sandboxes::one(tx, &log.sandbox)?.is_none() {
        return Err(Error::NotFound);
    }
    tx.query(sql::INSERT_EXEC_LOG)
        .bind(log.id.as_str())
        .bind(log.sandbox.as_str())
        .bind(log.command.as_str())
        .bind(log.exit_code)
        .bind(log.reason.as_str())
        .bind(micros(log.duration))
        .bind(log.at)
        .execute()?;
    Ok(())
}

/// See [`stacyvm_store::Store::exec_logs`].
pub(crate) fn exec_logs(tx: &Tx<'_>, id: &SandboxId, limit: u32) -> Result<Vec<ExecLog>> {
    tx.query(sql::EXEC_LOGS).bind(id.as_str()).bind(limit).all(read_exec_log)
}

/// See [`stacyvm_store::AuditStore::exec_log`].
pub(crate) fn exec_log(tx: &Tx<'_>, sandbox: &SandboxId, id: &ExecId) -> Result<Option<ExecLog>> {
    tx.query(sql::EXEC_LOG).bind(sandbox.as_str()).bind(id.as_str()).first(read_exec_log)
}

fn read_exec_log(row: &mut Row<'_>) -> Result<ExecLog> {
    Ok(ExecLog {
        id: row.parsed(|text| ExecId::parse(text).ok())?,
        sandbox: row.parsed(|text| SandboxId::parse(text).ok())?,
        command: row.text()?.to_owned(),
        exit_code: row.int()?,
        reason: row.text()?.to_owned(),
        duration: Duration::from_micros(row.int()?),
        at: row.instant()?,
    })
}

/// A duration as its column keeps it.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The next column, an owner or NULL.
pub(crate) fn read_owner(row: &mut Row<'_>) -> Result<Option<OwnerId>> {
    optional(row, |text| OwnerId::parse(text).ok())
}

/// The next column, a text that `parse` must understand or NULL.
pub(crate) fn optional<T>(
    row: &mut Row<'_>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>> {
    let Some(text) = row.optional_text()? else { return Ok(None) };
    parse(text).ok_or_else(unknown_word).map(Some)
}

/// The kinds as the statements want them, see `of_kinds!`.
fn wanted(kinds: &[EventKind]) -> String {
    let mut text = String::new();
    for kind in kinds {
        text.push(',');
        text.push_str(kind.as_str());
        text.push(',');
    }
    text
}

fn read(row: &mut Row<'_>) -> Result<Event> {
    // Fields are evaluated as written here: in the order of the columns.
    Ok(Event {
        id: row.int()?,
        kind: row.parsed(EventKind::parse)?,
        sandbox: optional(row, |text| SandboxId::parse(text).ok())?,
        owner: read_owner(row)?,
        at: row.instant()?,
        data: row.json()?,
    })
}
