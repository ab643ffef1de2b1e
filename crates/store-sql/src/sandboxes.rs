//! Store methods about sandboxes, each the body of one transaction.

use stacyvm_admission::Policy;
use stacyvm_store::{Error, Include, NewEvent, NewSandbox, Result, Sandbox};
use stacyvm_types::{
    Cause, CauseKind, Generation, Limits, OwnerId, Phase, SandboxId, Timestamp, Transition,
    WorkerId,
};

use crate::{
    db::{Row, Tx, json, one_row, unknown_word},
    events, leases, quotas, sql,
};

/// See [`stacyvm_store::Store::admit`].
pub(crate) fn admit(
    tx: &mut Tx<'_>,
    policy: &Policy,
    new: NewSandbox,
    now: Timestamp,
) -> Result<Sandbox> {
    let row = Sandbox {
        latest_end: new.expires_at,
        spec: new,
        phase: Phase::Creating,
        generation: Generation(1),
        version: 1,
        created_at: now,
        updated_at: now,
    };
    // Before the places: an insert waits for whoever is changing the row that it finds, who may be
    // about to give a place back. So a known id is a conflict whatever the limits say, too.
    if insert(tx, &row)? == 0 {
        return Err(Error::Conflict);
    }
    quotas::decide(tx, policy, &row.spec, now)?;
    quotas::take(tx, &row.spec)?;
    events::append(tx, vec![NewEvent::created(&row.spec)], now)?;
    Ok(row)
}

/// See [`stacyvm_store::Store::sandbox`].
pub(crate) fn one(tx: &Tx<'_>, id: &SandboxId) -> Result<Option<Sandbox>> {
    tx.query(sql::SANDBOX).bind(id.as_str()).first(read)
}

/// See [`stacyvm_store::Store::sandboxes`].
pub(crate) fn list(tx: &Tx<'_>, include: Include) -> Result<Vec<Sandbox>> {
    let sql = match include {
        Include::Live => sql::LIVE_SANDBOXES,
        Include::Ended => sql::ALL_SANDBOXES,
    };
    tx.query(sql).all(read)
}

/// See [`stacyvm_store::Store::expired`].
pub(crate) fn expired(tx: &Tx<'_>, now: Timestamp, limit: u32) -> Result<Vec<Sandbox>> {
    tx.query(sql::EXPIRED_SANDBOXES).bind(now).bind(limit).all(read)
}

/// See [`stacyvm_store::Store::next_expiry`].
pub(crate) fn next_expiry(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    let micros = tx.query(sql::NEXT_EXPIRY).first(|row| row.optional_int())?;
    Ok(micros.flatten().map(Timestamp::from_micros))
}

/// See [`stacyvm_store::Store::transition`].
pub(crate) fn transition(
    tx: &mut Tx<'_>,
    id: &SandboxId,
    generation: Generation,
    transition: Transition,
    events: Vec<NewEvent>,
    now: Timestamp,
) -> Result<Sandbox> {
    let mut row = locked(tx, id)?;
    if row.generation != generation {
        return Err(Error::Fenced);
    }
    if row.is_early(&transition, now) {
        return Err(Error::WrongPhase(Box::new(row)));
    }
    let phase = row.phase.clone().step(transition).map_err(Error::Refused)?;
    if phase == row.phase {
        return Ok(row);
    }
    if matches!(phase, Phase::Unhealthy(_)) && leases::is_held(tx, id, now)? {
        return Err(Error::LeaseHeld);
    }
    let cause = phase.cause();
    let set = match phase {
        Phase::Creating | Phase::Running | Phase::Paused | Phase::Unhealthy(_) => {
            sql::SET_LIVE_PHASE
        }
        Phase::Stopping(_) => sql::SET_STOPPING,
        Phase::Ended(_) => sql::SET_ENDED,
    };
    let changed = tx
        .query(set)
        .bind(phase.as_str())
        .bind(cause.map(|cause| cause.kind.as_str()))
        .bind(cause.map(|cause| cause.detail.as_str()))
        .bind(now)
        .bind(id.as_str())
        .bind(row.version)
        .execute()?;
    one_row(changed)?;
    if !phase.is_live() {
        quotas::give_back(tx, &row.spec)?;
    }
    events::append(tx, events, now)?;
    row.phase = phase;
    row.version += 1;
    row.updated_at = now;
    Ok(row)
}

/// See [`stacyvm_store::Store::extend`].
pub(crate) fn extend(
    tx: &mut Tx<'_>,
    id: &SandboxId,
    expires_at: Timestamp,
    events: Vec<NewEvent>,
    now: Timestamp,
) -> Result<Sandbox> {
    let mut row = locked(tx, id)?;
    let extendable = matches!(row.phase, Phase::Creating | Phase::Running | Phase::Paused);
    if !extendable || row.spec.expires_at <= now {
        return Err(Error::WrongPhase(Box::new(row)));
    }
    let changed = tx
        .query(sql::SET_DEADLINE)
        .bind(expires_at)
        .bind(now)
        .bind(id.as_str())
        .bind(row.version)
        .execute()?;
    one_row(changed)?;
    events::append(tx, events, now)?;
    row.spec.expires_at = expires_at;
    row.latest_end = row.latest_end.max(expires_at);
    row.version += 1;
    row.updated_at = now;
    Ok(row)
}

/// See [`stacyvm_store::Store::still_creating`].
pub(crate) fn still_creating(tx: &mut Tx<'_>, id: &SandboxId, now: Timestamp) -> Result<Sandbox> {
    let mut row = locked(tx, id)?;
    if row.phase != Phase::Creating {
        return Err(Error::WrongPhase(Box::new(row)));
    }
    let query = tx.query(sql::STILL_CREATING).bind(now).bind(id.as_str());
    one_row(query.bind(row.version).execute()?)?;
    row.version += 1;
    row.updated_at = now;
    Ok(row)
}

/// Reads the row and keeps others from changing it until the transaction ends.
pub(crate) fn locked(tx: &Tx<'_>, id: &SandboxId) -> Result<Sandbox> {
    tx.query(sql::SANDBOX).bind(id.as_str()).for_update().first(read)?.ok_or(Error::NotFound)
}

/// Inserts the row with a lease for its worker.
fn insert(tx: &Tx<'_>, row: &Sandbox) -> Result<usize> {
    let spec = &row.spec;
    let cause = row.phase.cause();
    tx.query(sql::INSERT_SANDBOX)
        .bind(spec.id.as_str())
        .bind(spec.owner.as_ref().map(OwnerId::as_str))
        .bind(spec.provider.as_str())
        .bind(spec.worker.as_str())
        .bind(spec.image.as_str())
        .bind(spec.template.as_deref())
        .bind(spec.limits.memory_mb)
        .bind(spec.limits.vcpus)
        .bind(spec.limits.pids)
        .bind(spec.limits.disk_mb)
        .bind(json(&spec.metadata)?)
        .bind(json(&spec.env)?)
        .bind(spec.expires_at)
        .bind(row.latest_end)
        .bind(row.phase.as_str())
        .bind(cause.map(|cause| cause.kind.as_str()))
        .bind(cause.map(|cause| cause.detail.as_str()))
        .bind(row.generation.0)
        .bind(row.version)
        .bind(row.created_at)
        .bind(row.updated_at)
        .bind(spec.worker.as_str())
        .execute()
}

/// Reads the columns of a sandbox.
pub(crate) fn read(row: &mut Row<'_>) -> Result<Sandbox> {
    // Fields are evaluated as written here: in the order of the columns.
    Ok(Sandbox {
        spec: NewSandbox {
            id: row.parsed(|text| SandboxId::parse(text).ok())?,
            owner: events::read_owner(row)?,
            provider: row.text()?.to_owned(),
            worker: row.parsed(|text| WorkerId::parse(text).ok())?,
            image: row.text()?.to_owned(),
            template: row.optional_text()?.map(str::to_owned),
            limits: Limits {
                memory_mb: row.int()?,
                vcpus: row.int()?,
                pids: row.int()?,
                disk_mb: row.int()?,
            },
            metadata: row.json()?,
            env: row.json()?,
            expires_at: row.instant()?,
        },
        latest_end: row.instant()?,
        phase: read_phase(row)?,
        generation: Generation(row.int()?),
        version: row.int()?,
        created_at: row.instant()?,
        updated_at: row.instant()?,
    })
}

fn read_phase(row: &mut Row<'_>) -> Result<Phase> {
    let name = row.text()?;
    let kind = row.optional_text()?.and_then(CauseKind::parse);
    let detail = row.optional_text()?;
    let cause = kind.zip(detail).map(|(kind, detail)| Cause::new(kind, detail));
    Phase::parse(name, cause).ok_or_else(unknown_word)
}
