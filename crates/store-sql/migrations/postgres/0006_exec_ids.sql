-- The id of a command may be its client's choice, so it names a command of one sandbox only.
DROP INDEX exec_logs_by_id;
CREATE UNIQUE INDEX exec_logs_by_id ON exec_logs (sandbox, id);
