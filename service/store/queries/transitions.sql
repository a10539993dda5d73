-- name: lock_job
-- Every transaction that changes a job, a split or a step begins with this, so that what it then reads is not changed
-- under it: without it the last two splits both see "not all done", and the run never ends.
SELECT id, account_id, name, state, generation, run_id, remove_when_ended, removed_at
FROM jobs WHERE id = $1 FOR UPDATE;

-- name: move
-- $1 job, $2 from, $3 to, $4 desired, $5 reason, $6 errors, $7 the run that starts, $8 to is final
UPDATE jobs SET
    state = $3,
    desired = $4,
    reason = CASE WHEN $7::uuid IS NULL THEN coalesce($5, reason) ELSE $5 END,
    errors = CASE WHEN $7::uuid IS NULL THEN coalesce($6, errors) ELSE '[]' END,
    run_id = coalesce($7, run_id),
    run_number = run_number + ($7::uuid IS NOT NULL)::int,
    totals_runs = totals_runs + ($7::uuid IS NOT NULL)::int,
    generation_unrun = generation_unrun AND $7::uuid IS NULL,
    run_deadline = CASE
        WHEN $7::uuid IS NOT NULL
            THEN clock_timestamp() + make_interval(secs => (spec #>> '{options,timeout_seconds}')::float8)
        WHEN NOT $8 THEN run_deadline END,
    stop_deadline = CASE WHEN $3 IN ('stopping', 'failing') THEN coalesce(stop_deadline, clock_timestamp()
        + make_interval(secs => coalesce((spec #>> '{options,stop_timeout_seconds}')::float8, 30))) END,
    waiting_for = CASE WHEN NOT $8 THEN waiting_for END,
    retrying = CASE WHEN NOT $8 THEN retrying END,
    horizon = CASE WHEN NOT $8 THEN horizon END,
    lag = CASE WHEN NOT $8 THEN lag END,
    last_progress_at = CASE WHEN $7::uuid IS NULL THEN last_progress_at ELSE clock_timestamp() END
WHERE id = $1 AND state = $2
RETURNING id, account_id, name, state, generation, run_id, run_number, remove_when_ended;

-- name: begin_run
-- $1 run, $2 job, $3 trigger. A run goes on with its generation, so what earlier runs have done of it is counted as done.
INSERT INTO runs (id, account_id, job_id, job_name, number, generation, trigger, state, mode, sink, datasource, labels,
    splits_done, splits_total, estimated_rows)
SELECT $1, j.account_id, j.id, j.name, j.run_number, j.generation, $3, j.state, j.mode, j.sink_kind, j.datasource,
    j.labels, s.done, s.total, g.estimated_rows
FROM jobs j
LEFT JOIN generations g ON g.job_id = j.id AND g.number = j.generation
CROSS JOIN LATERAL (
    SELECT count(*) AS total, count(done_at) AS done FROM splits WHERE job_id = j.id AND generation = j.generation
) s
WHERE j.id = $2;

-- name: queue_steps
-- Steps are claimed in the order in which their jobs were started, not in that of their making.
UPDATE steps SET ready_at = clock_timestamp(), not_before = NULL, condition = NULL
WHERE job_id = $1 AND generation = $2 AND state = 'ready';

-- name: move_run
-- $1 run, $2 state, $3 final, $4 errors
UPDATE runs SET state = $2, ended_at = CASE WHEN $3 THEN clock_timestamp() END, errors = coalesce($4, errors)
WHERE id = $1 AND ended_at IS NULL;

-- name: record_event
INSERT INTO events (account_id, event, job_id, job_name, run_id, actor, origin, request_id, state_from, state_to, details)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: has_leased_step
-- Clean-up, retries and verifications are no part of a run.
SELECT EXISTS (SELECT FROM steps WHERE job_id = $1 AND state = 'leased' AND kind NOT IN ('clean_up', 'retry', 'verify'));

-- name: retire
UPDATE jobs SET removed_at = clock_timestamp(), desired = NULL, next_run_at = NULL
WHERE id = $1 AND removed_at IS NULL AND state = ANY ($2);

-- name: ready_clean_up
-- A generation without splits has opened nothing in the sink; one that was closed and fenced has been cleaned up by its
-- successor's plan step, but for its retries.
INSERT INTO steps (job_id, generation, kind, state)
SELECT g.job_id, g.number, 'clean_up', 'ready' FROM generations g
WHERE g.job_id = $1 AND NOT (g.closed_at IS NOT NULL AND g.fenced
        AND NOT EXISTS (SELECT FROM retries t WHERE t.job_id = g.job_id AND t.generation = g.number))
    AND EXISTS (SELECT FROM splits s WHERE s.job_id = g.job_id AND s.generation = g.number);

-- name: end_retries
-- The job is removed: whoever holds a retry has lost it, and sends nothing any more.
UPDATE steps SET state = 'done', epoch = epoch + 1, owner = NULL, leased_until = NULL, condition = NULL
WHERE job_id = $1 AND kind = 'retry' AND state <> 'done';

-- name: delete_job
DELETE FROM jobs WHERE id = $1;
