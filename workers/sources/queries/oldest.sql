-- The beginning of the oldest transaction that may still write a row dated by it, and whether this role sees all of
-- them. Left out: who can not write to a table (this session, autovacuum, base backups), and a single maintenance
-- statement outside a transaction block, which began with its transaction: nothing comes after it in there.
SELECT min(a.xact_start)
FROM pg_stat_activity a
WHERE a.datname = current_database()
  AND a.pid <> pg_backend_pid()
  AND a.backend_type NOT IN ('autovacuum worker', 'walsender')
  AND NOT (a.state = 'active' AND a.xact_start = a.query_start AND length(a.query) < 1000
           AND a.query ~* '^\s*(vacuum|analyze|reindex|cluster|create\s+(unique\s+)?index)\y[^;]*;?\s*$')
