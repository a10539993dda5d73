-- name: generation
SELECT number, begins, ranges, bound, planned_at IS NOT NULL AS planned,
    closed_at IS NOT NULL OR finished_at IS NOT NULL AS closed, spec, secrets, target,
    (SELECT max(settled_at) FROM chunks
     WHERE job_id = $1 AND generation = $2 AND state = 'settled' AND rows > 0) AS delivered_at
FROM generations WHERE job_id = $1 AND number = $2;

-- name: epochs
SELECT kind, ordinal, epoch FROM steps WHERE job_id = $1 AND generation = $2 AND kind IN ('split', 'retry');

-- name: fence_epoch
-- No lease survives it, though there should be none: a new generation is made only while nothing runs.
UPDATE steps SET epoch = epoch + 1, state = CASE WHEN state = 'leased' THEN 'ready' ELSE state END, owner = NULL,
    leased_until = NULL
WHERE job_id = $1 AND generation = $2 AND kind = 'split' AND ordinal = $3
RETURNING epoch;

-- name: split_epoch
SELECT epoch FROM steps WHERE job_id = $1 AND generation = $2 AND kind = 'split' AND ordinal = $3;

-- name: close_generation
UPDATE generations SET closed_at = clock_timestamp(), fenced = $3
WHERE job_id = $1 AND number = $2 AND closed_at IS NULL;

-- name: insert_splits
-- $3 [[lower, upper], ...]
INSERT INTO splits (job_id, generation, ordinal, lower, upper, tail)
SELECT $1, $2, place - 1, nullif(range -> 0, 'null'), nullif(range -> 1, 'null'), $4 AND place = jsonb_array_length($3)
FROM jsonb_array_elements($3::jsonb) WITH ORDINALITY AS given (range, place);

-- name: insert_split_steps
-- A tail behind bounded splits waits for them.
INSERT INTO steps (job_id, generation, kind, ordinal, state)
SELECT job_id, generation, 'split', ordinal, CASE WHEN tail AND ordinal > 0 THEN 'waiting' ELSE 'ready' END
FROM splits WHERE job_id = $1 AND generation = $2;

-- name: insert_finish_step
INSERT INTO steps (job_id, generation, kind, state)
SELECT $1, $2, 'finish', CASE WHEN $3 = 0 THEN 'ready' ELSE 'waiting' END;

-- name: planned
UPDATE generations SET planned_at = clock_timestamp(), bound = $3, estimated_rows = $4, target = $5
WHERE job_id = $1 AND number = $2;

-- name: keep_of_source
UPDATE generations SET target = target || $3::jsonb WHERE job_id = $1 AND number = $2
    AND target IS DISTINCT FROM target || $3::jsonb;

-- name: promised
UPDATE jobs SET guarantee = $2, guarantee_note = $3
WHERE id = $1 AND (guarantee, guarantee_note) IS DISTINCT FROM ($2, $3);

-- name: plan_of_run
UPDATE runs SET splits_total = $2, estimated_rows = $3 WHERE id = $1;

-- name: keeps_position_of
-- The job's position is that of the newest planned generation as long as its successor, which begins there, has no
-- splits of its own. Generations that were never planned may lie between.
SELECT EXISTS (
    SELECT FROM generations
    WHERE job_id = $1 AND number = $2 AND begins = 'keep' AND planned_at IS NULL
) AND NOT EXISTS (
    SELECT FROM generations WHERE job_id = $1 AND number > $3 AND number < $2 AND planned_at IS NOT NULL
);

-- name: split_leased
SELECT EXISTS (SELECT FROM steps WHERE job_id = $1 AND generation = $2 AND kind = 'split' AND state = 'leased');
