-- What a split that looks back remembers (options.late_window): parts of keys, with a try, final with its settle.

-- name: insert
-- $1 job, $2 generation, $3 ordinal, $4 sequence, $5 epoch, $6 attempt, $7 final, then the parts as columns.
INSERT INTO window_keys (job_id, generation, ordinal, sequence, epoch, attempt, final, number, keys, last_key, packed)
SELECT $1, $2, $3, $4, $5, $6, $7, p.number, p.keys, p.last_key::jsonb, p.packed
FROM unnest($8::bigint[], $9::integer[], $10::text[], $11::bytea[]) AS p (number, keys, last_key, packed);

-- name: parts
-- $3 null: of every split.
SELECT ordinal, number, sequence, epoch, attempt, final, keys, last_key, packed FROM window_keys
WHERE job_id = $1 AND generation = $2 AND ordinal = coalesce($3, ordinal) ORDER BY ordinal, number;

-- name: move
UPDATE splits SET window_floor = $4 WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND windowed;

-- name: forget
DELETE FROM window_keys
WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND final AND number = ANY ($4::bigint[]);

-- name: open
-- The last split looks back, from its lower bound on, or from where the generation $3 did.
UPDATE splits s SET windowed = true, window_floor = CASE WHEN $3::int IS NULL THEN s.lower ELSE (
        SELECT o.window_floor FROM splits o WHERE o.job_id = $1 AND o.generation = $3 AND o.windowed
    ) END
WHERE s.job_id = $1 AND s.generation = $2
    AND s.ordinal = (SELECT max(l.ordinal) FROM splits l WHERE l.job_id = $1 AND l.generation = $2)
RETURNING s.ordinal;

-- name: inherit
UPDATE window_keys SET generation = $2, ordinal = $4 WHERE job_id = $1 AND generation = $3 AND final;

-- name: forget_others
DELETE FROM window_keys WHERE job_id = $1 AND generation <> $2;

-- name: count_job
UPDATE jobs SET totals_rows_late = totals_rows_late + $2 WHERE id = $1;

-- name: count_run
UPDATE runs SET rows_late = rows_late + $2 WHERE id = $1;
