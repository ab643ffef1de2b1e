-- One row per idempotency key and caller. Digests and bodies are text.
CREATE TABLE idempotency_keys (
    id            TEXT    NOT NULL PRIMARY KEY,
    fingerprint   TEXT    NOT NULL,
    resource      TEXT    NOT NULL,
    -- Rises with every turn; only the last one may change the row.
    attempt       INTEGER NOT NULL,
    begun_at_us   INTEGER NOT NULL,
    -- Who has the turn; nobody when it was released or is done.
    holder        TEXT,
    held_until_us INTEGER,
    -- The answer; no status is work that is not done, no body is one that is made anew.
    status        INTEGER,
    content_type  TEXT,
    body          TEXT,
    CHECK ((holder IS NULL) = (held_until_us IS NULL)),
    CHECK ((status IS NULL) = (content_type IS NULL)),
    CHECK (status IS NULL OR holder IS NULL),
    CHECK (status IS NOT NULL OR body IS NULL)
) STRICT;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (begun_at_us, id);
