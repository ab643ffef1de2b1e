-- Instants and durations are microseconds (_us). Maps and lists are JSON text, opaque to SQL.
-- The same tables with the same columns exist on every database: TEXT, BIGINT, BOOLEAN.

-- Every commit writes whole pages, so what a spawn and a destroy touch is kept to few of them: the
-- table is its own index by age, the lease is part of the row, and no index names a column that
-- changes while the sandbox stays where it is in that index.
CREATE TABLE sandboxes (
    id             TEXT    NOT NULL,
    owner          TEXT,
    provider       TEXT    NOT NULL,
    worker         TEXT    NOT NULL,
    image          TEXT    NOT NULL,
    template       TEXT,
    memory_mb      INTEGER NOT NULL,
    vcpus          INTEGER NOT NULL,
    pids           INTEGER NOT NULL,
    disk_mb        INTEGER NOT NULL,
    metadata       TEXT    NOT NULL,
    env            TEXT    NOT NULL,
    expires_at_us  INTEGER NOT NULL,
    -- The latest deadline that it ever had: its worker ends it then, whoever it hears.
    latest_end_us  INTEGER NOT NULL,
    phase          TEXT    NOT NULL,
    cause_kind     TEXT,
    cause_detail   TEXT,
    -- The highest generation that was ever given out; it survives the lease.
    generation     INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    created_at_us  INTEGER NOT NULL,
    updated_at_us  INTEGER NOT NULL,
    -- When the end was decided, and when it was reached.
    stopping_at_us INTEGER,
    ended_at_us    INTEGER,
    -- Who holds the lease, under the generation above, for as long as its own holds; no holder is a
    -- free lease.
    lease_holder   TEXT,
    PRIMARY KEY (created_at_us, id),
    CHECK ((cause_kind IS NULL) = (cause_detail IS NULL)),
    CHECK ((cause_kind IS NULL) = (phase IN ('creating', 'running', 'paused'))),
    CHECK ((stopping_at_us IS NULL) = (phase NOT IN ('stopping', 'ended'))),
    CHECK ((ended_at_us IS NULL) = (phase <> 'ended'))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX sandboxes_by_id ON sandboxes (id);
CREATE INDEX sandboxes_live_by_age ON sandboxes (created_at_us, id) WHERE ended_at_us IS NULL;
CREATE INDEX sandboxes_by_deadline ON sandboxes (expires_at_us, id) WHERE stopping_at_us IS NULL;

-- Ids come from the counter `event`, so that they rise in commit order.
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

-- Numbers up to `reserved` may have been seen by somebody although what they were given to was lost
-- with the host: after anything but an orderly stop, counting goes on above it.
CREATE TABLE counters (
    name     TEXT    NOT NULL PRIMARY KEY,
    value    INTEGER NOT NULL,
    reserved INTEGER NOT NULL
) STRICT;

INSERT INTO counters (name, value, reserved) VALUES ('event', 0, 0);

CREATE TABLE exec_logs (
    id          TEXT    NOT NULL,
    sandbox     TEXT    NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    command     TEXT    NOT NULL,
    exit_code   INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    duration_us INTEGER NOT NULL,
    at_us       INTEGER NOT NULL,
    PRIMARY KEY (sandbox, at_us, id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX exec_logs_by_id ON exec_logs (id);

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
