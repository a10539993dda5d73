-- What is deleted when its time is over, a batch a statement: no delete holds locks for long or writes a burst.

-- name: runs
DELETE FROM runs WHERE id IN (
    SELECT id FROM runs WHERE ended_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)

-- name: verifications
DELETE FROM verifications WHERE id IN (
    SELECT id FROM verifications WHERE ended_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)

-- name: log
DELETE FROM log WHERE seq IN (
    SELECT seq FROM log WHERE at < clock_timestamp() - make_interval(secs => $1) ORDER BY at LIMIT $2)

-- name: events
DELETE FROM events WHERE id IN (
    SELECT id FROM events WHERE at < clock_timestamp() - make_interval(secs => $1) ORDER BY at LIMIT $2)

-- name: settled_chunks
-- Only of generations whose finish step is settled, or that a successor has closed so that it never will be, and of the
-- listed days of continuous ones: manifests and closing checks read them. A prepared one is what the next owner goes by,
-- and is never touched.
DELETE FROM chunks d USING (
    SELECT c.ctid AS place
      FROM generations g
      JOIN chunks c ON c.job_id = g.job_id AND c.generation = g.number
     WHERE (g.finished_at IS NOT NULL OR g.closed_at IS NOT NULL
            OR c.settled_at < (g.listed_through + 1)::timestamp AT TIME ZONE 'UTC') AND c.state = 'settled'
       AND c.settled_at < clock_timestamp() - make_interval(secs => $1)
     LIMIT $2
       FOR UPDATE OF c SKIP LOCKED) old
 WHERE d.ctid = old.place

-- name: dropped_chunks
DELETE FROM chunks d USING (
    SELECT c.ctid AS place
      FROM generations g
      JOIN chunks c ON c.job_id = g.job_id AND c.generation = g.number
     WHERE (g.finished_at IS NOT NULL OR g.closed_at IS NOT NULL
            OR c.prepared_at < (g.listed_through + 1)::timestamp AT TIME ZONE 'UTC') AND c.state = 'dropped'
       AND c.prepared_at < clock_timestamp() - make_interval(secs => $1)
     LIMIT $2
       FOR UPDATE OF c SKIP LOCKED) old
 WHERE d.ctid = old.place

-- name: idempotency
DELETE FROM idempotency WHERE (account_id, key) IN (
    SELECT account_id, key FROM idempotency WHERE created_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
