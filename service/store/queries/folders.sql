-- name: lock_folders
-- Of two starts at once the second looks when the first is committed: this is held until the end of the transaction,
-- and always taken after the job's row.
SELECT pg_advisory_xact_lock(hashtext('rowferry folders ' || $1::text))

-- name: live_sinks
SELECT id, name, state, spec -> 'sink' AS sink FROM jobs
WHERE account_id = $1 AND sink_kind = $2 AND id <> $3 AND removed_at IS NULL
    AND state IN ('queued', 'running', 'stopping', 'aborting', 'failing')
ORDER BY created_at, id
