-- Rows that could not be delivered: kept with a try, final with its settle.

-- name: room
-- What the run has read and set aside, with what the prepared chunks of its other splits will add; and the limits as
-- they are now.
SELECT coalesce((j.spec #>> '{options,dead_letters,max_rows}')::bigint, 0) AS max_rows,
       (j.spec #>> '{options,dead_letters,max_ratio}')::float8 AS max_ratio,
       coalesce(r.rows_read, 0) AS read,
       coalesce(r.rows_dead, 0) + (
           SELECT count(DISTINCT (d.ordinal, d.key)) FROM dead_letters d
            WHERE d.job_id = $1 AND d.generation = $2 AND d.ordinal <> $3 AND d.final_at IS NULL) AS dead
  FROM jobs j LEFT JOIN runs r ON r.id = $4
 WHERE j.id = $1

-- name: insert
-- $7 run, $8 final, then the letters as columns.
INSERT INTO dead_letters (id, job_id, generation, ordinal, sequence, epoch, attempt, run_id, final_at, key, code, message,
    payload, payload_bytes, message_key, version)
SELECT l.id, $1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN clock_timestamp() END, l.key::jsonb, l.code, l.message,
    l.payload, l.payload_bytes, l.message_key, l.version
  FROM unnest($9::uuid[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bigint[], $15::bytea[], $16::bigint[])
       AS l (id, key, code, message, payload, payload_bytes, message_key, version)

-- name: finish_try
-- $7 the run that counts them; without one the run that prepared them.
UPDATE dead_letters SET final_at = clock_timestamp(), run_id = coalesce($7, run_id)
 WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND sequence = $4 AND epoch = $5 AND attempt = $6
   AND final_at IS NULL

-- name: drop_prepared
DELETE FROM dead_letters WHERE job_id = $1 AND generation = $2 AND ordinal = $3 AND final_at IS NULL

-- name: page
-- Without payloads: first it is seen how many of them a page takes.
SELECT d.id, d.final_at, coalesce(octet_length(d.payload), 0) AS size
  FROM dead_letters d
 WHERE d.job_id = (SELECT j.id FROM jobs j JOIN accounts a ON a.id = j.account_id
                    WHERE a.name = :account AND j.id = :job_id AND j.removed_at IS NULL)
   AND d.final_at IS NOT NULL
   AND d.run_id = :run_id  --? run_id
   AND d.code = :code  --? code
   AND (d.final_at, d.id) > (:after_at, :after_id)  --? after
 ORDER BY d.final_at, d.id
 LIMIT :limit

-- name: letters
SELECT id, run_id, generation, ordinal, key, code, message, payload, payload_bytes, message_key, version, at, retries,
       note, retry
  FROM dead_letters WHERE id = ANY ($1) ORDER BY final_at, id

-- name: found
-- `cut`: their generation was read as of one moment (options.snapshot), which a retry does not find any more.
SELECT id, generation,
       EXISTS (SELECT FROM generations g
                WHERE g.job_id = $1 AND g.number = dead_letters.generation AND g.target ? 'snapshot') AS cut
  FROM dead_letters
 WHERE job_id = $1 AND final_at IS NOT NULL AND ($2::uuid[] IS NULL OR id = ANY ($2))

-- name: delete
DELETE FROM dead_letters WHERE job_id = $1 AND final_at IS NOT NULL AND ($2::uuid[] IS NULL OR id = ANY ($2))

-- name: retry_active
-- One whose outcome is not known waits for the next request: `waiting`.
SELECT EXISTS (SELECT FROM steps WHERE job_id = $1 AND kind = 'retry' AND state IN ('ready', 'leased'))

-- name: next_retry
SELECT coalesce(max(number), 0) + 1 FROM retries WHERE job_id = $1 AND generation = $2

-- name: begin_retry
INSERT INTO retries (job_id, generation, number, origin, letters) VALUES ($1, $2, $3, $4, $5)

-- name: take_letters
-- What an earlier retry has in hand stays there.
UPDATE dead_letters SET retry = $3
 WHERE job_id = $1 AND generation = $2 AND retry IS NULL AND final_at IS NOT NULL AND id = ANY ($4)

-- name: ready_retry
INSERT INTO steps (job_id, generation, kind, ordinal, state) VALUES ($1, $2, 'retry', $3, 'ready')

-- name: wake_retries
UPDATE steps SET state = 'ready', ready_at = clock_timestamp(), not_before = NULL
 WHERE job_id = $1 AND kind = 'retry' AND state = 'waiting'
