//! Store methods about leases. Who holds one is a part of the sandbox's row, where the generation
//! survives it; how long it holds is a part of the holder's.

use std::time::Duration;

use stacyvm_store::{Error, Result};
use stacyvm_types::{Generation, Lease, SandboxId, Timestamp, Unfit, WorkerId};

use crate::{
    db::{Row, Tx, one_row},
    quotas, sandboxes, sql, workers,
};

/// See [`stacyvm_store::Store::acquire_lease`].
pub(crate) fn acquire(
    tx: &mut Tx<'_>,
    id: &SandboxId,
    holder: WorkerId,
    fence: Duration,
    now: Timestamp,
) -> Result<Lease> {
    let row = sandboxes::locked(tx, id)?;
    if !row.phase.is_live() {
        return Err(Error::WrongPhase(Box::new(row)));
    }
    let until = workers::lease_until(tx, &holder)?.ok_or(Error::Unfit(Unfit::Unknown))?;
    let mut now = tx.time(now)?;
    if until <= now && until != Timestamp::MAX {
        return Err(Error::Unfit(Unfit::Stale));
    }
    if let Some(old) = holder_of(tx, id)?
        && old != holder
    {
        // Locked, so that it is not renewed between this look and the end of the transaction.
        let expires_at = workers::lease_until_held(tx, &old)?.unwrap_or(Timestamp::EPOCH);
        now = tx.time(now)?;
        if (Lease { holder: old, generation: row.generation, expires_at }).holds(fence, now) {
            return Err(Error::LeaseHeld);
        }
    }
    if row.spec.worker != holder && row.phase.is_live() {
        quotas::move_place(tx, &row.spec, &holder, now)?;
    }
    let generation = Generation(row.generation.0 + 1);
    let changed = tx
        .query(sql::TAKE_LEASE)
        .bind(generation.0)
        .bind(holder.as_str())
        .bind(now)
        .bind(id.as_str())
        .bind(row.version)
        .execute()?;
    one_row(changed)?;
    Ok(Lease { holder, generation, expires_at: until })
}

/// See [`stacyvm_store::Store::renew_lease`].
pub(crate) fn renew(
    tx: &mut Tx<'_>,
    id: &SandboxId,
    holder: WorkerId,
    term: Duration,
    now: Timestamp,
) -> Result<Lease> {
    let row = match sandboxes::locked(tx, id) {
        Err(Error::NotFound) => return Err(Error::LeaseLost),
        row => row?,
    };
    if holder_of(tx, id)?.as_ref() != Some(&holder) {
        return Err(Error::LeaseLost);
    }
    let expires_at = workers::renew(tx, &holder, term, now)?.ok_or(Error::LeaseLost)?;
    Ok(Lease { holder, generation: row.generation, expires_at })
}

/// Whether somebody holds the lease of a sandbox now.
pub(crate) fn is_held(tx: &Tx<'_>, id: &SandboxId, now: Timestamp) -> Result<bool> {
    let Some(lease) = one(tx, id)? else { return Ok(false) };
    Ok(lease.holds(Duration::ZERO, tx.time(now)?))
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

fn holder_of(tx: &Tx<'_>, id: &SandboxId) -> Result<Option<WorkerId>> {
    tx.query(sql::LEASE).bind(id.as_str()).first(|row| Ok(read(row)?.holder))
}

fn read(row: &mut Row<'_>) -> Result<Lease> {
    Ok(Lease {
        holder: row.parsed(|text| WorkerId::parse(text).ok())?,
        generation: Generation(row.int()?),
        expires_at: Timestamp::from_micros(row.optional_int()?.unwrap_or(0)),
    })
}
