//! Every SQL text, once, for every database.
//!
//! Columns are TEXT, BIGINT and BOOLEAN, placeholders `$1`, and nothing is used that only one of
//! SQLite and Postgres knows. A test prepares all of them and looks at their plans.

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $($text:expr),+;)+) => {
        $($(#[$doc])* pub(crate) const $name: &str = concat!($($text),+);)+

        /// All statements with their names.
        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name),)+];
    };
}

/// In the order in which `sandboxes::read` reads them.
macro_rules! sandbox_columns {
    () => {
        "id, owner, provider, worker, image, template, memory_mb, vcpus, pids, disk_mb, metadata, \
         env, expires_at_us, phase, cause_kind, cause_detail, generation, version, created_at_us, \
         updated_at_us"
    };
}

/// In the order in which `events::read` reads them.
macro_rules! event_columns {
    () => {
        "id, kind, sandbox, owner, at_us, data"
    };
}

/// `$3` is empty, or the wanted kinds with a comma before and after each.
macro_rules! of_kinds {
    () => {
        "($3 = '' OR $3 LIKE '%,' || kind || ',%')"
    };
}

/// In the order in which `templates::read` reads them.
macro_rules! template_columns {
    () => {
        "name, version, image, description, provider, memory_mb, vcpus, ttl_us, setup, env, \
         metadata, pool_size, allowed_hosts, secrets, created_at_us, updated_at_us"
    };
}

statements! {
    INSERT_SANDBOX = "INSERT INTO sandboxes (", sandbox_columns!(), ") VALUES ($1, $2, $3, $4, $5, \
        $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) \
        ON CONFLICT (id) DO NOTHING";
    SANDBOX = "SELECT ", sandbox_columns!(), " FROM sandboxes WHERE id = $1";
    LIVE_SANDBOXES = "SELECT ", sandbox_columns!(), " FROM sandboxes WHERE phase <> 'ended' \
        ORDER BY created_at_us DESC, id DESC";
    ALL_SANDBOXES = "SELECT ", sandbox_columns!(), " FROM sandboxes \
        ORDER BY created_at_us DESC, id DESC";
    EXPIRED_SANDBOXES = "SELECT ", sandbox_columns!(), " FROM sandboxes \
        WHERE phase NOT IN ('stopping', 'ended') AND expires_at_us <= $1 \
        ORDER BY expires_at_us, id LIMIT $2";
    NEXT_EXPIRY = "SELECT MIN(expires_at_us) FROM sandboxes \
        WHERE phase NOT IN ('stopping', 'ended')";
    SET_PHASE = "UPDATE sandboxes SET phase = $1, cause_kind = $2, cause_detail = $3, \
        version = version + 1, updated_at_us = $4 WHERE id = $5 AND version = $6";
    SET_DEADLINE = "UPDATE sandboxes SET expires_at_us = $1, version = version + 1, \
        updated_at_us = $2 WHERE id = $3 AND version = $4";
    SET_GENERATION = "UPDATE sandboxes SET generation = $1, version = version + 1, \
        updated_at_us = $2 WHERE id = $3 AND version = $4";

    PUT_LEASE = "INSERT INTO leases (sandbox, holder, generation, expires_at_us, version) \
        VALUES ($1, $2, $3, $4, 1) ON CONFLICT (sandbox) DO UPDATE SET holder = excluded.holder, \
        generation = excluded.generation, expires_at_us = excluded.expires_at_us, \
        version = leases.version + 1";
    LEASE = "SELECT holder, generation, expires_at_us FROM leases WHERE sandbox = $1";
    MOVE_LEASE = "UPDATE leases SET expires_at_us = $1, version = version + 1 WHERE sandbox = $2";
    DROP_LEASE = "DELETE FROM leases WHERE sandbox = $1";
    RELEASE_LEASE = "DELETE FROM leases WHERE sandbox = $1 AND holder = $2 AND generation = $3";

    /// The row of the counter orders appends by commit: whoever updates it holds it until then.
    TAKE_EVENT_IDS = "UPDATE counters SET value = value + $1 WHERE name = 'event' RETURNING value";
    LAST_EVENT = "SELECT value FROM counters WHERE name = 'event'";
    INSERT_EVENT = "INSERT INTO events (", event_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6)";
    EVENTS = "SELECT ", event_columns!(), " FROM events WHERE id > $1 AND ", of_kinds!(),
        " ORDER BY id LIMIT $2";
    EVENTS_OF_SANDBOX = "SELECT ", event_columns!(), " FROM events WHERE id > $1 AND ",
        of_kinds!(), " AND sandbox = $4 ORDER BY id LIMIT $2";
    EVENTS_OF_OWNER = "SELECT ", event_columns!(), " FROM events WHERE id > $1 AND ",
        of_kinds!(), " AND owner = $4 ORDER BY id LIMIT $2";
    /// The concatenation keeps planners off the index by owner, which holds the longer of the two lists.
    EVENTS_OF_SANDBOX_AND_OWNER = "SELECT ", event_columns!(), " FROM events WHERE id > $1 AND ",
        of_kinds!(), " AND sandbox = $4 AND (owner || '') = $5 ORDER BY id LIMIT $2";

    INSERT_EXEC_LOG = "INSERT INTO exec_logs (id, sandbox, command, exit_code, reason, \
        duration_us, at_us) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING";
    EXEC_LOGS = "SELECT id, sandbox, command, exit_code, reason, duration_us, at_us \
        FROM exec_logs WHERE sandbox = $1 ORDER BY at_us DESC, id DESC LIMIT $2";

    INSERT_TEMPLATE = "INSERT INTO templates (", template_columns!(), ") VALUES ($1, $2, $3, $4, \
        $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT (name) DO NOTHING";
    TEMPLATE = "SELECT ", template_columns!(), " FROM templates WHERE name = $1";
    TEMPLATES = "SELECT ", template_columns!(), " FROM templates ORDER BY name";
    SET_TEMPLATE = "UPDATE templates SET image = $1, description = $2, provider = $3, \
        memory_mb = $4, vcpus = $5, ttl_us = $6, setup = $7, env = $8, metadata = $9, \
        pool_size = $10, allowed_hosts = $11, secrets = $12, version = version + 1, \
        updated_at_us = $13 WHERE name = $14 AND version = $15";
    DELETE_TEMPLATE = "DELETE FROM templates WHERE name = $1";
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::ALL;

    /// Statements that answer with a whole table, and so may pass over all of one index.
    const WHOLE: &[&str] = &["LIVE_SANDBOXES", "ALL_SANDBOXES", "TEMPLATES"];

    fn fresh() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        crate::sqlite::migrate_for_tests(&connection);
        connection
    }

    fn plan(connection: &Connection, sql: &str) -> Vec<String> {
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = explain.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            steps.push(row.get::<_, String>(3).unwrap());
        }
        steps
    }

    #[test]
    fn every_statement_prepares_and_numbers_its_placeholders_without_gaps() {
        let connection = fresh();
        for (name, sql) in ALL {
            let statement = connection.prepare(sql).unwrap_or_else(|e| panic!("{name}: {e}"));
            let mut numbers: Vec<usize> = (1..=statement.parameter_count())
                .map(|index| statement.parameter_name(index).unwrap()[1..].parse().unwrap())
                .collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn no_statement_scans_a_table_or_sorts() {
        let connection = fresh();
        for (name, sql) in ALL {
            for step in plan(&connection, sql) {
                let ordered = step.starts_with("SCAN ") && step.contains(" USING INDEX ");
                let fine = step.starts_with("SEARCH ") || (WHOLE.contains(name) && ordered);
                assert!(fine, "{name}: {step}");
            }
        }
    }

    #[test]
    fn hot_statements_use_the_index_made_for_them() {
        let connection = fresh();
        for (name, index) in [
            ("LIVE_SANDBOXES", "sandboxes_live_by_age"),
            ("ALL_SANDBOXES", "sandboxes_by_age"),
            ("EXPIRED_SANDBOXES", "sandboxes_by_deadline (expires_at_us<?)"),
            ("NEXT_EXPIRY", "SEARCH sandboxes USING INDEX sandboxes_by_deadline"),
            ("EVENTS", "INTEGER PRIMARY KEY (rowid>?)"),
            ("EVENTS_OF_SANDBOX", "events_by_sandbox (sandbox=? AND id>?)"),
            ("EVENTS_OF_OWNER", "events_by_owner (owner=? AND id>?)"),
            ("EVENTS_OF_SANDBOX_AND_OWNER", "events_by_sandbox (sandbox=? AND id>?)"),
            ("EXEC_LOGS", "exec_logs_by_sandbox (sandbox=?)"),
        ] {
            let (_, sql) = ALL.iter().find(|(known, _)| *known == name).unwrap();
            let steps = plan(&connection, sql);
            assert!(steps.iter().any(|step| step.contains(index)), "{name}: {steps:?}");
        }
    }
}
