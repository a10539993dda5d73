-- name: generation_of_run
SELECT generation FROM runs WHERE id = $2 AND job_id = $1;

-- name: open
SELECT id FROM verifications WHERE job_id = $1 AND state IN ('queued', 'running');

-- name: settled
-- $3: of one run only. `sequences`: how many settled chunks there were, whatever retention has left of their records.
SELECT count(*) FILTER (WHERE $3::uuid IS NULL OR c.run_id = $3) AS chunks, count(*) FILTER (WHERE c.ordinal >= 0) AS kept,
    coalesce(sum(c.rows) FILTER (WHERE $3::uuid IS NULL OR c.run_id = $3), 0)::bigint AS rows,
    (SELECT coalesce(sum(sequence), 0) FROM splits WHERE job_id = $1 AND generation = $2)::bigint AS sequences,
    (SELECT planned_at IS NOT NULL FROM generations WHERE job_id = $1 AND number = $2) AS planned
FROM chunks c WHERE c.job_id = $1 AND c.generation = $2 AND c.state = 'settled';

-- name: insert
INSERT INTO verifications (id, account_id, job_id, job_name, generation, run_id, checksums, chunks_total, rows_total)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: ready_step
-- The step of an earlier verification of the generation is used again: its epoch only grows.
INSERT INTO steps (job_id, generation, kind, state) VALUES ($1, $2, 'verify', 'ready')
ON CONFLICT (job_id, generation, kind, ordinal) DO UPDATE SET state = 'ready', ready_at = clock_timestamp(),
    not_before = NULL, condition = NULL, owner = NULL, leased_until = NULL, epoch = steps.epoch + 1;

-- name: wake
SELECT pg_notify('rowferry_jobs', $1);

-- name: begin
-- By the lease of its step; the next holder finds it running already.
UPDATE verifications SET state = 'running', started_at = clock_timestamp()
WHERE job_id = $1 AND generation = $2 AND state = 'queued';

-- name: task
SELECT v.id, v.run_id, v.checksums, v.created_at, v.ordinal, v.sequence, v.chunks_done, v.rows_done, v.findings,
    NOT EXISTS (SELECT FROM generations g WHERE g.job_id = v.job_id AND g.number > v.generation
        AND g.planned_at IS NOT NULL) AS newest
FROM verifications v WHERE v.job_id = $1 AND v.generation = $2 AND v.state = 'running';

-- name: splits
SELECT s.ordinal, s.lower, s.upper, s.done_at <= $3 AS done, c.last_key
FROM splits s LEFT JOIN LATERAL (
    SELECT last_key FROM chunks c
    WHERE c.job_id = s.job_id AND c.generation = s.generation AND c.ordinal = s.ordinal AND c.state = 'settled'
        AND c.settled_at <= $3
    ORDER BY c.sequence DESC LIMIT 1
) c ON true
WHERE s.job_id = $1 AND s.generation = $2
UNION ALL
SELECT -r.number, NULL, NULL, false, NULL FROM retries r WHERE r.job_id = $1 AND r.generation = $2
ORDER BY ordinal;

-- name: dead_keys
SELECT key FROM dead_letters
WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND sequence = $4 AND final_at IS NOT NULL;

-- name: late_rows
SELECT coalesce(sum(rows_read), 0)::bigint FROM chunks
WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND state = 'settled' AND late;

-- name: chunks
SELECT c.ordinal, c.sequence, c.epoch, c.attempt, c.rows, c.bytes, c.first_key, c.last_key, c.lower, c.target,
    c.checksum, c.details, c.run_id, c.letters, c.late, coalesce(c.rows_dead, 0) AS rows_dead
FROM chunks c JOIN verifications v ON v.job_id = c.job_id AND v.generation = c.generation AND v.state = 'running'
WHERE c.job_id = $1 AND c.generation = $2 AND c.ordinal = $3 AND c.sequence > $4 AND c.state = 'settled'
    AND c.settled_at <= v.created_at AND (v.run_id IS NULL OR c.run_id = v.run_id)
ORDER BY c.sequence LIMIT $5;

-- name: progress
UPDATE verifications SET ordinal = $3, sequence = $4, chunks_done = $5, rows_done = $6, findings = $7
WHERE job_id = $1 AND generation = $2 AND state = 'running';

-- name: end
-- $3 the state; what was found so far stays.
UPDATE verifications SET state = $3, ended_at = clock_timestamp(), errors = $4
WHERE job_id = $1 AND ($2::int IS NULL OR generation = $2) AND state IN ('queued', 'running')
RETURNING id, state, findings;

-- name: end_steps
-- Whoever holds it is refused from now on.
UPDATE steps SET state = 'done', owner = NULL, leased_until = NULL, condition = NULL, epoch = epoch + 1
WHERE job_id = $1 AND kind = 'verify' AND state <> 'done';

-- name: select
SELECT v.id, v.job_id, v.job_name, v.generation, v.run_id, v.checksums, v.state, v.created_at, v.started_at, v.ended_at,
    v.chunks_done, v.chunks_total, v.rows_done, v.rows_total, v.findings, v.errors, s.condition
FROM verifications v
LEFT JOIN steps s ON s.job_id = v.job_id AND s.generation = v.generation AND s.kind = 'verify' AND s.state = 'leased'
    AND v.ended_at IS NULL
WHERE v.account_id = (SELECT id FROM accounts WHERE name = $1) AND v.job_id = $2 AND v.id = $3;
