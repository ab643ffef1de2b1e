//! Store methods that forget.

use stacyvm_store::{
    Result,
    retention::{Swept, Walk},
};
use stacyvm_types::Timestamp;

use crate::{
    audit,
    db::{Row, Tx, missing_counter},
    sql,
};

/// A sandbox on a walk by age.
struct Aged {
    at: Walk,
    changed_at: Timestamp,
    has_ended: bool,
    is_leased: bool,
}

impl Aged {
    fn is_over(&self, before: Timestamp) -> bool {
        self.has_ended && self.changed_at < before && !self.is_leased
    }
}

/// See [`stacyvm_store::RetentionStore::prune_sandboxes`].
pub(crate) fn sandboxes(
    tx: &mut Tx<'_>,
    before: Timestamp,
    from: &Walk,
    limit: u32,
) -> Result<Swept> {
    let rows = tx
        .query(sql::SANDBOXES_BY_AGE)
        .bind(from.created_at)
        .bind(from.id.as_str())
        .bind(before)
        .bind(limit.saturating_add(1))
        .all(read_aged)?;
    let more = limit as usize <= rows.len().saturating_sub(1);
    let (mut removed, mut logs_left) = (0, limit);
    let mut stands = from.clone();
    for row in rows.into_iter().take(limit as usize) {
        if row.is_over(before) && is_still_over(tx, &row, before)? {
            let logs = prune_logs_of(tx, &row.at.id, logs_left)?;
            removed += u64::from(logs.removed);
            if logs.more {
                return Ok(Swept { removed, next: Some(stands) });
            }
            logs_left -= logs.removed;
            removed += tx.query(sql::DELETE_SANDBOX).bind(row.at.id.as_str()).execute()? as u64;
        }
        stands = row.at;
    }
    Ok(Swept { removed, next: more.then_some(stands) })
}

/// Whether nothing became of the sandbox since the walk saw it. Holds it from then on: somebody may
/// be about to take its lease, or has begun to, and then it is left to the next walk. To wait for
/// them while others wait for what was removed already could close a circle.
fn is_still_over(tx: &Tx<'_>, row: &Aged, before: Timestamp) -> Result<bool> {
    let query = tx.query(sql::AGED_SANDBOX).bind(row.at.created_at).bind(row.at.id.as_str());
    Ok(query.for_update_unless_locked().first(read_aged)?.is_some_and(|row| row.is_over(before)))
}

fn read_aged(row: &mut Row<'_>) -> Result<Aged> {
    // Fields are evaluated as written here: in the order of the columns.
    Ok(Aged {
        at: Walk { created_at: row.instant()?, id: row.text()?.to_owned() },
        changed_at: row.instant()?,
        has_ended: row.optional_int::<i64>()?.is_some(),
        is_leased: row.optional_text()?.is_some(),
    })
}

struct Logs {
    removed: u32,
    more: bool,
}

/// Removes the oldest records of a sandbox's commands.
fn prune_logs_of(tx: &mut Tx<'_>, sandbox: &str, limit: u32) -> Result<Logs> {
    let mut logs = tx
        .query(sql::OLDEST_LOGS_OF)
        .bind(sandbox)
        .bind(limit.saturating_add(1))
        .all(|row| Ok((row.instant()?, row.text()?.to_owned())))?;
    let more = limit as usize <= logs.len().saturating_sub(1);
    logs.truncate(limit as usize);
    let Some((at, id)) = logs.last() else { return Ok(Logs { removed: 0, more }) };
    tx.query(sql::DELETE_LOGS_OF).bind(sandbox).bind(*at).bind(id.as_str()).execute()?;
    let removed = u32::try_from(logs.len()).unwrap_or(limit);
    Ok(Logs { removed, more })
}

/// See [`stacyvm_store::RetentionStore::prune_exec_logs`].
pub(crate) fn exec_logs(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64> {
    audit::prune(tx, sql::OLD_EXEC_LOGS, sql::DELETE_EXEC_LOGS, before, limit)
}

/// See [`stacyvm_store::RetentionStore::prune_events`].
pub(crate) fn events(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64> {
    // Held, so that of two that prune the second goes on where the first one stopped.
    let pruned = tx.query(sql::PRUNED_EVENTS).for_update().first(|row| row.int::<u64>())?;
    let next: Vec<(u64, Timestamp)> = tx
        .query(sql::EVENTS_BY_AGE)
        .bind(pruned.ok_or_else(missing_counter)?)
        .bind(limit)
        .all(|row| Ok((row.int()?, row.instant()?)))?;
    let Some((last, _)) = next.iter().rfind(|(_, at)| *at < before) else { return Ok(0) };
    let removed = tx.query(sql::DELETE_EVENTS).bind(*last).execute()?;
    tx.query(sql::SET_PRUNED_EVENTS).bind(*last).execute()?;
    Ok(removed as u64)
}

/// See [`stacyvm_store::RetentionStore::pruned_events`].
pub(crate) fn pruned_events(tx: &Tx<'_>) -> Result<u64> {
    tx.query(sql::PRUNED_EVENTS).first(|row| row.int())?.ok_or_else(missing_counter)
}
