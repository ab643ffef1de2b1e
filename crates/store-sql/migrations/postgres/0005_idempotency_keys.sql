-- One row per idempotency key and caller. Digests and bodies are text.
CREATE TABLE idempotency_keys (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    fingerprint   TEXT COLLATE "C" NOT NULL,
    resource      TEXT COLLATE "C" NOT NULL,
    -- Rises with every turn; only the last one may change the row.
    attempt       BIGINT           NOT NULL,
    begun_at_us   BIGINT           NOT NULL,
    -- Who has the turn; nobody when it was released or is done.
    holder        TEXT COLLATE "C",
    held_until_us BIGINT,
    -- The answer; no status is work that is not done, no body is one that is made anew.
    status        BIGINT,
    content_type  TEXT COLLATE "C",
    body          TEXT COLLATE "C",
    CHECK ((holder IS NULL) = (held_until_us IS NULL)),
    CHECK ((status IS NULL) = (content_type IS NULL)),
    CHECK (status IS NULL OR holder IS NULL),
    CHECK (status IS NOT NULL OR body IS NULL)
);

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (begun_at_us, id);
