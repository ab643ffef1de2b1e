-- Who holds sandboxes. A heartbeat renews one row, however many sandboxes its worker has.
CREATE TABLE workers (
    id              TEXT    NOT NULL PRIMARY KEY,
    -- A random word of its data directory.
    instance        TEXT    NOT NULL,
    hostname        TEXT    NOT NULL,
    version         TEXT    NOT NULL,
    url             TEXT,
    -- 1 or 0: what the worker says, and what the operator decided.
    draining        INTEGER NOT NULL,
    cordoned        INTEGER NOT NULL,
    -- Its providers, as JSON.
    offers          TEXT    NOT NULL,
    -- What it can hold; 0 is no limit.
    max_sandboxes   INTEGER NOT NULL,
    max_memory_mb   INTEGER NOT NULL,
    max_vcpus       INTEGER NOT NULL,
    -- The largest number there is means without end.
    lease_until_us  INTEGER NOT NULL,
    heartbeat_at_us INTEGER NOT NULL,
    created_at_us   INTEGER NOT NULL,
    updated_at_us   INTEGER NOT NULL,
    CHECK (draining IN (0, 1)),
    CHECK (cordoned IN (0, 1))
) STRICT;

CREATE INDEX sandboxes_live_by_worker ON sandboxes (worker, created_at_us, id)
    WHERE ended_at_us IS NULL;
