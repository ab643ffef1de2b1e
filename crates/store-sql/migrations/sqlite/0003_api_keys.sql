-- API keys without their secrets. Keys are revoked and not deleted: records name them.
CREATE TABLE api_keys (
    id                TEXT    NOT NULL PRIMARY KEY,
    name              TEXT    NOT NULL,
    role              TEXT    NOT NULL,
    owner             TEXT,
    -- 1 or 0.
    speaks_for_others INTEGER NOT NULL,
    -- The SHA-256 of the secret, in hex.
    hash              TEXT    NOT NULL,
    created_at_us     INTEGER NOT NULL,
    expires_at_us     INTEGER,
    revoked_at_us     INTEGER,
    last_used_at_us   INTEGER,
    CHECK (speaks_for_others IN (0, 1)),
    CHECK (LENGTH(hash) = 64)
) STRICT;

CREATE UNIQUE INDEX api_keys_by_name ON api_keys (name);
