//! What holds in every database that a server left behind, killed or not: the questions that
//! `stacyvm db check` asks.
//!
//! They pass over whole tables, which no statement of a request may, so they are not in `sql`.
//! Whoever adds a table that repeats what another one says adds the question here.

/// A question about a database.
pub(crate) struct Invariant {
    /// The step of the schema that made it true.
    pub(crate) since: i64,
    /// What is wrong with the rows that are found.
    pub(crate) otherwise: &'static str,
    /// Counts the rows for which it does not hold.
    pub(crate) sql: &'static str,
}

/// All of them.
pub(crate) const INVARIANTS: &[Invariant] = &[
    Invariant {
        since: 1,
        otherwise: "events have ids that were not given out",
        sql: "SELECT COUNT(*) FROM events \
              WHERE id > (SELECT value FROM counters WHERE name = 'event')",
    },
    Invariant {
        since: 1,
        otherwise: "the counter of events is missing",
        sql: "SELECT 1 - COUNT(*) FROM counters WHERE name = 'event'",
    },
    Invariant {
        since: 1,
        otherwise: "sandboxes have ended and still hold a lease",
        sql: "SELECT COUNT(*) FROM sandboxes \
              WHERE ended_at_us IS NOT NULL AND lease_holder IS NOT NULL",
    },
    Invariant {
        since: 1,
        otherwise: "sandboxes are in a phase that is not known",
        sql: "SELECT COUNT(*) FROM sandboxes WHERE phase NOT IN \
              ('creating', 'running', 'paused', 'unhealthy', 'stopping', 'ended')",
    },
    Invariant {
        since: 2,
        otherwise: "the count of all live sandboxes is not their number",
        sql: "SELECT 1 - COUNT(*) FROM usage WHERE scope = 'all' AND active = \
              (SELECT COUNT(*) FROM sandboxes WHERE ended_at_us IS NULL)",
    },
    Invariant {
        since: 2,
        otherwise: "owners have another number of live sandboxes than is counted for them",
        sql: "SELECT COUNT(*) FROM \
              (SELECT owner AS name, COUNT(*) AS live FROM sandboxes \
               WHERE ended_at_us IS NULL AND owner IS NOT NULL GROUP BY owner) AS counted \
              LEFT JOIN usage ON usage.scope = 'owner' AND usage.name = counted.name \
              WHERE usage.active IS NULL OR usage.active <> counted.live",
    },
    Invariant {
        since: 2,
        otherwise: "workers have another number of live sandboxes than is counted for them",
        sql: "SELECT COUNT(*) FROM \
              (SELECT worker AS name, COUNT(*) AS live FROM sandboxes \
               WHERE ended_at_us IS NULL GROUP BY worker) AS counted \
              LEFT JOIN usage ON usage.scope = 'worker' AND usage.name = counted.name \
              WHERE usage.active IS NULL OR usage.active <> counted.live",
    },
    Invariant {
        since: 2,
        otherwise: "sandboxes are counted that are not there",
        sql: "SELECT CAST(COALESCE(SUM(active), 0) AS BIGINT) - (SELECT COUNT(*) FROM sandboxes \
              WHERE ended_at_us IS NULL AND owner IS NOT NULL) FROM usage WHERE scope = 'owner'",
    },
    Invariant {
        since: 2,
        otherwise: "workers have another load than the sum of their live sandboxes",
        sql: "SELECT COUNT(*) FROM \
              (SELECT worker AS name, SUM(memory_mb) AS memory_mb, SUM(vcpus) AS vcpus \
               FROM sandboxes WHERE ended_at_us IS NULL GROUP BY worker) AS counted \
              JOIN usage ON usage.scope = 'worker' AND usage.name = counted.name \
              WHERE usage.memory_mb <> counted.memory_mb OR usage.vcpus <> counted.vcpus",
    },
    Invariant {
        since: 7,
        otherwise: "live sandboxes are held by another worker than their own",
        sql: "SELECT COUNT(*) FROM sandboxes \
              WHERE ended_at_us IS NULL AND lease_holder <> worker",
    },
];

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn every_invariant_holds_in_an_empty_database() {
        let connection = Connection::open_in_memory().unwrap();
        crate::sqlite::migrate_for_tests(&connection);
        for Invariant { otherwise, sql, .. } in INVARIANTS {
            let found: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
            assert_eq!(found, 0, "{otherwise}");
        }
    }
}
