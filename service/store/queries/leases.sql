-- name: holds
-- A statement of its own after the lock of the job's row: in one statement with it, steps would be read as they were
-- before the wait for the lock.
SELECT EXISTS (
    SELECT FROM steps
    WHERE job_id = $1 AND generation = $2 AND kind = $3 AND ordinal = $4 AND epoch = $5 AND owner = $6
        AND state = 'leased'
);

-- name: candidates
-- Looked for without locks; `take` decides. The jobs that want to run are few (a partial index), however many ready
-- steps of stopped jobs there are.
SELECT job_id, generation, kind, ordinal FROM (
    SELECT s.job_id, s.generation, s.kind, s.ordinal, s.ready_at
    FROM jobs j JOIN steps s ON s.job_id = j.id AND s.generation = j.generation
    WHERE j.desired = 'run' AND j.state IN ('queued', 'running') AND j.removed_at IS NULL
        AND s.state = 'ready' AND s.kind = ANY ($1) AND s.kind NOT IN ('clean_up', 'retry', 'verify')
        AND ($3::text[] IS NULL OR s.job_id = ANY ($3::text[]::uuid[]))
        AND (s.not_before IS NULL OR s.not_before <= now())
    UNION ALL
    SELECT job_id, generation, kind, ordinal, ready_at FROM steps
    WHERE state = 'ready' AND kind = 'clean_up' AND kind = ANY ($1) AND (not_before IS NULL OR not_before <= now())
    UNION ALL
    SELECT job_id, generation, kind, ordinal, ready_at FROM steps
    WHERE state = 'ready' AND kind = 'retry' AND kind = ANY ($1) AND (not_before IS NULL OR not_before <= now())
    UNION ALL
    SELECT job_id, generation, kind, ordinal, ready_at FROM steps
    WHERE state = 'ready' AND kind = 'verify' AND kind = ANY ($1) AND (not_before IS NULL OR not_before <= now())
) found
ORDER BY ready_at, job_id, generation, ordinal LIMIT $2;

-- name: lock_job_unless_busy
SELECT id, account_id, name, state, generation, run_id, remove_when_ended, removed_at
FROM jobs WHERE id = $1 FOR UPDATE SKIP LOCKED;

-- name: take
UPDATE steps s SET
    state = 'leased', epoch = s.epoch + 1, owner = $5, leased_until = clock_timestamp() + make_interval(secs => $6),
    not_before = NULL, condition = NULL
FROM jobs j
WHERE j.id = s.job_id AND s.job_id = $1 AND s.generation = $2 AND s.kind = $3 AND s.ordinal = $4 AND s.state = 'ready'
    AND (s.not_before IS NULL OR s.not_before <= clock_timestamp())
    AND CASE WHEN s.kind = 'clean_up' THEN j.removed_at IS NOT NULL
        WHEN s.kind IN ('retry', 'verify') THEN j.removed_at IS NULL
        ELSE j.removed_at IS NULL AND j.desired = 'run'
        AND j.state IN ('queued', 'running') AND j.generation = s.generation END
RETURNING s.epoch;

-- name: work
-- What the holder of a fresh lease needs to know.
SELECT a.name AS account, j.name AS job_name, j.run_id, j.run_number, g.spec, g.secrets, g.target
FROM jobs j
JOIN accounts a ON a.id = j.account_id
JOIN generations g ON g.job_id = j.id AND g.number = $2
WHERE j.id = $1;

-- name: renew
-- One statement for all leases of a process, and the one write of a step without the lock of its job's row: it must get
-- through while that row is busy, or a long queue there would cost healthy holders their leases. It is safe because
-- state, epoch and owner are checked under the lock of the step's own row, and because it changes nothing but
-- leased_until: whoever frees the step looks at leased_until under the same lock. Rows are locked in the order of their
-- key, as everywhere, so that two statements never wait for each other. State and options are those of now, not of the
-- generation's snapshot. A limit of the whole job is shared by the processes that hold its splits, by their numbers.
-- The arrays come as texts: of any other array every new connection would first ask the server what it is.
WITH asked AS (
    SELECT * FROM unnest(
        $1::text[]::uuid[], $2::text[]::int[], $3::text[], $4::text[]::int[], $5::text[]::bigint[], $6::text[]
    ) WITH ORDINALITY AS a (job_id, generation, kind, ordinal, epoch, owner, place)
), held AS (
    SELECT s.job_id, s.generation, s.kind, s.ordinal, a.place
    FROM steps s JOIN asked a USING (job_id, generation, kind, ordinal)
    WHERE s.state = 'leased' AND s.epoch = a.epoch AND s.owner = a.owner
    ORDER BY s.job_id, s.generation, s.kind, s.ordinal
    FOR UPDATE OF s
), renewed AS (
    UPDATE steps s SET leased_until = clock_timestamp() + make_interval(secs => $7)
    FROM held h
    WHERE (s.job_id, s.generation, s.kind, s.ordinal) = (h.job_id, h.generation, h.kind, h.ordinal)
    RETURNING h.place
)
SELECT r.place IS NOT NULL AS valid, j.state, extract(epoch FROM j.stop_deadline - clock_timestamp())::float8 AS stop_in,
    (j.spec #>> '{options,rate,rows_per_second}')::float8 AS rows_per_second,
    (j.spec #>> '{options,rate,bytes_per_second}')::float8 AS bytes_per_second,
    (j.spec #>> '{options,retry,max_without_progress_seconds}')::float8 AS patience,
    (j.spec #>> '{options,ease,active_sessions}')::int AS active_sessions,
    share.own, share.of_all,
    r.place IS NULL AND EXISTS (
        SELECT FROM steps d WHERE d.job_id = a.job_id AND d.generation = a.generation AND d.kind = a.kind
            AND d.ordinal = a.ordinal AND d.state = 'done' AND d.epoch = a.epoch
    ) AS ended
FROM asked a LEFT JOIN renewed r USING (place) LEFT JOIN jobs j ON j.id = a.job_id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE l.owner = a.owner) AS own, count(*) AS of_all
    FROM steps l WHERE l.job_id = a.job_id AND l.state = 'leased' AND l.kind = 'split'
) share
ORDER BY a.place;

-- name: directive
-- As `renew` answers, for a lease that is known to be held.
SELECT true AS valid, j.state, extract(epoch FROM j.stop_deadline - clock_timestamp())::float8 AS stop_in,
    (j.spec #>> '{options,rate,rows_per_second}')::float8 AS rows_per_second,
    (j.spec #>> '{options,rate,bytes_per_second}')::float8 AS bytes_per_second,
    (j.spec #>> '{options,retry,max_without_progress_seconds}')::float8 AS patience,
    (j.spec #>> '{options,ease,active_sessions}')::int AS active_sessions,
    share.own, share.of_all, false AS ended
FROM jobs j
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE l.owner = $2) AS own, count(*) AS of_all
    FROM steps l WHERE l.job_id = j.id AND l.state = 'leased' AND l.kind = 'split'
) share
WHERE j.id = $1;

-- name: give_back
UPDATE steps SET state = 'ready', owner = NULL, leased_until = NULL, condition = NULL, ready_at = clock_timestamp(),
    not_before = clock_timestamp() + make_interval(secs => $5)
WHERE job_id = $1 AND generation = $2 AND kind = $3 AND ordinal = $4;

-- name: set_reason
UPDATE jobs SET reason = $2 WHERE id = $1;

-- name: set_condition
UPDATE steps SET condition = $5 WHERE job_id = $1 AND generation = $2 AND kind = $3 AND ordinal = $4;

-- name: conditions
-- A verification shows its own.
SELECT condition FROM steps WHERE job_id = $1 AND state = 'leased' AND kind <> 'verify' AND condition IS NOT NULL
ORDER BY kind, ordinal;

-- name: show_condition
-- Only when something else is to be shown: every update of a job wakes whoever waits for it.
UPDATE jobs SET waiting_for = $2, retrying = $3, horizon = $4, lag = $5
WHERE id = $1 AND (waiting_for, retrying, horizon, lag) IS DISTINCT FROM ($2, $3::jsonb, $4::jsonb, $5::jsonb);

-- name: note_progress
-- To the second, for the same reason.
UPDATE jobs SET last_progress_at = clock_timestamp()
WHERE id = $1 AND (last_progress_at IS NULL OR last_progress_at < clock_timestamp() - interval '1 second');

-- name: due
-- Four short looks into partial indexes, for every process at any time. now() rather than clock_timestamp(), which no
-- index can answer.
SELECT job_id AS id FROM steps WHERE state = 'leased' AND leased_until < now()
UNION
SELECT j.id FROM jobs j WHERE j.state IN ('stopping', 'aborting', 'failing') AND (j.stop_deadline < now()
    OR NOT EXISTS (SELECT FROM steps s WHERE s.job_id = j.id AND s.state = 'leased'
        AND s.kind NOT IN ('clean_up', 'retry', 'verify')))
UNION
SELECT id FROM jobs WHERE run_deadline IS NOT NULL AND state = 'running' AND run_deadline < now();

-- name: overdue
SELECT stop_deadline IS NOT NULL AND stop_deadline < clock_timestamp() AND state IN ('stopping', 'failing') AS stop,
    run_deadline IS NOT NULL AND run_deadline < clock_timestamp() AND state = 'running' AS run,
    clock_timestamp() AS now,
    coalesce((spec #>> '{options,stop_timeout_seconds}')::float8, 30) AS stop_seconds,
    (spec #>> '{options,timeout_seconds}')::float8 AS run_seconds
FROM jobs WHERE id = $1;

-- name: free
-- $2: also leases that have not run out. The epoch is raised here already: whoever held the step is refused from now
-- on, not only from the next lease on.
WITH old AS (
    SELECT job_id, generation, kind, ordinal, owner, epoch FROM steps
    WHERE job_id = $1 AND state = 'leased'
        AND (leased_until < clock_timestamp() OR ($2 AND kind NOT IN ('clean_up', 'retry', 'verify')))
    ORDER BY job_id, generation, kind, ordinal
    FOR UPDATE
)
UPDATE steps s SET state = 'ready', owner = NULL, leased_until = NULL, condition = NULL, epoch = s.epoch + 1,
    ready_at = clock_timestamp()
FROM old o
WHERE (s.job_id, s.generation, s.kind, s.ordinal) = (o.job_id, o.generation, o.kind, o.ordinal)
RETURNING s.generation, s.kind, s.ordinal, o.owner, o.epoch;

-- name: end_step
UPDATE steps SET state = 'done', owner = NULL, leased_until = NULL, condition = NULL
WHERE job_id = $1 AND generation = $2 AND kind = $3 AND ordinal = $4;

-- name: end_generation
UPDATE generations SET finished_at = clock_timestamp() WHERE job_id = $1 AND number = $2;

-- name: clean_up_left
SELECT count(*) FROM steps WHERE job_id = $1 AND kind = 'clean_up' AND state <> 'done';

-- name: clean_up_too_old
SELECT removed_at < clock_timestamp() - make_interval(hours => $2) FROM jobs WHERE id = $1;

-- name: prepared_left
SELECT EXISTS (SELECT FROM chunks WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND state = 'prepared');

-- name: now
SELECT clock_timestamp();
