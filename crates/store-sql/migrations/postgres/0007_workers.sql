-- Who holds sandboxes. A heartbeat renews one row, however many sandboxes its worker has.
CREATE TABLE workers (
    id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- A random word of its data directory.
    instance        TEXT COLLATE "C" NOT NULL,
    hostname        TEXT COLLATE "C" NOT NULL,
    version         TEXT COLLATE "C" NOT NULL,
    url             TEXT COLLATE "C",
    -- 1 or 0: what the worker says, and what the operator decided.
    draining        BIGINT           NOT NULL,
    cordoned        BIGINT           NOT NULL,
    -- Its providers, as JSON.
    offers          TEXT COLLATE "C" NOT NULL,
    -- What it can hold; 0 is no limit.
    max_sandboxes   BIGINT           NOT NULL,
    max_memory_mb   BIGINT           NOT NULL,
    max_vcpus       BIGINT           NOT NULL,
    -- The largest number there is means without end.
    lease_until_us  BIGINT           NOT NULL,
    heartbeat_at_us BIGINT           NOT NULL,
    created_at_us   BIGINT           NOT NULL,
    updated_at_us   BIGINT           NOT NULL,
    CHECK (draining IN (0, 1)),
    CHECK (cordoned IN (0, 1))
);

CREATE INDEX sandboxes_live_by_worker ON sandboxes (worker, created_at_us, id)
    WHERE ended_at_us IS NULL;
