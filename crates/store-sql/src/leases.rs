//! Store methods about leases. The generation lives on the sandbox's row and survives the lease.

use stacyvm_store::{Error, Result};
use stacyvm_types::{Generation, Lease, SandboxId, Timestamp, WorkerId};

use crate::{
    db::{Row, Tx},
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
    // The sandbox's row is the lock: whoever has it decides about the lease.
    let row = sandboxes::locked(tx, id)?;
    let held_by_other =
        one(tx, id)?.is_some_and(|lease| lease.holder != holder && now < lease.expires_at);
    if held_by_other {
        return Err(Error::LeaseHeld);
    }
    let generation = sandboxes::raise_generation(tx, &row, now)?;
    let lease = Lease { holder, generation, expires_at: until };
    put(tx, id, &lease)?;
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

/// Writes the lease over what was there.
pub(crate) fn put(tx: &mut Tx<'_>, id: &SandboxId, lease: &Lease) -> Result<()> {
    tx.query(sql::PUT_LEASE)
        .bind(id.as_str())
        .bind(lease.holder.as_str())
        .bind(lease.generation.0)
        .bind(lease.expires_at)
        .execute()?;
    Ok(())
}

/// Moves the end of the lease, if there is one.
pub(crate) fn move_any(tx: &mut Tx<'_>, id: &SandboxId, until: Timestamp) -> Result<()> {
    tx.query(sql::MOVE_LEASE).bind(until).bind(id.as_str()).execute()?;
    Ok(())
}

/// Frees the lease, whoever holds it.
pub(crate) fn drop_any(tx: &mut Tx<'_>, id: &SandboxId) -> Result<()> {
    tx.query(sql::DROP_LEASE).bind(id.as_str()).execute()?;
    Ok(())
}

fn read(row: &mut Row<'_>) -> Result<Lease> {
    Ok(Lease {
        holder: row.parsed(|text| WorkerId::parse(text).ok())?,
        generation: Generation(row.int()?),
        expires_at: row.instant()?,
    })
}
