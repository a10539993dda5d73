-- What is due, by the database's clock: services whose own clocks differ agree on it.

-- name: due
-- now() and not clock_timestamp(): an index is not asked with what changes from row to row.
SELECT j.id, a.name AS account, j.next_run_at
  FROM jobs j JOIN accounts a ON a.id = j.account_id
 WHERE j.next_run_at <= now() AND j.removed_at IS NULL
 ORDER BY j.next_run_at
 LIMIT $1

-- name: until_due
-- Seconds; below zero when something is due already.
SELECT extract(epoch FROM min(next_run_at) - now())::float8 FROM jobs WHERE next_run_at IS NOT NULL

-- name: now
SELECT clock_timestamp()

-- name: set_next_run
UPDATE jobs SET next_run_at = $2 WHERE id = $1

-- name: count_skipped
-- $1 job, $2 ticks, $3 whether an event tells them
UPDATE jobs
   SET ticks_skipped = CASE WHEN $3 THEN 0 ELSE ticks_skipped + $2 END,
       tick_told_at = CASE WHEN $3 THEN clock_timestamp() ELSE tick_told_at END
 WHERE id = $1

-- name: forget_skipped
UPDATE jobs SET ticks_skipped = 0, tick_told_at = NULL
 WHERE id = $1 AND (ticks_skipped > 0 OR tick_told_at IS NOT NULL)
