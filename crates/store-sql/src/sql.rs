//! Every SQL text, once, for every database.
//!
//! Columns are TEXT, BIGINT and BOOLEAN, placeholders `$1`, and nothing is used that only one of
//! SQLite and Postgres knows. A test prepares all of them and looks at their plans.

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $($text:expr),+;)+) => {
        $($(#[$doc])* pub(crate) const $name: &str = concat!($($text),+);)+

        /// All statements with their names.
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name),)+];
    };
}

/// In the order in which `sandboxes::read` reads them.
macro_rules! sandbox_columns {
    () => {
        "id, owner, provider, worker, image, template, memory_mb, vcpus, pids, disk_mb, metadata, \
         env, expires_at_us, latest_end_us, phase, cause_kind, cause_detail, generation, version, created_at_us, \
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

/// In the order in which `audit::read_operation` reads them.
macro_rules! operation_columns {
    () => {
        "id, at_us, actor, action, sandbox, owner, tenant, provider, resource, outcome, detail, \
         request_id"
    };
}

/// In the order in which `audit::read_admin` reads them.
macro_rules! admin_columns {
    () => {
        "id, at_us, actor, method, path, status, duration_us, request_id, remote_addr, \
         user_agent, tenant"
    };
}

/// `$3` records that are older than `$1` and `$2`, the newest first.
macro_rules! newest_below {
    () => {
        "(at_us, id) < ($1, $2) ORDER BY at_us DESC, id DESC LIMIT $3"
    };
}

/// In the order in which `keys::read` reads them.
macro_rules! key_columns {
    () => {
        "id, name, role, owner, speaks_for_others, hash, created_at_us, expires_at_us, \
         revoked_at_us, last_used_at_us"
    };
}

/// In the order in which `workers::read` reads them and `workers::write` binds them.
macro_rules! worker_columns {
    () => {
        "id, instance, hostname, version, url, draining, cordoned, offers, max_sandboxes, \
         max_memory_mb, max_vcpus, lease_until_us, heartbeat_at_us, created_at_us, updated_at_us"
    };
}

/// In the order in which `quotas::read` reads them.
macro_rules! quota_columns {
    () => {
        "owner, max_sandboxes, max_ttl_us, max_exec_timeout_us, weight, created_at_us, \
         updated_at_us"
    };
}

statements! {
    INSERT_SANDBOX = "INSERT INTO sandboxes (", sandbox_columns!(), ", lease_holder) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
        $16, $17, $18, $19, $20, $21, $22) ON CONFLICT (id) DO NOTHING";
    SANDBOX = "SELECT ", sandbox_columns!(), " FROM sandboxes WHERE id = $1";
    LIVE_SANDBOXES = "SELECT ", sandbox_columns!(), " FROM sandboxes WHERE ended_at_us IS NULL \
        ORDER BY created_at_us DESC, id DESC";
    ALL_SANDBOXES = "SELECT ", sandbox_columns!(), " FROM sandboxes \
        ORDER BY created_at_us DESC, id DESC";
    /// Counted by the caller: few groups are many rows, which a database would sort first.
    CENSUS = "SELECT phase, cause_kind, provider, worker, lease_holder \
        FROM sandboxes WHERE ended_at_us IS NULL";
    EXPIRED_SANDBOXES = "SELECT ", sandbox_columns!(), " FROM sandboxes \
        WHERE stopping_at_us IS NULL AND expires_at_us <= $1 \
        ORDER BY expires_at_us, id LIMIT $2";
    NEXT_EXPIRY = "SELECT MIN(expires_at_us) FROM sandboxes \
        WHERE stopping_at_us IS NULL";
    /// Names no column of an index, so that only the row itself is written.
    SET_LIVE_PHASE = "UPDATE sandboxes SET phase = $1, cause_kind = $2, cause_detail = $3, \
        version = version + 1, updated_at_us = $4 WHERE id = $5 AND version = $6";
    SET_STOPPING = "UPDATE sandboxes SET phase = $1, cause_kind = $2, cause_detail = $3, \
        version = version + 1, updated_at_us = $4, stopping_at_us = $4 \
        WHERE id = $5 AND version = $6";
    SET_ENDED = "UPDATE sandboxes SET phase = $1, cause_kind = $2, cause_detail = $3, \
        version = version + 1, updated_at_us = $4, ended_at_us = $4, lease_holder = NULL \
        WHERE id = $5 AND version = $6";
    SET_DEADLINE = "UPDATE sandboxes SET expires_at_us = $1, latest_end_us = \
        CASE WHEN latest_end_us < $1 THEN $1 ELSE latest_end_us END, version = version + 1, \
        updated_at_us = $2 WHERE id = $3 AND version = $4";

    STILL_CREATING = "UPDATE sandboxes SET version = version + 1, updated_at_us = $1 \
        WHERE id = $2 AND version = $3";

    TAKE_LEASE = "UPDATE sandboxes SET generation = $1, lease_holder = $2, worker = $2, \
        version = version + 1, updated_at_us = $3 WHERE id = $4 AND version = $5";
    LEASE = "SELECT sandboxes.lease_holder, sandboxes.generation, workers.lease_until_us \
        FROM sandboxes LEFT JOIN workers ON workers.id = sandboxes.lease_holder \
        WHERE sandboxes.id = $1 AND sandboxes.lease_holder IS NOT NULL";
    RELEASE_LEASE = "UPDATE sandboxes SET lease_holder = NULL \
        WHERE id = $1 AND lease_holder = $2 AND generation = $3";

    /// The row of the counter orders appends by commit: whoever updates it holds it until then.
    TAKE_EVENT_IDS = "UPDATE counters SET value = value + $1 WHERE name = 'event' RETURNING value";
    /// Numbers that may be shown before the disk has them: those up to $1 above the last one.
    RESERVE_EVENT_IDS = "UPDATE counters SET reserved = value + $1 WHERE name = 'event'";
    SKIP_RESERVED_EVENT_IDS = "UPDATE counters SET value = reserved \
        WHERE name = 'event' AND value < reserved";
    /// The highest number that may have been given out, by a server that was killed too.
    HIGHEST_EVENT_ID = "SELECT CASE WHEN value < reserved THEN reserved ELSE value END \
        FROM counters WHERE name = 'event'";
    RAISE_EVENT_IDS = "UPDATE counters SET value = $1 WHERE name = 'event' AND value < $1";
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
        duration_us, at_us) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (sandbox, id) DO NOTHING";
    EXEC_LOGS = "SELECT id, sandbox, command, exit_code, reason, duration_us, at_us \
        FROM exec_logs WHERE sandbox = $1 ORDER BY at_us DESC, id DESC LIMIT $2";

    EXEC_LOG = "SELECT id, sandbox, command, exit_code, reason, duration_us, at_us \
        FROM exec_logs WHERE sandbox = $1 AND id = $2";
    QUOTA = "SELECT ", quota_columns!(), " FROM quotas WHERE owner = $1";
    QUOTAS = "SELECT ", quota_columns!(), " FROM quotas ORDER BY owner";
    QUOTA_COUNTS = "SELECT COUNT(*), COUNT(max_sandboxes), COUNT(max_ttl_us), \
        COUNT(max_exec_timeout_us) FROM quotas";
    PUT_QUOTA = "INSERT INTO quotas (", quota_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $6) \
        ON CONFLICT (owner) DO UPDATE SET max_sandboxes = excluded.max_sandboxes, \
        max_ttl_us = excluded.max_ttl_us, max_exec_timeout_us = excluded.max_exec_timeout_us, \
        weight = excluded.weight, updated_at_us = excluded.updated_at_us \
        RETURNING ", quota_columns!();
    DELETE_QUOTA = "DELETE FROM quotas WHERE owner = $1";

    USAGE = "SELECT active, memory_mb, vcpus FROM usage WHERE scope = $1 AND name = $2";
    TAKE_PLACE = "INSERT INTO usage (scope, name, active, memory_mb, vcpus) \
        VALUES ($1, $2, 1, $3, $4) ON CONFLICT (scope, name) DO UPDATE SET \
        active = usage.active + 1, memory_mb = usage.memory_mb + excluded.memory_mb, \
        vcpus = usage.vcpus + excluded.vcpus";
    GIVE_PLACE_BACK = "UPDATE usage SET active = active - 1, memory_mb = memory_mb - $3, \
        vcpus = vcpus - $4 WHERE scope = $1 AND name = $2";
    FORGET_UNUSED = "DELETE FROM usage WHERE scope = $1 AND name = $2 AND active = 0";

    WORKER = "SELECT ", worker_columns!(), " FROM workers WHERE id = $1";
    WORKERS = "SELECT ", worker_columns!(), " FROM workers ORDER BY id";
    /// What an admission asks about its worker.
    WORKER_ROOM = "SELECT draining, cordoned, lease_until_us, max_sandboxes, max_memory_mb, \
        max_vcpus FROM workers WHERE id = $1";
    INSERT_WORKER = "INSERT INTO workers (", worker_columns!(), ") VALUES ($1, $2, $3, $4, $5, \
        $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) ON CONFLICT (id) DO NOTHING";
    SET_WORKER = "UPDATE workers SET instance = $2, hostname = $3, version = $4, url = $5, \
        draining = $6, cordoned = $7, offers = $8, max_sandboxes = $9, max_memory_mb = $10, \
        max_vcpus = $11, lease_until_us = $12, heartbeat_at_us = $13, created_at_us = $14, \
        updated_at_us = $15 WHERE id = $1";
    RENEW_WORKER = "UPDATE workers SET lease_until_us = $1, heartbeat_at_us = $2 WHERE id = $3";
    CORDON = "UPDATE workers SET cordoned = $1, updated_at_us = $2 \
        WHERE id = $3 AND cordoned <> $1";
    DELETE_WORKER = "DELETE FROM workers WHERE id = $1";
    LOADS = "SELECT name, active, memory_mb, vcpus FROM usage WHERE scope = 'worker'";
    LEASE_UNTIL = "SELECT lease_until_us FROM workers WHERE id = $1";
    LEASES_UNTIL = "SELECT id, lease_until_us FROM workers";
    SANDBOXES_OF_WORKER = "SELECT ", sandbox_columns!(), " FROM sandboxes WHERE worker = $1 \
        AND ended_at_us IS NULL AND (created_at_us, id) > ($2, $3) \
        ORDER BY created_at_us, id LIMIT $4";

    INSERT_TEMPLATE = "INSERT INTO templates (", template_columns!(), ") VALUES ($1, $2, $3, $4, \
        $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT (name) DO NOTHING";
    TEMPLATE = "SELECT ", template_columns!(), " FROM templates WHERE name = $1";
    TEMPLATES = "SELECT ", template_columns!(), " FROM templates ORDER BY name";
    SET_TEMPLATE = "UPDATE templates SET image = $1, description = $2, provider = $3, \
        memory_mb = $4, vcpus = $5, ttl_us = $6, setup = $7, env = $8, metadata = $9, \
        pool_size = $10, allowed_hosts = $11, secrets = $12, version = version + 1, \
        updated_at_us = $13 WHERE name = $14 AND version = $15";
    DELETE_TEMPLATE = "DELETE FROM templates WHERE name = $1";

    INSERT_OPERATION = "INSERT INTO operation_audit (", operation_columns!(), ") VALUES ($1, $2, \
        $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (at_us, id) DO NOTHING";
    OPERATIONS = "SELECT ", operation_columns!(), " FROM operation_audit WHERE ", newest_below!();
    OPERATIONS_OF_SANDBOX = "SELECT ", operation_columns!(), " FROM operation_audit \
        WHERE sandbox = $4 AND ", newest_below!();
    OPERATIONS_OF_OWNER = "SELECT ", operation_columns!(), " FROM operation_audit \
        WHERE owner = $4 AND ", newest_below!();
    OPERATIONS_OF_ACTOR = "SELECT ", operation_columns!(), " FROM operation_audit \
        WHERE actor = $4 AND ", newest_below!();
    FAILED_OPERATIONS = "SELECT ", operation_columns!(), " FROM operation_audit \
        WHERE outcome = 'failure' AND ", newest_below!();
    INSERT_ADMIN_REQUEST = "INSERT INTO admin_audit (", admin_columns!(), ") VALUES ($1, $2, $3, \
        $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (at_us, id) DO NOTHING";
    ADMIN_REQUESTS = "SELECT ", admin_columns!(), " FROM admin_audit WHERE ", newest_below!();
    ADMIN_REQUESTS_OF_ACTOR = "SELECT ", admin_columns!(), " FROM admin_audit \
        WHERE actor = $4 AND ", newest_below!();

    SANDBOXES_BY_AGE = "SELECT created_at_us, id, updated_at_us, ended_at_us, lease_holder \
        FROM sandboxes WHERE (created_at_us, id) > ($1, $2) AND created_at_us < $3 \
        ORDER BY created_at_us, id LIMIT $4";
    AGED_SANDBOX = "SELECT created_at_us, id, updated_at_us, ended_at_us, lease_holder \
        FROM sandboxes WHERE created_at_us = $1 AND id = $2";
    DELETE_SANDBOX = "DELETE FROM sandboxes WHERE id = $1";
    OLDEST_LOGS_OF = "SELECT at_us, id FROM exec_logs WHERE sandbox = $1 \
        ORDER BY at_us, id LIMIT $2";
    DELETE_LOGS_OF = "DELETE FROM exec_logs WHERE sandbox = $1 AND (at_us, id) <= ($2, $3)";
    OLD_EXEC_LOGS = "SELECT at_us, id FROM exec_logs WHERE at_us < $1 \
        ORDER BY at_us, id LIMIT $2";
    DELETE_EXEC_LOGS = "DELETE FROM exec_logs WHERE (at_us, id) <= ($1, $2)";
    EVENTS_BY_AGE = "SELECT id, at_us FROM events WHERE id > $1 ORDER BY id LIMIT $2";
    DELETE_EVENTS = "DELETE FROM events WHERE id <= $1";
    PRUNED_EVENTS = "SELECT value FROM counters WHERE name = 'events_pruned'";
    SET_PRUNED_EVENTS = "UPDATE counters SET value = $1 WHERE name = 'events_pruned'";
    OLD_OPERATIONS = "SELECT at_us, id FROM operation_audit WHERE at_us < $1 \
        ORDER BY at_us, id LIMIT $2";
    DELETE_OPERATIONS = "DELETE FROM operation_audit WHERE (at_us, id) <= ($1, $2)";
    OLD_ADMIN_REQUESTS = "SELECT at_us, id FROM admin_audit WHERE at_us < $1 \
        ORDER BY at_us, id LIMIT $2";
    DELETE_ADMIN_REQUESTS = "DELETE FROM admin_audit WHERE (at_us, id) <= ($1, $2)";

    INSERT_IDEMPOTENCY_KEY = "INSERT INTO idempotency_keys (id, fingerprint, resource, attempt, begun_at_us, \
        holder, held_until_us) VALUES ($1, $2, $3, 1, $4, $5, $6) ON CONFLICT (id) DO NOTHING";
    IDEMPOTENCY_KEY = "SELECT fingerprint, resource, attempt, begun_at_us, holder, held_until_us, status, \
        content_type, body FROM idempotency_keys WHERE id = $1";
    TAKE_TURN = "UPDATE idempotency_keys SET attempt = attempt + 1, holder = $1, \
        held_until_us = $2 WHERE id = $3 AND attempt = $4 AND status IS NULL";
    HOLD_TURN = "UPDATE idempotency_keys SET held_until_us = $1 \
        WHERE id = $2 AND attempt = $3 AND status IS NULL AND holder IS NOT NULL";
    RENEW_TURN = "UPDATE idempotency_keys SET resource = $1 \
        WHERE id = $2 AND attempt = $3 AND status IS NULL";
    FINISH_TURN = "UPDATE idempotency_keys SET status = $1, content_type = $2, body = $3, \
        holder = NULL, held_until_us = NULL WHERE id = $4 AND attempt = $5 AND status IS NULL";
    RELEASE_TURN = "UPDATE idempotency_keys SET holder = NULL, held_until_us = NULL \
        WHERE id = $1 AND attempt = $2 AND status IS NULL";
    OLD_IDEMPOTENCY_KEYS = "SELECT id FROM idempotency_keys WHERE begun_at_us < $1 \
        ORDER BY begun_at_us, id LIMIT $2";
    KEPT_BODIES = "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM idempotency_bodies \
        WHERE caller = $1";
    COUNT_BODY = "INSERT INTO idempotency_bodies (id, caller, bytes) VALUES ($1, $2, $3)";
    FORGET_BODY = "DELETE FROM idempotency_bodies WHERE id = $1";
    DELETE_IDEMPOTENCY_KEY = "DELETE FROM idempotency_keys WHERE id = $1";
    INSERT_KEY = "INSERT INTO api_keys (", key_columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, \
        $7, $8, $9, $10) ON CONFLICT DO NOTHING";
    KEY = "SELECT ", key_columns!(), " FROM api_keys WHERE id = $1";
    KEYS = "SELECT ", key_columns!(), " FROM api_keys ORDER BY name";
    FIRST_KEY = "SELECT id FROM api_keys LIMIT 1";
    REVOKE_KEY = "UPDATE api_keys SET revoked_at_us = $1 WHERE id = $2 AND revoked_at_us IS NULL";
    NOTE_KEY_USE = "UPDATE api_keys SET last_used_at_us = $1 WHERE id = $2 \
        AND (last_used_at_us IS NULL OR last_used_at_us < $1)";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rusqlite::Connection;

    use super::ALL;

    /// Statements that answer with a whole table, and so may pass over all of it or of one index,
    /// or with the first row that there is.
    const WHOLE: &[&str] = &[
        "LIVE_SANDBOXES",
        "ALL_SANDBOXES",
        "CENSUS",
        "TEMPLATES",
        "QUOTAS",
        "QUOTA_COUNTS",
        "KEYS",
        "FIRST_KEY",
        "WORKERS",
        "LEASES_UNTIL",
        "LOADS",
    ];

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
                let whole = step.starts_with("SCAN ") && WHOLE.contains(name);
                let fine = step.starts_with("SEARCH ") || whole;
                assert!(fine, "{name}: {step}");
            }
        }
    }

    /// To how many tables and indexes a statement may write: each is a page of the commit at least.
    fn written(connection: &Connection, name: &str) -> usize {
        let (_, sql) = ALL.iter().find(|(known, _)| *known == name).unwrap();
        let mut explain = connection.prepare(&format!("EXPLAIN {sql}")).unwrap();
        let mut rows = explain.raw_query();
        let (mut opened, mut written) = (BTreeSet::new(), BTreeSet::new());
        while let Some(row) = rows.next().unwrap() {
            let (operation, cursor): (String, i64) = (row.get(1).unwrap(), row.get(2).unwrap());
            match operation.as_str() {
                "OpenWrite" => _ = opened.insert(cursor),
                "Insert" | "Delete" | "IdxInsert" | "IdxDelete" => _ = written.insert(cursor),
                _ => {}
            }
        }
        // The others are lists that the statement keeps for itself.
        opened.intersection(&written).count()
    }

    #[test]
    fn a_life_writes_to_few_tables_and_indexes() {
        let connection = fresh();
        for (name, count) in [
            ("INSERT_SANDBOX", 5),
            ("SET_LIVE_PHASE", 1),
            ("SET_STOPPING", 2),
            ("SET_ENDED", 3),
            ("TAKE_EVENT_IDS", 1),
            ("RESERVE_EVENT_IDS", 1),
            ("INSERT_EVENT", 3),
            ("INSERT_EXEC_LOG", 3),
            ("INSERT_OPERATION", 5),
            ("INSERT_ADMIN_REQUEST", 2),
            ("INSERT_IDEMPOTENCY_KEY", 3),
            ("TAKE_TURN", 1),
            ("FINISH_TURN", 1),
            ("SET_WORKER", 1),
            ("RENEW_WORKER", 1),
            ("STILL_CREATING", 1),
            ("TAKE_PLACE", 1),
            ("GIVE_PLACE_BACK", 1),
            ("FORGET_UNUSED", 1),
        ] {
            assert_eq!(written(&connection, name), count, "{name}");
        }
    }

    #[test]
    fn hot_statements_use_the_index_made_for_them() {
        let connection = fresh();
        for (name, index) in [
            ("LIVE_SANDBOXES", "sandboxes_live_by_age"),
            ("CENSUS", "sandboxes_live_by_age"),
            ("SANDBOX", "sandboxes_by_id (id=?)"),
            ("ALL_SANDBOXES", "SCAN sandboxes"),
            ("EXPIRED_SANDBOXES", "sandboxes_by_deadline (expires_at_us<?)"),
            ("NEXT_EXPIRY", "SEARCH sandboxes USING INDEX sandboxes_by_deadline"),
            ("EVENTS", "INTEGER PRIMARY KEY (rowid>?)"),
            ("EVENTS_OF_SANDBOX", "events_by_sandbox (sandbox=? AND id>?)"),
            ("EVENTS_OF_OWNER", "events_by_owner (owner=? AND id>?)"),
            ("EVENTS_OF_SANDBOX_AND_OWNER", "events_by_sandbox (sandbox=? AND id>?)"),
            ("EXEC_LOGS", "PRIMARY KEY (sandbox=?)"),
            ("OPERATIONS", "PRIMARY KEY ((at_us,id)<(?,?))"),
            (
                "OPERATIONS_OF_SANDBOX",
                "operation_audit_by_sandbox (sandbox=? AND (at_us,id)<(?,?))",
            ),
            ("OPERATIONS_OF_OWNER", "operation_audit_by_owner (owner=? AND (at_us,id)<(?,?))"),
            ("OPERATIONS_OF_ACTOR", "operation_audit_by_actor (actor=? AND (at_us,id)<(?,?))"),
            ("FAILED_OPERATIONS", "operation_audit_failed ((at_us,id)<(?,?))"),
            ("ADMIN_REQUESTS", "PRIMARY KEY ((at_us,id)<(?,?))"),
            ("ADMIN_REQUESTS_OF_ACTOR", "admin_audit_by_actor (actor=? AND (at_us,id)<(?,?))"),
            ("SANDBOXES_OF_WORKER", "sandboxes_live_by_worker (worker=? AND "),
            ("SANDBOXES_BY_AGE", "PRIMARY KEY ("),
            ("OLD_EXEC_LOGS", "exec_logs_by_age (at_us<?)"),
            ("DELETE_EXEC_LOGS", "exec_logs_by_age ("),
            ("DELETE_LOGS_OF", "PRIMARY KEY (sandbox=? AND "),
            ("IDEMPOTENCY_KEY", "(id=?)"),
            ("OLD_IDEMPOTENCY_KEYS", "idempotency_keys_by_age (begun_at_us<?)"),
            ("KEPT_BODIES", "COVERING INDEX idempotency_bodies_by_caller (caller=?)"),
        ] {
            let (_, sql) = ALL.iter().find(|(known, _)| *known == name).unwrap();
            let steps = plan(&connection, sql);
            assert!(steps.iter().any(|step| step.contains(index)), "{name}: {steps:?}");
        }
    }
}
