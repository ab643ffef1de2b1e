//! Counting sandboxes.

use std::collections::HashMap;

use stacyvm_store::{Census, Result};
use stacyvm_types::{Cause, CauseKind, Phase, Timestamp};

use crate::{
    db::{Tx, unknown_word},
    sql,
};

/// See [`stacyvm_store::ObserveStore::census`].
pub(crate) fn census(tx: &Tx<'_>, now: Timestamp) -> Result<Census> {
    let mut census = Census::default();
    let now = tx.time(now)?;
    let until: HashMap<String, Timestamp> = tx
        .query(sql::LEASES_UNTIL)
        .all(|row| Ok((row.text()?.to_owned(), row.instant()?)))?
        .into_iter()
        .collect();
    tx.query(sql::CENSUS).each(|row| {
        let name = row.text()?;
        // Why a sandbox ended decides its published state; what the sentence says does not.
        let cause = row.optional_text()?.and_then(CauseKind::parse);
        let cause = cause.map(|kind| Cause::new(kind, String::new()));
        let phase = Phase::parse(name, cause).ok_or_else(unknown_word)?;
        let (provider, worker) = (row.text()?, row.text()?);
        let lease = row
            .optional_text()?
            .map(|holder| (holder, until.get(holder).copied().unwrap_or(Timestamp::EPOCH)));
        census.add(&phase, provider, worker, lease, now);
        Ok(())
    })?;
    Ok(census)
}
