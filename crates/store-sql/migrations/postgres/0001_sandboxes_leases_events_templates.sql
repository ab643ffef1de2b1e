-- Instants and durations are microseconds (_us). Maps and lists are JSON text, opaque to SQL.
-- The same tables with the same columns exist on every database. Texts are in the order of their
-- bytes, as everywhere, whatever the database's own order is.

-- The lease is part of the row, and no index names a column that changes while the sandbox stays
-- where it is in that index: such a change finds room on the row's own page and touches no index.
CREATE TABLE sandboxes (
    id             TEXT COLLATE "C" NOT NULL,
    owner          TEXT COLLATE "C",
    provider       TEXT COLLATE "C" NOT NULL,
    worker         TEXT COLLATE "C" NOT NULL,
    image          TEXT COLLATE "C" NOT NULL,
    template       TEXT COLLATE "C",
    memory_mb      BIGINT           NOT NULL,
    vcpus          BIGINT           NOT NULL,
    pids           BIGINT           NOT NULL,
    disk_mb        BIGINT           NOT NULL,
    metadata       TEXT COLLATE "C" NOT NULL,
    env            TEXT COLLATE "C" NOT NULL,
    expires_at_us  BIGINT           NOT NULL,
    -- The latest deadline that it ever had: its worker ends it then, whoever it hears.
    latest_end_us  BIGINT           NOT NULL,
    phase          TEXT COLLATE "C" NOT NULL,
    cause_kind     TEXT COLLATE "C",
    cause_detail   TEXT COLLATE "C",
    -- The highest generation that was ever given out; it survives the lease.
    generation     BIGINT           NOT NULL,
    version        BIGINT           NOT NULL,
    created_at_us  BIGINT           NOT NULL,
    updated_at_us  BIGINT           NOT NULL,
    -- When the end was decided, and when it was reached.
    stopping_at_us BIGINT,
    ended_at_us    BIGINT,
    -- Who holds the lease, under the generation above, for as long as its own holds; no holder is a
    -- free lease.
    lease_holder   TEXT COLLATE "C",
    PRIMARY KEY (created_at_us, id),
    CHECK ((cause_kind IS NULL) = (cause_detail IS NULL)),
    CHECK ((cause_kind IS NULL) = (phase IN ('creating', 'running', 'paused'))),
    CHECK ((stopping_at_us IS NULL) = (phase NOT IN ('stopping', 'ended'))),
    CHECK ((ended_at_us IS NULL) = (phase <> 'ended'))
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX sandboxes_by_id ON sandboxes (id);
CREATE INDEX sandboxes_live_by_age ON sandboxes (created_at_us, id) WHERE ended_at_us IS NULL;
CREATE INDEX sandboxes_by_deadline ON sandboxes (expires_at_us, id) WHERE stopping_at_us IS NULL;

-- Ids come from the counter `event`, so that they rise in commit order.
CREATE TABLE events (
    id      BIGINT           NOT NULL PRIMARY KEY,
    kind    TEXT COLLATE "C" NOT NULL,
    sandbox TEXT COLLATE "C",
    owner   TEXT COLLATE "C",
    at_us   BIGINT           NOT NULL,
    data    TEXT COLLATE "C" NOT NULL
);

CREATE INDEX events_by_sandbox ON events (sandbox, id) WHERE sandbox IS NOT NULL;
CREATE INDEX events_by_owner ON events (owner, id) WHERE owner IS NOT NULL;

-- Numbers up to `reserved` may have been seen by somebody although what they were given to was lost
-- with the host: after anything but an orderly stop, counting goes on above it.
CREATE TABLE counters (
    name     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value    BIGINT           NOT NULL,
    reserved BIGINT           NOT NULL
);

INSERT INTO counters (name, value, reserved) VALUES ('event', 0, 0);

CREATE TABLE exec_logs (
    id          TEXT COLLATE "C" NOT NULL,
    sandbox     TEXT COLLATE "C" NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    command     TEXT COLLATE "C" NOT NULL,
    exit_code   BIGINT           NOT NULL,
    reason      TEXT COLLATE "C" NOT NULL,
    duration_us BIGINT           NOT NULL,
    at_us       BIGINT           NOT NULL,
    PRIMARY KEY (sandbox, at_us, id)
);

CREATE UNIQUE INDEX exec_logs_by_id ON exec_logs (id);

CREATE TABLE templates (
    name          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version       BIGINT           NOT NULL,
    image         TEXT COLLATE "C" NOT NULL,
    description   TEXT COLLATE "C" NOT NULL,
    provider      TEXT COLLATE "C" NOT NULL,
    memory_mb     BIGINT           NOT NULL,
    vcpus         BIGINT           NOT NULL,
    ttl_us        BIGINT           NOT NULL,
    setup         TEXT COLLATE "C" NOT NULL,
    env           TEXT COLLATE "C" NOT NULL,
    metadata      TEXT COLLATE "C" NOT NULL,
    pool_size     BIGINT           NOT NULL,
    allowed_hosts TEXT COLLATE "C" NOT NULL,
    secrets       TEXT COLLATE "C" NOT NULL,
    created_at_us BIGINT           NOT NULL,
    updated_at_us BIGINT           NOT NULL
);
