//! Store methods about the audit log.

use stacyvm_store::{
    Result,
    audit::{
        AdminFilter, AdminRecord, Filter, OperationFilter, OperationList, OperationRecord, Outcome,
        Page, Pager, Position,
    },
};
use stacyvm_types::{AuditId, OwnerId, SandboxId, Timestamp};

use crate::{
    db::{Query, Row, Tx},
    events::{micros, optional, read_owner},
    sql,
};

/// Records that are read at once at most.
const CHUNK: u32 = 500;
/// Records that are read at once at least, for filters that few of them match.
const LEAST_CHUNK: u32 = 50;

/// See [`stacyvm_store::AuditStore::record_operations`].
pub(crate) fn record_operations(tx: &mut Tx<'_>, records: &[OperationRecord]) -> Result<()> {
    for record in records {
        tx.query(sql::INSERT_OPERATION)
            .bind(record.id.as_str())
            .bind(record.at)
            .bind(record.actor.as_str())
            .bind(record.action.as_str())
            .bind(record.sandbox.as_ref().map(SandboxId::as_str))
            .bind(record.owner.as_ref().map(OwnerId::as_str))
            .bind(record.tenant.as_deref())
            .bind(record.provider.as_str())
            .bind(record.resource.as_str())
            .bind(record.outcome.as_str())
            .bind(record.detail.as_str())
            .bind(record.request_id.as_deref())
            .execute()?;
    }
    Ok(())
}

/// See [`stacyvm_store::AuditStore::operation_records`].
pub(crate) fn operations(
    tx: &Tx<'_>,
    filter: &OperationFilter,
    before: Option<Position>,
    limit: u32,
) -> Result<Page<OperationRecord>> {
    let (sql, key) = match filter.list() {
        OperationList::OfSandbox(id) => (sql::OPERATIONS_OF_SANDBOX, Some(id.as_str())),
        OperationList::OfOwner(owner) => (sql::OPERATIONS_OF_OWNER, Some(owner.as_str())),
        OperationList::OfActor(actor) => (sql::OPERATIONS_OF_ACTOR, Some(actor)),
        OperationList::Failed => (sql::FAILED_OPERATIONS, None),
        OperationList::All => (sql::OPERATIONS, None),
    };
    page(tx, sql, key, filter, before, limit, read_operation)
}

/// See [`stacyvm_store::AuditStore::record_admin_requests`].
pub(crate) fn record_admin(tx: &mut Tx<'_>, records: &[AdminRecord]) -> Result<()> {
    for record in records {
        tx.query(sql::INSERT_ADMIN_REQUEST)
            .bind(record.id.as_str())
            .bind(record.at)
            .bind(record.actor.as_str())
            .bind(record.method.as_str())
            .bind(record.path.as_str())
            .bind(u32::from(record.status))
            .bind(micros(record.duration))
            .bind(record.request_id.as_str())
            .bind(record.remote_addr.as_str())
            .bind(record.user_agent.as_str())
            .bind(record.tenant.as_deref())
            .execute()?;
    }
    Ok(())
}

/// See [`stacyvm_store::AuditStore::admin_records`].
pub(crate) fn admin(
    tx: &Tx<'_>,
    filter: &AdminFilter,
    before: Option<Position>,
    limit: u32,
) -> Result<Page<AdminRecord>> {
    let (sql, key) = match filter.actor.as_deref() {
        Some(actor) => (sql::ADMIN_REQUESTS_OF_ACTOR, Some(actor)),
        None => (sql::ADMIN_REQUESTS, None),
    };
    page(tx, sql, key, filter, before, limit, read_admin)
}

/// Reads a list chunk by chunk until the page is full. The statement takes the time and the id
/// below which it begins, the size of a chunk, and the key of its list where it has one.
fn page<F: Filter>(
    tx: &Tx<'_>,
    sql: &'static str,
    key: Option<&str>,
    filter: &F,
    before: Option<Position>,
    limit: u32,
    read: fn(&mut Row<'_>) -> Result<F::Record>,
) -> Result<Page<F::Record>> {
    let chunk = limit.clamp(LEAST_CHUNK, CHUNK);
    let mut pager = Pager::new(filter, limit);
    let (mut at, mut id) = filter.start(before);
    loop {
        let query = tx.query(sql).bind(at).bind(id.as_str()).bind(chunk);
        let records = key.into_iter().fold(query, Query::bind).all(read)?;
        let last = records.last().map(F::position);
        let whole = records.len() == chunk as usize;
        for record in records {
            if !pager.look(record) {
                return Ok(pager.finish());
            }
        }
        match last {
            Some(position) if whole => (at, id) = (position.at, position.id.to_string()),
            _ => return Ok(pager.finish()),
        }
    }
}

/// See [`stacyvm_store::RetentionStore::prune_operation_records`].
pub(crate) fn prune_operations(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64> {
    prune(tx, sql::OLD_OPERATIONS, sql::DELETE_OPERATIONS, before, limit)
}

/// See [`stacyvm_store::RetentionStore::prune_admin_records`].
pub(crate) fn prune_admin(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64> {
    prune(tx, sql::OLD_ADMIN_REQUESTS, sql::DELETE_ADMIN_REQUESTS, before, limit)
}

/// Removes the oldest rows of a table that is in the order of time and id.
pub(crate) fn prune(
    tx: &mut Tx<'_>,
    oldest: &'static str,
    delete: &'static str,
    before: Timestamp,
    limit: u32,
) -> Result<u64> {
    let old = tx
        .query(oldest)
        .bind(before)
        .bind(limit)
        .all(|row| Ok((row.instant()?, row.text()?.to_owned())))?;
    let Some((at, id)) = old.last() else { return Ok(0) };
    tx.query(delete).bind(*at).bind(id.as_str()).execute().map(|count| count as u64)
}

fn read_id(row: &mut Row<'_>) -> Result<AuditId> {
    row.parsed(|text| AuditId::parse(text).ok())
}

fn read_text(row: &mut Row<'_>) -> Result<Option<String>> {
    Ok(row.optional_text()?.map(str::to_owned))
}

fn read_operation(row: &mut Row<'_>) -> Result<OperationRecord> {
    // Fields are evaluated as written here: in the order of the columns.
    Ok(OperationRecord {
        id: read_id(row)?,
        at: row.instant()?,
        actor: row.text()?.to_owned(),
        action: row.text()?.to_owned(),
        sandbox: optional(row, |text| SandboxId::parse(text).ok())?,
        owner: read_owner(row)?,
        tenant: read_text(row)?,
        provider: row.text()?.to_owned(),
        resource: row.text()?.to_owned(),
        outcome: row.parsed(Outcome::parse)?,
        detail: row.text()?.to_owned(),
        request_id: read_text(row)?,
    })
}

fn read_admin(row: &mut Row<'_>) -> Result<AdminRecord> {
    // Fields are evaluated as written here: in the order of the columns.
    Ok(AdminRecord {
        id: read_id(row)?,
        at: row.instant()?,
        actor: row.text()?.to_owned(),
        method: row.text()?.to_owned(),
        path: row.text()?.to_owned(),
        status: row.int()?,
        duration: std::time::Duration::from_micros(row.int()?),
        request_id: row.text()?.to_owned(),
        remote_addr: row.text()?.to_owned(),
        user_agent: row.text()?.to_owned(),
        tenant: read_text(row)?,
    })
}
