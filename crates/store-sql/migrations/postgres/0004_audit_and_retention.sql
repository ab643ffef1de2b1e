-- Records are read from the newest back, so each list is in the order of its pages, and pruned from
-- the oldest on. They are written in batches, at the end of their table and near the end of each
-- list, so a batch touches few pages.

CREATE TABLE operation_audit (
    id         TEXT COLLATE "C" NOT NULL,
    at_us      BIGINT           NOT NULL,
    actor      TEXT COLLATE "C" NOT NULL,
    action     TEXT COLLATE "C" NOT NULL,
    sandbox    TEXT COLLATE "C",
    owner      TEXT COLLATE "C",
    tenant     TEXT COLLATE "C",
    provider   TEXT COLLATE "C" NOT NULL,
    resource   TEXT COLLATE "C" NOT NULL,
    outcome    TEXT COLLATE "C" NOT NULL,
    detail     TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C",
    PRIMARY KEY (at_us, id)
);

CREATE INDEX operation_audit_by_actor ON operation_audit (actor, at_us, id);
CREATE INDEX operation_audit_by_sandbox ON operation_audit (sandbox, at_us, id)
    WHERE sandbox IS NOT NULL;
CREATE INDEX operation_audit_by_owner ON operation_audit (owner, at_us, id)
    WHERE owner IS NOT NULL;
CREATE INDEX operation_audit_failed ON operation_audit (at_us, id) WHERE outcome = 'failure';

CREATE TABLE admin_audit (
    id          TEXT COLLATE "C" NOT NULL,
    at_us       BIGINT           NOT NULL,
    actor       TEXT COLLATE "C" NOT NULL,
    method      TEXT COLLATE "C" NOT NULL,
    path        TEXT COLLATE "C" NOT NULL,
    status      BIGINT           NOT NULL,
    duration_us BIGINT           NOT NULL,
    request_id  TEXT COLLATE "C" NOT NULL,
    remote_addr TEXT COLLATE "C" NOT NULL,
    user_agent  TEXT COLLATE "C" NOT NULL,
    tenant      TEXT COLLATE "C",
    PRIMARY KEY (at_us, id)
);

CREATE INDEX admin_audit_by_actor ON admin_audit (actor, at_us, id);

-- What was forgotten of the log of events: those with ids up to `value`.
INSERT INTO counters (name, value, reserved) VALUES ('events_pruned', 0, 0);

-- Records of commands are forgotten by age, whosever they are.
CREATE INDEX exec_logs_by_age ON exec_logs (at_us, id);
