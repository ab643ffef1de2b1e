-- What single owners may do otherwise; NULL is what everybody may.
CREATE TABLE quotas (
    owner               TEXT    NOT NULL PRIMARY KEY,
    max_sandboxes       INTEGER,
    max_ttl_us          INTEGER,
    max_exec_timeout_us INTEGER,
    weight              INTEGER,
    created_at_us       INTEGER NOT NULL,
    updated_at_us       INTEGER NOT NULL
) STRICT;

-- Places that are taken, counted in the transactions that take them and give them back, so that an
-- admission reads three rows however many sandboxes there are. `scope` is 'all', 'owner' or
-- 'worker'. The row of all is always there: an admission locks it first.
CREATE TABLE usage (
    scope     TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    active    INTEGER NOT NULL,
    -- What these sandboxes may take.
    memory_mb INTEGER NOT NULL,
    vcpus     INTEGER NOT NULL,
    PRIMARY KEY (scope, name),
    CHECK (active >= 0 AND memory_mb >= 0 AND vcpus >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO usage (scope, name, active, memory_mb, vcpus)
    SELECT 'all', '', COUNT(*), COALESCE(SUM(memory_mb), 0), COALESCE(SUM(vcpus), 0)
    FROM sandboxes WHERE ended_at_us IS NULL;
INSERT INTO usage (scope, name, active, memory_mb, vcpus)
    SELECT 'owner', owner, COUNT(*), SUM(memory_mb), SUM(vcpus) FROM sandboxes
    WHERE ended_at_us IS NULL AND owner IS NOT NULL GROUP BY owner;
INSERT INTO usage (scope, name, active, memory_mb, vcpus)
    SELECT 'worker', worker, COUNT(*), SUM(memory_mb), SUM(vcpus) FROM sandboxes
    WHERE ended_at_us IS NULL GROUP BY worker;
