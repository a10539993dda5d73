-- name: split
SELECT ordinal, lower, upper, tail, position, scanned_to, sequence, rows_read, anchored_at, done_at, windowed,
    window_floor
FROM splits WHERE job_id = $1 AND generation = $2 AND ordinal = $3;

-- name: splits
SELECT ordinal, lower, upper, tail, position, scanned_to, sequence, rows_read, anchored_at, done_at, windowed,
    window_floor
FROM splits WHERE job_id = $1 AND generation = $2 ORDER BY ordinal;

-- name: sequence
-- Of a split, or of a retry, whose chunks stand under the negative of its number.
SELECT sequence FROM splits WHERE job_id = $1 AND generation = $2 AND ordinal = $3
UNION ALL
SELECT sequence FROM retries WHERE job_id = $1 AND generation = $2 AND number = -$3::int;

-- name: prepared
-- Every stored try, in the order in which they were made. $3 null: of every split.
SELECT ordinal, sequence, epoch, attempt, rows, bytes, first_key, last_key, lower, target, checksum, details, run_id,
    letters, late
FROM chunks
WHERE job_id = $1 AND generation = $2 AND ordinal = coalesce($3, ordinal) AND state = 'prepared'
ORDER BY ordinal, sequence, epoch, attempt;

-- name: anchored
UPDATE splits SET anchored_at = clock_timestamp() WHERE job_id = $1 AND generation = $2 AND ordinal = $3;

-- name: prepare
INSERT INTO chunks (job_id, generation, ordinal, sequence, epoch, attempt, run_id, rows, bytes, first_key, last_key, lower,
    target, checksum, details, letters, late)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT DO NOTHING;

-- name: draw_number
-- $1 job, $2 generation, $3 ordinal, $4 sequence; under the lock of the job's row.
WITH drawn AS (
    INSERT INTO output_numbers (job_id, generation, ordinal, sequence, number)
    SELECT $1, $2, $3, $4, coalesce(max(number), 0) + 1 FROM output_numbers WHERE job_id = $1
    ON CONFLICT (job_id, generation, ordinal, sequence) DO NOTHING
    RETURNING number
)
SELECT number FROM drawn
UNION ALL
SELECT number FROM output_numbers WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND sequence = $4
LIMIT 1;

-- name: draw_version
SELECT nextval('chunk_versions');

-- name: same_try
-- What a prepare whose answer was lost finds: its own row, as it wrote it.
SELECT EXISTS (
    SELECT FROM chunks
    WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND sequence = $4 AND epoch = $5 AND attempt = $6
        AND state = 'prepared'
        AND (rows, bytes, first_key, last_key, lower, target, checksum, details, letters, late)
            IS NOT DISTINCT FROM ($7, $8, $9::jsonb, $10::jsonb, $11::jsonb, $12, $13, $14::jsonb, $15::jsonb, $16)
);

-- name: settle_chunk
-- $7 the run that counts it; without one (clean-up) the run that prepared it. $8 rows that were dead when the try was
-- prepared, $9 rows of it that the target refused since: those are not visible, whatever the try says. A clock that is
-- set back must not let a chunk fall into a day that is listed already.
WITH seen AS (
    UPDATE window_keys SET final = true
    WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND sequence = $4 AND epoch = $5 AND attempt = $6
)
UPDATE chunks SET state = 'settled', settled_at = greatest(clock_timestamp(), (
        SELECT (listed_through + 1)::timestamp AT TIME ZONE 'UTC' FROM generations
        WHERE job_id = $1 AND number = $2 AND finished_at IS NULL AND closed_at IS NULL
    )), run_id = coalesce($7, run_id), rows_read = rows + $8, rows = rows - $9, rows_dead = $8::bigint + $9,
    rows_maybe_doubled = $10, "partition" = $11, first_offset = $12, last_offset = $13, etag = $14
WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND sequence = $4 AND epoch = $5 AND attempt = $6
    AND state = 'prepared'
RETURNING rows, rows_read, rows_dead, bytes, last_key, run_id, letters, late;

-- name: drop_tries
WITH seen AS (
    DELETE FROM window_keys WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND NOT final
)
UPDATE chunks SET state = 'dropped', rows_maybe_doubled = $4
WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND state = 'prepared'
RETURNING run_id;

-- name: advance
-- A sink that keeps a position of its own has just written it with the chunk; one that was never anchored has none.
-- $8 rows that arrived late: they move nothing.
UPDATE splits SET position = CASE WHEN $8 THEN position ELSE $4 END,
    scanned_to = CASE WHEN $8 THEN scanned_to ELSE $5 END, sequence = $6, rows_read = rows_read + $7,
    anchored_at = CASE WHEN anchored_at IS NOT NULL THEN clock_timestamp() END
WHERE job_id = $1 AND generation = $2 AND ordinal = $3;

-- name: bury
-- Rows that were all set aside: no sequence is taken for them. $7 rows that arrived late: they move nothing.
UPDATE splits SET position = CASE WHEN $7 THEN position ELSE $4 END,
    scanned_to = CASE WHEN $7 THEN scanned_to ELSE $5 END, rows_read = rows_read + $6
WHERE job_id = $1 AND generation = $2 AND ordinal = $3;

-- name: scan
UPDATE splits SET scanned_to = $4, rows_read = rows_read + $5
WHERE job_id = $1 AND generation = $2 AND ordinal = $3;

-- name: last_id
-- The first unfinished split says how far everything is durable; with none, the last split does.
SELECT coalesce(position, lower) AS key FROM splits WHERE job_id = $1 AND generation = $2
ORDER BY done_at IS NOT NULL, CASE WHEN done_at IS NULL THEN ordinal ELSE -ordinal END LIMIT 1;

-- name: show_last_id
UPDATE jobs SET last_id = $2 WHERE id = $1 AND last_id IS DISTINCT FROM $2::jsonb;

-- name: count_job
UPDATE jobs SET totals_rows_read = totals_rows_read + $2, totals_rows_sent = totals_rows_sent + $3,
    totals_rows_dead = totals_rows_dead + $4, totals_bytes_sent = totals_bytes_sent + $5,
    last_progress_at = clock_timestamp()
WHERE id = $1;

-- name: count_run
UPDATE runs SET rows_read = rows_read + $2, rows_sent = rows_sent + $3, rows_dead = rows_dead + $4,
    bytes_sent = bytes_sent + $5, rows_maybe_doubled = rows_maybe_doubled + $6
WHERE id = $1;

-- name: show_run_last_id
-- A run that delivered nothing has none, whatever the job's position.
UPDATE runs SET last_id = $2 WHERE id = $1 AND rows_sent > 0;

-- name: settled_condition
-- It moves: retrying and waiting are over; horizon and lag stay until the next report.
UPDATE steps SET condition = nullif(condition - 'retrying' - 'waiting_for', '{}')
WHERE job_id = $1 AND generation = $2 AND kind = $3 AND ordinal = $4
    AND (condition ? 'retrying' OR condition ? 'waiting_for');

-- name: end_split
UPDATE splits SET done_at = clock_timestamp(), scanned_to = coalesce($4, scanned_to)
WHERE job_id = $1 AND generation = $2 AND ordinal = $3;

-- name: count_split
UPDATE runs SET splits_done = splits_done + 1 WHERE id = $1;

-- name: end_plan_that_held
-- The plan step of a generation that is read in one snapshot holds it until nobody reads by it any more. The epoch
-- stays: so its holder hears that the step was ended, not lost.
UPDATE steps SET state = 'done', owner = NULL, leased_until = NULL, condition = NULL
WHERE job_id = $1 AND generation = $2 AND kind = 'plan' AND state <> 'done'
    AND NOT EXISTS (SELECT FROM splits WHERE job_id = $1 AND generation = $2 AND done_at IS NULL);

-- name: ready_next
-- With every bounded split done the tail is ready; with every split done, the finish step.
WITH left_over AS (
    SELECT count(*) AS splits, count(*) FILTER (WHERE NOT tail) AS bounded FROM splits
    WHERE job_id = $1 AND generation = $2 AND done_at IS NULL
)
UPDATE steps s SET state = 'ready', ready_at = clock_timestamp()
FROM left_over
WHERE s.job_id = $1 AND s.generation = $2 AND s.state = 'waiting'
    AND (s.kind = 'split' AND left_over.bounded = 0 OR s.kind = 'finish' AND left_over.splits = 0);

-- name: settled_page
-- Of the splits: what retries have sent is no part of it.
SELECT ordinal, sequence, epoch, attempt, rows, bytes, first_key, last_key, lower, target, checksum, details, run_id,
    letters, late
FROM chunks
WHERE job_id = $1 AND generation = $2 AND state = 'settled' AND (ordinal, sequence) > ($3, $4)
ORDER BY ordinal, sequence LIMIT $5;
