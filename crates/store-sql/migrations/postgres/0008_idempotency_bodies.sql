-- One row per kept body that counts against what its caller may have kept. A table of its own: most
-- keys have none, and write nothing more than before.
CREATE TABLE idempotency_bodies (
    id     TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES idempotency_keys (id),
    caller TEXT COLLATE "C" NOT NULL,
    bytes  BIGINT           NOT NULL
);

CREATE INDEX idempotency_bodies_by_caller ON idempotency_bodies (caller, bytes);
