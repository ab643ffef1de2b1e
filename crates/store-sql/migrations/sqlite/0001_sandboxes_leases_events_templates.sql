-- Instants and durations are microseconds (_us). Maps and lists are JSON text, opaque to SQL.
-- The same tables with the same columns exist on every database: TEXT, BIGINT, BOOLEAN.

CREATE TABLE sandboxes (
    id            TEXT    NOT NULL PRIMARY KEY,
    owner         TEXT,
    provider      TEXT    NOT NULL,
    worker        TEXT    NOT NULL,
    image         TEXT    NOT NULL,
    template      TEXT,
    memory_mb     INTEGER NOT NULL,
    vcpus         INTEGER NOT NULL,
    pids          INTEGER NOT NULL,
    disk_mb       INTEGER NOT NULL,
    metadata      TEXT    NOT NULL,
    env           TEXT    NOT NULL,
    expires_at_us INTEGER NOT NULL,
    phase         TEXT    NOT NULL,
    cause_kind    TEXT,
    cause_detail  TEXT,
    -- The highest generation that was ever given out; it survives the lease.
    generation    INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    CHECK ((cause_kind IS NULL) = (cause_detail IS NULL)),
    CHECK ((cause_kind IS NULL) = (phase IN ('creating', 'running', 'paused')))
) STRICT;

CREATE INDEX sandboxes_by_age ON sandboxes (created_at_us, id);
CREATE INDEX sandboxes_live_by_age ON sandboxes (created_at_us, id) WHERE phase <> 'ended';
CREATE INDEX sandboxes_by_deadline ON sandboxes (expires_at_us, id)
    WHERE phase NOT IN ('stopping', 'ended');

-- A row is a lease that is held or has lapsed; no row is a free lease.
CREATE TABLE leases (
    sandbox       TEXT    NOT NULL PRIMARY KEY REFERENCES sandboxes (id) ON DELETE CASCADE,
    holder        TEXT    NOT NULL,
    generation    INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,
    version       INTEGER NOT NULL
) STRICT;

-- Ids come from the counter `event`, so that they rise in commit order and without gaps.
CREATE TABLE events (
    id      INTEGER NOT NULL PRIMARY KEY,
    kind    TEXT    NOT NULL,
    sandbox TEXT,
    owner   TEXT,
    at_us   INTEGER NOT NULL,
    data    TEXT    NOT NULL
) STRICT;

CREATE INDEX events_by_sandbox ON events (sandbox, id) WHERE sandbox IS NOT NULL;
CREATE INDEX events_by_owner ON events (owner, id) WHERE owner IS NOT NULL;

CREATE TABLE counters (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

INSERT INTO counters (name, value) VALUES ('event', 0);

CREATE TABLE exec_logs (
    id          TEXT    NOT NULL PRIMARY KEY,
    sandbox     TEXT    NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    command     TEXT    NOT NULL,
    exit_code   INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    duration_us INTEGER NOT NULL,
    at_us       INTEGER NOT NULL
) STRICT;

CREATE INDEX exec_logs_by_sandbox ON exec_logs (sandbox, at_us, id);

CREATE TABLE templates (
    name          TEXT    NOT NULL PRIMARY KEY,
    version       INTEGER NOT NULL,
    image         TEXT    NOT NULL,
    description   TEXT    NOT NULL,
    provider      TEXT    NOT NULL,
    memory_mb     INTEGER NOT NULL,
    vcpus         INTEGER NOT NULL,
    ttl_us        INTEGER NOT NULL,
    setup         TEXT    NOT NULL,
    env           TEXT    NOT NULL,
    metadata      TEXT    NOT NULL,
    pool_size     INTEGER NOT NULL,
    allowed_hosts TEXT    NOT NULL,
    secrets       TEXT    NOT NULL,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL
) STRICT;
