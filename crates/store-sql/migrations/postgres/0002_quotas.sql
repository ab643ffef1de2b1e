-- What single owners may do otherwise; NULL is what everybody may.
CREATE TABLE quotas (
    owner               TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    max_sandboxes       BIGINT,
    max_ttl_us          BIGINT,
    max_exec_timeout_us BIGINT,
    weight              BIGINT,
    created_at_us       BIGINT           NOT NULL,
    updated_at_us       BIGINT           NOT NULL
);

-- Places that are taken, counted in the transactions that take them and give them back, so that an
-- admission reads three rows however many sandboxes there are. `scope` is 'all', 'owner' or
-- 'worker'. The row of all is always there: an admission locks it first.
CREATE TABLE usage (
    scope     TEXT COLLATE "C" NOT NULL,
    name      TEXT COLLATE "C" NOT NULL,
    active    BIGINT           NOT NULL,
    -- What these sandboxes may take.
    memory_mb BIGINT           NOT NULL,
    vcpus     BIGINT           NOT NULL,
    PRIMARY KEY (scope, name),
    CHECK (active >= 0 AND memory_mb >= 0 AND vcpus >= 0)
);

INSERT INTO usage (scope, name, active, memory_mb, vcpus)
    SELECT 'all', '', COUNT(*), COALESCE(SUM(memory_mb), 0), COALESCE(SUM(vcpus), 0)
    FROM sandboxes WHERE ended_at_us IS NULL;
INSERT INTO usage (scope, name, active, memory_mb, vcpus)
    SELECT 'owner', owner, COUNT(*), SUM(memory_mb), SUM(vcpus) FROM sandboxes
    WHERE ended_at_us IS NULL AND owner IS NOT NULL GROUP BY owner;
INSERT INTO usage (scope, name, active, memory_mb, vcpus)
    SELECT 'worker', worker, COUNT(*), SUM(memory_mb), SUM(vcpus) FROM sandboxes
    WHERE ended_at_us IS NULL GROUP BY worker;
