-- One row per kept body that counts against what its caller may have kept. A table of its own: most
-- keys have none, and write nothing more than before.
CREATE TABLE idempotency_bodies (
    id     TEXT    NOT NULL PRIMARY KEY REFERENCES idempotency_keys (id),
    caller TEXT    NOT NULL,
    bytes  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_bodies_by_caller ON idempotency_bodies (caller, bytes);
