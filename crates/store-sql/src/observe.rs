//! Counting sandboxes.

use stacyvm_store::{Census, Result};
use stacyvm_types::{Cause, CauseKind, Phase, Timestamp};

use crate::{
    db::{Tx, unknown_word},
    sql,
};

/// See [`stacyvm_store::ObserveStore::census`].
pub(crate) fn census(tx: &Tx<'_>, now: Timestamp) -> Result<Census> {
    let mut census = Census::default();
    tx.query(sql::CENSUS).each(|row| {
        let name = row.text()?;
        // Why a sandbox ended decides its published state; what the sentence says does not.
        let cause = row.optional_text()?.and_then(CauseKind::parse);
        let cause = cause.map(|kind| Cause::new(kind, String::new()));
        let phase = Phase::parse(name, cause).ok_or_else(unknown_word)?;
        let (provider, worker) = (row.text()?, row.text()?);
        let holder = row.optional_text()?;
        let until = row.optional_int()?.map(Timestamp::from_micros);
        census.add(&phase, provider, worker, holder.zip(until), now);
        Ok(())
    })?;
    Ok(census)
}
