//! Store methods about quotas and about the places that are taken.

use std::time::Duration;

use stacyvm_admission::{self as admission, Decision, Policy, Usage, Weight};
use stacyvm_store::{
    Error, NewEvent, NewSandbox, Quota, QuotaCounts, QuotaFields, Result, Standing,
};
use stacyvm_types::{OwnerId, Timestamp, WorkerId};

use crate::{
    db::{Hint, Row, Tx, one_row, unknown_word},
    events::{self, micros},
    sql,
};

const ALL: &str = "all";
const OWNER: &str = "owner";
const WORKER: &str = "worker";

/// See [`stacyvm_store::QuotaStore::quota`].
pub(crate) fn one(tx: &Tx<'_>, owner: &OwnerId) -> Result<Option<Quota>> {
    tx.query(sql::QUOTA).bind(owner.as_str()).first(read)
}

/// See [`stacyvm_store::QuotaStore::quotas`].
pub(crate) fn list(tx: &Tx<'_>) -> Result<Vec<Quota>> {
    tx.query(sql::QUOTAS).all(read)
}

/// See [`stacyvm_store::QuotaStore::quota_counts`].
pub(crate) fn counts(tx: &Tx<'_>) -> Result<QuotaCounts> {
    let counts = tx.query(sql::QUOTA_COUNTS).first(|row| {
        Ok(QuotaCounts {
            total: row.int()?,
            with_max_sandboxes: row.int()?,
            with_max_ttl: row.int()?,
            with_max_exec_timeout: row.int()?,
        })
    })?;
    Ok(counts.unwrap_or_default())
}

/// See [`stacyvm_store::QuotaStore::put_quota`].
pub(crate) fn put(
    tx: &mut Tx<'_>,
    owner: &OwnerId,
    fields: QuotaFields,
    events: Vec<NewEvent>,
    now: Timestamp,
) -> Result<Quota> {
    let duration = |value: Option<Duration>| value.map(micros);
    let row = tx
        .query(sql::PUT_QUOTA)
        .bind(owner.as_str())
        .bind(fields.max_sandboxes)
        .bind(duration(fields.max_ttl))
        .bind(duration(fields.max_exec_timeout))
        .bind(fields.weight.map(|weight| u32::from(weight.get())))
        .bind(now)
        .first(read)?;
    tx.tell(Hint::Places);
    events::append(tx, events, now)?;
    row.ok_or_else(unknown_word)
}

/// See [`stacyvm_store::QuotaStore::delete_quota`].
pub(crate) fn delete(
    tx: &mut Tx<'_>,
    owner: &OwnerId,
    events: Vec<NewEvent>,
    now: Timestamp,
) -> Result<()> {
    if tx.query(sql::DELETE_QUOTA).bind(owner.as_str()).execute()? == 0 {
        return Err(Error::NotFound);
    }
    tx.tell(Hint::Places);
    events::append(tx, events, now)
}

/// See [`stacyvm_store::QuotaStore::standing`].
pub(crate) fn standing(
    tx: &Tx<'_>,
    owner: Option<&OwnerId>,
    worker: &WorkerId,
) -> Result<Standing> {
    // The row of all first: whoever holds it decides alone.
    let total = active(tx, ALL, "")?;
    let quota = owner.map(|owner| one(tx, owner)).transpose()?.flatten();
    let owner = owner.map(|owner| active(tx, OWNER, owner.as_str())).transpose()?;
    let worker = active(tx, WORKER, worker.as_str())?;
    Ok(Standing { quota, usage: Usage { total, owner: owner.unwrap_or(0), worker } })
}

/// Whether the limits let this sandbox in.
pub(crate) fn decide(tx: &Tx<'_>, policy: &Policy, new: &NewSandbox, now: Timestamp) -> Result<()> {
    let Standing { quota, usage } = standing(tx, new.owner.as_ref(), &new.worker)?;
    let limits = quota.map(|quota| quota.fields.limits()).unwrap_or_default();
    match admission::decide(policy, &limits, usage, new.request(now)) {
        Decision::Admit => Ok(()),
        Decision::Wait(full) => Err(Error::Full(full)),
        Decision::Refuse(refusal) => Err(Error::NotAllowed(refusal)),
    }
}

/// Takes the places of a sandbox.
pub(crate) fn take(tx: &Tx<'_>, new: &NewSandbox) -> Result<()> {
    for (scope, name) in places(new) {
        tx.query(sql::TAKE_PLACE).bind(scope).bind(name).execute()?;
    }
    Ok(())
}

/// Gives the places of a sandbox back.
pub(crate) fn give_back(tx: &Tx<'_>, new: &NewSandbox) -> Result<()> {
    for (scope, name) in places(new) {
        one_row(tx.query(sql::GIVE_PLACE_BACK).bind(scope).bind(name).execute()?)?;
        // Owners come and go; those without a sandbox are not kept.
        if scope == OWNER {
            tx.query(sql::FORGET_UNUSED).bind(scope).bind(name).execute()?;
        }
    }
    tx.tell(Hint::Places);
    Ok(())
}

fn places(new: &NewSandbox) -> impl Iterator<Item = (&'static str, &str)> {
    let owner = new.owner.as_ref().map(|owner| (OWNER, owner.as_str()));
    [Some((ALL, "")), owner, Some((WORKER, new.worker.as_str()))].into_iter().flatten()
}

fn active(tx: &Tx<'_>, scope: &'static str, name: &str) -> Result<u64> {
    let active = tx.query(sql::USAGE).bind(scope).bind(name).for_update().first(|row| row.int())?;
    Ok(active.unwrap_or(0))
}

fn read(row: &mut Row<'_>) -> Result<Quota> {
    let duration = |micros: Option<u64>| micros.map(Duration::from_micros);
    // Fields are evaluated as written here: in the order of the columns.
    Ok(Quota {
        owner: row.parsed(|text| OwnerId::parse(text).ok())?,
        fields: QuotaFields {
            max_sandboxes: row.optional_int()?,
            max_ttl: duration(row.optional_int()?),
            max_exec_timeout: duration(row.optional_int()?),
            weight: row
                .optional_int()?
                .map(|weight| Weight::new(weight).ok_or_else(unknown_word))
                .transpose()?,
        },
        created_at: row.instant()?,
        updated_at: row.instant()?,
    })
}
