//! The steps of a schema: what is known about them on every database.

/// One step of a schema.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) number: i64,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

/// Why the steps that were applied are not the first ones that are known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// A newer version applied more.
    Newer { found: i64, known: i64 },
    /// A step is not the one that was applied.
    Changed { number: i64 },
}

/// Compares steps that were applied, with their checksums, to those that are known.
pub(crate) fn fit(migrations: &[Migration], applied: &[(i64, String)]) -> Result<(), Misfit> {
    let known = migrations.last().map_or(0, |migration| migration.number);
    if let Some((found, _)) = applied.last().filter(|(number, _)| known < *number) {
        return Err(Misfit::Newer { found: *found, known });
    }
    let differs = |(migration, (number, sum)): (&Migration, &(i64, String))| {
        (migration.number != *number || checksum(migration.sql) != *sum).then_some(*number)
    };
    match migrations.iter().zip(applied).find_map(differs) {
        Some(number) => Err(Misfit::Changed { number }),
        None => Ok(()),
    }
}

/// FNV-1a: it is to notice an edit, not to withstand somebody who can write the database anyway.
pub(crate) fn checksum(text: &str) -> String {
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{sum:016x}")
}
