-- API keys without their secrets. Keys are revoked and not deleted: records name them.
CREATE TABLE api_keys (
    id                TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name              TEXT COLLATE "C" NOT NULL,
    role              TEXT COLLATE "C" NOT NULL,
    owner             TEXT COLLATE "C",
    -- 1 or 0.
    speaks_for_others BIGINT           NOT NULL,
    -- The SHA-256 of the secret, in hex.
    hash              TEXT COLLATE "C" NOT NULL,
    created_at_us     BIGINT           NOT NULL,
    expires_at_us     BIGINT,
    revoked_at_us     BIGINT,
    last_used_at_us   BIGINT,
    CHECK (speaks_for_others IN (0, 1)),
    CHECK (LENGTH(hash) = 64)
);

CREATE UNIQUE INDEX api_keys_by_name ON api_keys (name);
