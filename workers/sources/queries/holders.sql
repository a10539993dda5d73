-- Who may still commit a row to these relations, or holds a value drawn from these sequences. By virtual transaction:
-- a prepared transaction has no pid. RowExclusiveLock is what writing takes and what nextval keeps on the sequence;
-- a VACUUM takes another lock and must not hold the reader back.
SELECT virtualtransaction AS vxid, min(pid) AS pid
FROM pg_locks
WHERE locktype = 'relation'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation = ANY ($1::oid[])
  AND mode = 'RowExclusiveLock'
  AND granted
  AND pid IS DISTINCT FROM pg_backend_pid()
GROUP BY virtualtransaction
