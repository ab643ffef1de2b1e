-- Records are read from the newest back, so each list is in the order of its pages, and pruned from
-- the oldest on. They are written in batches, at the end of their table and near the end of each
-- list, so a batch touches few pages.

CREATE TABLE operation_audit (
    id         TEXT    NOT NULL,
    at_us      INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    sandbox    TEXT,
    owner      TEXT,
    tenant     TEXT,
    provider   TEXT    NOT NULL,
    resource   TEXT    NOT NULL,
    outcome    TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    request_id TEXT,
    PRIMARY KEY (at_us, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX operation_audit_by_actor ON operation_audit (actor, at_us, id);
CREATE INDEX operation_audit_by_sandbox ON operation_audit (sandbox, at_us, id)
    WHERE sandbox IS NOT NULL;
CREATE INDEX operation_audit_by_owner ON operation_audit (owner, at_us, id)
    WHERE owner IS NOT NULL;
CREATE INDEX operation_audit_failed ON operation_audit (at_us, id) WHERE outcome = 'failure';

CREATE TABLE admin_audit (
    id          TEXT    NOT NULL,
    at_us       INTEGER NOT NULL,
    actor       TEXT    NOT NULL,
    method      TEXT    NOT NULL,
    path        TEXT    NOT NULL,
    status      INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    request_id  TEXT    NOT NULL,
    remote_addr TEXT    NOT NULL,
    user_agent  TEXT    NOT NULL,
    tenant      TEXT,
    PRIMARY KEY (at_us, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX admin_audit_by_actor ON admin_audit (actor, at_us, id);

-- What was forgotten of the log of events: those with ids up to `value`.
INSERT INTO counters (name, value, reserved) VALUES ('events_pruned', 0, 0);

-- Records of commands are forgotten by age, whosever they are.
CREATE INDEX exec_logs_by_age ON exec_logs (at_us, id);
