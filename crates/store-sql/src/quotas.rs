//! Store methods about quotas and about the places that are taken.

use std::time::Duration;

use stacyvm_admission::{self as admission, Decision, Full, Policy, Usage, Weight};
use stacyvm_store::{
    Error, NewEvent, NewSandbox, Quota, QuotaCounts, QuotaFields, Result, Standing,
};
use stacyvm_types::{OwnerId, Resources, Timestamp, WorkerId};

use crate::{
    db::{Hint, Row, Tx, one_row, unknown_word},
    events::{self, micros},
    sql, workers,
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
    let total = taken(tx, ALL, "")?.sandboxes;
    let quota = owner.map(|owner| one(tx, owner)).transpose()?.flatten();
    let of_owner = owner.map(|owner| taken(tx, OWNER, owner.as_str())).transpose()?;
    let owner = of_owner.unwrap_or_default().sandboxes;
    let worker = taken(tx, WORKER, worker.as_str())?;
    Ok(Standing { quota, usage: Usage { total, owner, worker } })
}

/// Whether the limits let this sandbox in.
pub(crate) fn decide(tx: &Tx<'_>, policy: &Policy, new: &NewSandbox, now: Timestamp) -> Result<()> {
    let Standing { quota, usage } = standing(tx, new.owner.as_ref(), &new.worker)?;
    let capacity = workers::capacity(tx, &new.worker, now)?;
    let limits = quota.map(|quota| quota.fields.limits()).unwrap_or_default();
    match admission::decide(policy, &limits, &capacity, usage, new.request(now)) {
        Decision::Admit => Ok(()),
        Decision::Wait(full) => Err(Error::Full(full)),
        Decision::Refuse(refusal) => Err(Error::NotAllowed(refusal)),
    }
}

/// Takes the places of a sandbox.
pub(crate) fn take(tx: &Tx<'_>, new: &NewSandbox) -> Result<()> {
    places(new).try_for_each(|(scope, name)| take_one(tx, scope, name, new))
}

/// Gives the places of a sandbox back.
pub(crate) fn give_back(tx: &Tx<'_>, new: &NewSandbox) -> Result<()> {
    for (scope, name) in places(new) {
        give_one_back(tx, scope, name, new)?;
        // Owners come and go; those without a sandbox are not kept.
        if scope == OWNER {
            tx.query(sql::FORGET_UNUSED).bind(scope).bind(name).execute()?;
        }
    }
    tx.tell(Hint::Places);
    Ok(())
}

/// Moves the place of a sandbox to another worker.
pub(crate) fn move_place(
    tx: &Tx<'_>,
    new: &NewSandbox,
    to: &WorkerId,
    now: Timestamp,
) -> Result<()> {
    let taken = taken_of_worker(tx, to)?;
    let max = workers::capacity(tx, to, now)?;
    if !max.holds(&taken.plus(Resources::of_one(&new.limits))) {
        return Err(Error::Full(Full::Worker { max }));
    }
    give_one_back(tx, WORKER, new.worker.as_str(), new)?;
    take_one(tx, WORKER, to.as_str(), new)
}

/// What is taken of a worker. No admission changes it before the transaction has ended.
pub(crate) fn taken_of_worker(tx: &Tx<'_>, worker: &WorkerId) -> Result<Resources> {
    taken(tx, ALL, "")?;
    taken(tx, WORKER, worker.as_str())
}

fn take_one(tx: &Tx<'_>, scope: &'static str, name: &str, new: &NewSandbox) -> Result<()> {
    let Resources { memory_mb, vcpus, .. } = Resources::of_one(&new.limits);
    let query = tx.query(sql::TAKE_PLACE).bind(scope).bind(name);
    query.bind(memory_mb).bind(vcpus).execute().map(drop)
}

fn give_one_back(tx: &Tx<'_>, scope: &'static str, name: &str, new: &NewSandbox) -> Result<()> {
    let Resources { memory_mb, vcpus, .. } = Resources::of_one(&new.limits);
    let query = tx.query(sql::GIVE_PLACE_BACK).bind(scope).bind(name);
    one_row(query.bind(memory_mb).bind(vcpus).execute()?)
}

fn places(new: &NewSandbox) -> impl Iterator<Item = (&'static str, &str)> {
    let owner = new.owner.as_ref().map(|owner| (OWNER, owner.as_str()));
    [Some((ALL, "")), owner, Some((WORKER, new.worker.as_str()))].into_iter().flatten()
}

fn taken(tx: &Tx<'_>, scope: &'static str, name: &str) -> Result<Resources> {
    let query = tx.query(sql::USAGE).bind(scope).bind(name).for_update();
    Ok(query.first(workers::read_resources)?.unwrap_or_default())
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
