//! Store methods about API keys.

use stacyvm_store::{ApiKey, Error, KeyHash, Result};
use stacyvm_types::{KeyId, OwnerId, Role, Timestamp};

use crate::{
    db::{Row, Tx, unknown_word},
    sql,
};

/// See [`stacyvm_store::KeyStore::create_key`].
pub(crate) fn create(tx: &mut Tx<'_>, key: &ApiKey) -> Result<()> {
    let inserted = tx
        .query(sql::INSERT_KEY)
        .bind(key.id.as_str())
        .bind(key.name.as_str())
        .bind(key.role.as_str())
        .bind(key.owner.as_ref().map(OwnerId::as_str))
        .bind(i32::from(key.speaks_for_others))
        .bind(hex(&key.hash.0))
        .bind(key.created_at)
        .bind(key.expires_at)
        .bind(key.revoked_at)
        .bind(key.last_used_at)
        .execute()?;
    if inserted == 0 { Err(Error::Conflict) } else { Ok(()) }
}

/// See [`stacyvm_store::KeyStore::key`].
pub(crate) fn one(tx: &Tx<'_>, id: &KeyId) -> Result<Option<ApiKey>> {
    tx.query(sql::KEY).bind(id.as_str()).first(read)
}

/// See [`stacyvm_store::KeyStore::keys`].
pub(crate) fn list(tx: &Tx<'_>) -> Result<Vec<ApiKey>> {
    tx.query(sql::KEYS).all(read)
}

/// See [`stacyvm_store::KeyStore::has_keys`].
pub(crate) fn any(tx: &Tx<'_>) -> Result<bool> {
    Ok(tx.query(sql::FIRST_KEY).first(|row| row.text().map(drop))?.is_some())
}

/// See [`stacyvm_store::KeyStore::revoke_key`].
pub(crate) fn revoke(tx: &mut Tx<'_>, id: &KeyId, now: Timestamp) -> Result<ApiKey> {
    tx.query(sql::REVOKE_KEY).bind(now).bind(id.as_str()).execute()?;
    one(tx, id)?.ok_or(Error::NotFound)
}

/// See [`stacyvm_store::KeyStore::note_key_use`].
pub(crate) fn note_use(tx: &mut Tx<'_>, id: &KeyId, at: Timestamp) -> Result<()> {
    tx.query(sql::NOTE_KEY_USE).bind(at).bind(id.as_str()).execute().map(drop)
}

fn read(row: &mut Row<'_>) -> Result<ApiKey> {
    // Fields are evaluated as written here: in the order of the columns.
    Ok(ApiKey {
        id: row.parsed(|text| KeyId::parse(text).ok())?,
        name: row.text()?.to_owned(),
        role: row.parsed(Role::parse)?,
        owner: match row.optional_text()? {
            Some(text) => Some(OwnerId::parse(text).map_err(|_| unknown_word())?),
            None => None,
        },
        speaks_for_others: row.int::<i64>()? != 0,
        hash: row.parsed(unhex)?,
        created_at: row.instant()?,
        expires_at: row.optional_int()?.map(Timestamp::from_micros),
        revoked_at: row.optional_int()?.map(Timestamp::from_micros),
        last_used_at: row.optional_int()?.map(Timestamp::from_micros),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<KeyHash> {
    let mut bytes = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(KeyHash(bytes))
}
