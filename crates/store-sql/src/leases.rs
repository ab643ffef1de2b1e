//! Store methods about leases. A lease is a part of the sandbox's row; the generation there
//! survives it.

use stacyvm_store::{Error, Result};
use stacyvm_types::{Generation, Lease, SandboxId, Timestamp, WorkerId};

use crate::{
    db::{Row, Tx, one_row},
    sandboxes, sql,
};

/// See [`stacyvm_store::Store::acquire_lease`].
pub(crate) fn acquire(
    tx: &mut Tx<'_>,
    id: &SandboxId,
    holder: WorkerId,
    until: Timestamp,
    now: Timestamp,
) -> Result<Lease> {
    let row = sandboxes::locked(tx, id)?;
    let held_by_other =
        one(tx, id)?.is_some_and(|lease| lease.holder != holder && now < lease.expires_at);
    if held_by_other {
        return Err(Error::LeaseHeld);
    }
    let lease = Lease { holder, generation: Generation(row.generation.0 + 1), expires_at: until };
    let changed = tx
        .query(sql::TAKE_LEASE)
        .bind(lease.generation.0)
        .bind(lease.holder.as_str())
        .bind(lease.expires_at)
        .bind(now)
        .bind(id.as_str())
        .bind(row.version)
        .execute()?;
    one_row(changed)?;
    Ok(lease)
}

/// See [`stacyvm_store::Store::release_lease`].
pub(crate) fn release(
    tx: &mut Tx<'_>,
    id: &SandboxId,
    holder: &WorkerId,
    generation: Generation,
) -> Result<()> {
    let released = tx
        .query(sql::RELEASE_LEASE)
        .bind(id.as_str())
        .bind(holder.as_str())
        .bind(generation.0)
        .execute()?;
    if released == 0 { Err(Error::LeaseLost) } else { Ok(()) }
}

/// See [`stacyvm_store::Store::lease`].
pub(crate) fn one(tx: &Tx<'_>, id: &SandboxId) -> Result<Option<Lease>> {
    tx.query(sql::LEASE).bind(id.as_str()).first(read)
}

fn read(row: &mut Row<'_>) -> Result<Lease> {
    Ok(Lease {
        holder: row.parsed(|text| WorkerId::parse(text).ok())?,
        generation: Generation(row.int()?),
        expires_at: row.instant()?,
    })
}
