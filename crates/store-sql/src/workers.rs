//! Store methods about the registry of workers.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use stacyvm_store::{Error, Result, Sandbox, WorkerRow};
use stacyvm_types::{Beat, Offer, Resources, SandboxId, Timestamp, Unfit, WorkerId};

use crate::{
    db::{Query, Row, Tx, json, one_row, unknown_word},
    quotas, sandboxes, sql,
};

/// See [`stacyvm_store::WorkerStore::beat`].
pub(crate) fn beat(
    tx: &mut Tx<'_>,
    beat: Beat,
    term: Option<Duration>,
    now: Timestamp,
) -> Result<WorkerRow> {
    let mut known = locked(tx, &beat.id)?;
    if known.is_none() {
        let row = WorkerRow::first_heard(beat.clone(), term, tx.time(now)?);
        if write(tx.query(sql::INSERT_WORKER), &row)?.execute()? == 1 {
            return Ok(row);
        }
        // Two at once: the other one was first, perhaps with an earlier word of the same worker.
        known = locked(tx, &beat.id)?;
    }
    let now = tx.time(now)?;
    let row = known.and_then(|known| known.heard(beat, term, now)).ok_or(Error::LeaseHeld)?;
    write(tx.query(sql::SET_WORKER), &row)?.execute()?;
    Ok(row)
}

/// See [`stacyvm_store::WorkerStore::worker`].
pub(crate) fn one(tx: &Tx<'_>, id: &WorkerId) -> Result<Option<WorkerRow>> {
    tx.query(sql::WORKER).bind(id.as_str()).first(read)
}

/// See [`stacyvm_store::WorkerStore::workers`].
pub(crate) fn list(tx: &Tx<'_>) -> Result<Vec<(WorkerRow, Resources)>> {
    let (rows, loads) = tx.snapshot(|tx| {
        let rows = tx.query(sql::WORKERS).all(read)?;
        let loads =
            tx.query(sql::LOADS).all(|row| Ok((row.text()?.to_owned(), read_resources(row)?)))?;
        Ok((rows, loads))
    })?;
    let loads: HashMap<String, Resources> = loads.into_iter().collect();
    let with_load = |row: WorkerRow| {
        let load = loads.get(row.beat.id.as_str()).copied().unwrap_or_default();
        (row, load)
    };
    Ok(rows.into_iter().map(with_load).collect())
}

/// See [`stacyvm_store::WorkerStore::cordon`].
pub(crate) fn cordon(
    tx: &mut Tx<'_>,
    id: &WorkerId,
    cordoned: bool,
    now: Timestamp,
) -> Result<WorkerRow> {
    let (cordoned, now) = (u32::from(cordoned), tx.time(now)?);
    tx.query(sql::CORDON).bind(cordoned).bind(now).bind(id.as_str()).execute()?;
    one(tx, id)?.ok_or(Error::NotFound)
}

/// See [`stacyvm_store::WorkerStore::remove_worker`].
pub(crate) fn remove(tx: &mut Tx<'_>, id: &WorkerId) -> Result<()> {
    // Under the lock that admissions take: none of them lets something in meanwhile.
    if quotas::taken_of_worker(tx, id)?.sandboxes != 0 {
        return Err(if one(tx, id)?.is_some() { Error::Conflict } else { Error::NotFound });
    }
    match tx.query(sql::DELETE_WORKER).bind(id.as_str()).execute()? {
        0 => Err(Error::NotFound),
        _ => Ok(()),
    }
}

/// See [`stacyvm_store::WorkerStore::sandboxes_of`].
pub(crate) fn sandboxes_of(
    tx: &Tx<'_>,
    worker: &WorkerId,
    after: Option<(Timestamp, SandboxId)>,
    limit: u32,
) -> Result<Vec<Sandbox>> {
    let (at, id) = match &after {
        Some((at, id)) => (*at, id.as_str()),
        None => (Timestamp::from_micros(i64::MIN), ""),
    };
    let query = tx.query(sql::SANDBOXES_OF_WORKER).bind(worker.as_str()).bind(at).bind(id);
    query.bind(limit).all(sandboxes::read)
}

/// What a worker can hold, if it takes something new.
pub(crate) fn capacity(tx: &Tx<'_>, id: &WorkerId, now: Timestamp) -> Result<Resources> {
    let found = tx.query(sql::WORKER_ROOM).bind(id.as_str()).first(|row| {
        let drains = row.int::<u32>()? + row.int::<u32>()? != 0;
        let until = row.instant()?;
        Ok((drains, until, read_resources(row)?))
    })?;
    let (drains, until, capacity) = found.ok_or(Error::Unfit(Unfit::Unknown))?;
    if until <= tx.time(now)? && until != Timestamp::MAX {
        return Err(Error::Unfit(Unfit::Stale));
    }
    if drains { Err(Error::Unfit(Unfit::Draining)) } else { Ok(capacity) }
}

/// Renews the lease of a worker that holds it, and says until when it holds then. `None` where it has
/// lapsed, or nobody of that name is registered.
pub(crate) fn renew(
    tx: &Tx<'_>,
    id: &WorkerId,
    term: Duration,
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let Some(known) = locked(tx, id)? else { return Ok(None) };
    let now = tx.time(now)?;
    if !known.is_fresh(now) {
        return Ok(None);
    }
    let WorkerRow { lease_until, heartbeat_at, .. } = known.renewed(term, now);
    let query = tx.query(sql::RENEW_WORKER).bind(lease_until).bind(heartbeat_at);
    one_row(query.bind(id.as_str()).execute()?)?;
    Ok(Some(lease_until))
}

/// Until when the worker's lease holds; nobody of that name is registered.
pub(crate) fn lease_until(tx: &Tx<'_>, id: &WorkerId) -> Result<Option<Timestamp>> {
    tx.query(sql::LEASE_UNTIL).bind(id.as_str()).first(|row| row.instant())
}

/// The same of a worker whose renewal waits until this transaction has ended.
pub(crate) fn lease_until_held(tx: &Tx<'_>, id: &WorkerId) -> Result<Option<Timestamp>> {
    tx.query(sql::LEASE_UNTIL).bind(id.as_str()).for_update().first(|row| row.instant())
}

/// Reads three columns.
pub(crate) fn read_resources(row: &mut Row<'_>) -> Result<Resources> {
    Ok(Resources { sandboxes: row.int()?, memory_mb: row.int()?, vcpus: row.int()? })
}

fn locked(tx: &Tx<'_>, id: &WorkerId) -> Result<Option<WorkerRow>> {
    tx.query(sql::WORKER).bind(id.as_str()).for_update().first(read)
}

/// An offer as its column keeps it.
#[derive(Serialize, Deserialize)]
struct OfferColumn {
    provider: String,
    default: bool,
    ready: bool,
    capabilities: BTreeSet<String>,
    images: BTreeSet<String>,
}

fn write<'t>(query: Query<'t>, row: &'t WorkerRow) -> Result<Query<'t>> {
    let beat = &row.beat;
    let offers = beat.offers.iter().cloned().map(
        |Offer { provider, default, ready, capabilities, images }| OfferColumn {
            provider,
            default,
            ready,
            capabilities,
            images,
        },
    );
    Ok(query
        .bind(beat.id.as_str())
        .bind(beat.instance.as_str())
        .bind(beat.hostname.as_str())
        .bind(beat.version.as_str())
        .bind(beat.url.as_deref())
        .bind(u32::from(beat.draining))
        .bind(u32::from(row.cordoned))
        .bind(json(&offers.collect::<Vec<_>>())?)
        .bind(beat.capacity.sandboxes)
        .bind(beat.capacity.memory_mb)
        .bind(beat.capacity.vcpus)
        .bind(row.lease_until)
        .bind(row.heartbeat_at)
        .bind(row.created_at)
        .bind(row.updated_at))
}

fn read(row: &mut Row<'_>) -> Result<WorkerRow> {
    // Read in the order of the columns.
    let (id, instance) = (row.parsed(|text| WorkerId::parse(text).ok())?, row.text()?.to_owned());
    let (hostname, version) = (row.text()?.to_owned(), row.text()?.to_owned());
    let url = row.optional_text()?.map(str::to_owned);
    let (draining, cordoned) = (read_flag(row)?, read_flag(row)?);
    let offers = row.json::<Vec<OfferColumn>>()?.into_iter().map(
        |OfferColumn { provider, default, ready, capabilities, images }| Offer {
            provider,
            default,
            ready,
            capabilities,
            images,
        },
    );
    let offers = offers.collect();
    let capacity = read_resources(row)?;
    let beat = Beat { id, instance, hostname, version, url, draining, offers, capacity };
    Ok(WorkerRow {
        beat,
        cordoned,
        lease_until: row.instant()?,
        heartbeat_at: row.instant()?,
        created_at: row.instant()?,
        updated_at: row.instant()?,
    })
}

fn read_flag(row: &mut Row<'_>) -> Result<bool> {
    match row.int::<u32>()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(unknown_word()),
    }
}
