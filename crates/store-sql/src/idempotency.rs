//! Store methods about idempotency keys.

use stacyvm_store::{Allowance, Answer, Begun, Error, NewKey, Result, Turn};
use stacyvm_types::Timestamp;

use crate::{
    db::{Row, Tx, one_row},
    sql,
};

/// How often a key may be forgotten while it is asked for.
const MOST_TRIES: u32 = 5;

struct Key {
    fingerprint: String,
    turn: Turn,
    held: Option<(String, Timestamp)>,
    answer: Option<Answer>,
}

/// See [`stacyvm_store::IdempotencyStore::begin_key`].
pub(crate) fn begin(tx: &mut Tx<'_>, new: &NewKey, now: Timestamp) -> Result<Begun> {
    // A key that is found can be forgotten before it is read, where others write too.
    for _ in 0..MOST_TRIES {
        if let Some(begun) = try_begin(tx, new, now)? {
            return Ok(begun);
        }
    }
    Err(Error::NotFound)
}

/// `None` when the key was there, and then was not.
fn try_begin(tx: &mut Tx<'_>, new: &NewKey, now: Timestamp) -> Result<Option<Begun>> {
    let inserted = tx
        .query(sql::INSERT_IDEMPOTENCY_KEY)
        .bind(new.id.as_str())
        .bind(new.fingerprint.as_str())
        .bind(new.resource.as_str())
        .bind(now)
        .bind(new.holder.as_str())
        .bind(new.held_until)
        .execute()?;
    if inserted == 1 {
        let resource = new.resource.clone();
        return Ok(Some(Begun::Yours(Turn { resource, attempt: 1, begun_at: now })));
    }
    let found = tx.query(sql::IDEMPOTENCY_KEY).bind(new.id.as_str()).for_update().first(read)?;
    let Some(Key { fingerprint, mut turn, held, answer }) = found else { return Ok(None) };
    if fingerprint != new.fingerprint {
        return Ok(Some(Begun::Mismatch));
    }
    if let Some(answer) = answer {
        return Ok(Some(Begun::Done(turn, answer)));
    }
    if held.is_some_and(|(holder, until)| holder != new.holder.as_str() && now < until) {
        return Ok(Some(Begun::Held));
    }
    let taken = tx
        .query(sql::TAKE_TURN)
        .bind(new.holder.as_str())
        .bind(new.held_until)
        .bind(new.id.as_str())
        .bind(turn.attempt)
        .execute()?;
    one_row(taken)?;
    turn.attempt += 1;
    Ok(Some(Begun::Yours(turn)))
}

/// See [`stacyvm_store::IdempotencyStore::hold_key`].
pub(crate) fn hold(tx: &mut Tx<'_>, id: &str, attempt: u64, until: Timestamp) -> Result<()> {
    last_turn(tx.query(sql::HOLD_TURN).bind(until).bind(id).bind(attempt).execute()?)
}

/// See [`stacyvm_store::IdempotencyStore::renew_key`].
pub(crate) fn renew(tx: &mut Tx<'_>, id: &str, attempt: u64, resource: &str) -> Result<()> {
    last_turn(tx.query(sql::RENEW_TURN).bind(resource).bind(id).bind(attempt).execute()?)
}

/// See [`stacyvm_store::IdempotencyStore::finish_key`].
pub(crate) fn finish(
    tx: &mut Tx<'_>,
    id: &str,
    attempt: u64,
    mut answer: Answer,
    allowance: Option<&Allowance>,
) -> Result<()> {
    if let Some(Allowance { caller, bytes }) = allowance {
        // Of two that are finished at once the second must count what the first one keeps.
        tx.alone_about("bodies of", caller)?;
        let kept =
            tx.query(sql::KEPT_BODIES).bind(caller.as_str()).first(|row| row.int::<u64>())?;
        let kept = kept.unwrap_or(0);
        answer.body = answer.body.filter(|body| kept + body.len() as u64 <= *bytes);
    }
    let finished = tx
        .query(sql::FINISH_TURN)
        .bind(u32::from(answer.status))
        .bind(answer.content_type.as_str())
        .bind(answer.body.as_deref())
        .bind(id)
        .bind(attempt)
        .execute()?;
    last_turn(finished)?;
    if let Some((Allowance { caller, .. }, body)) = allowance.zip(answer.body) {
        let length = body.len() as u64;
        tx.query(sql::COUNT_BODY).bind(id).bind(caller.as_str()).bind(length).execute()?;
    }
    Ok(())
}

/// See [`stacyvm_store::IdempotencyStore::release_key`].
pub(crate) fn release(tx: &mut Tx<'_>, id: &str, attempt: u64) -> Result<()> {
    tx.query(sql::RELEASE_TURN).bind(id).bind(attempt).execute().map(drop)
}

/// See [`stacyvm_store::IdempotencyStore::prune_keys`].
pub(crate) fn prune(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64> {
    let old: Vec<String> = tx
        .query(sql::OLD_IDEMPOTENCY_KEYS)
        .bind(before)
        .bind(limit)
        .for_update_unless_locked()
        .all(|row| row.text().map(str::to_owned))?;
    let mut pruned = 0;
    for id in old {
        tx.query(sql::FORGET_BODY).bind(id.as_str()).execute()?;
        pruned += tx.query(sql::DELETE_IDEMPOTENCY_KEY).bind(id).execute()? as u64;
    }
    Ok(pruned)
}

const fn last_turn(changed: usize) -> Result<()> {
    match changed {
        0 => Err(Error::LeaseLost),
        _ => Ok(()),
    }
}

fn read(row: &mut Row<'_>) -> Result<Key> {
    // In the order of the columns.
    let fingerprint = row.text()?.to_owned();
    let turn =
        Turn { resource: row.text()?.to_owned(), attempt: row.int()?, begun_at: row.instant()? };
    let holder = row.optional_text()?.map(str::to_owned);
    let until = row.optional_int()?.map(Timestamp::from_micros);
    let status = row.optional_int()?;
    let content_type = row.optional_text()?.map(str::to_owned);
    let body = row.optional_text()?.map(str::to_owned);
    let answer = status.zip(content_type).map(|(status, content_type)| Answer {
        status,
        content_type,
        body,
    });
    Ok(Key { fingerprint, turn, held: holder.zip(until), answer })
}
