-- Steps that send dead letters again. A retry's chunks stand under the negative of its number.

-- name: state
SELECT $3::int AS ordinal, NULL::jsonb AS lower, NULL::jsonb AS upper, false AS tail, NULL::jsonb AS position,
       NULL::jsonb AS scanned_to, sequence, 0::bigint AS rows_read, anchored_at, done_at
  FROM retries WHERE job_id = $1 AND generation = $2 AND number = -$3::int

-- name: origin
SELECT origin FROM retries WHERE job_id = $1 AND generation = $2 AND number = -$3::int

-- name: anchored
UPDATE retries SET anchored_at = clock_timestamp() WHERE job_id = $1 AND generation = $2 AND number = -$3::int

-- name: advance
UPDATE retries SET sequence = $4, anchored_at = CASE WHEN anchored_at IS NOT NULL THEN clock_timestamp() END
 WHERE job_id = $1 AND generation = $2 AND number = -$3::int

-- name: in_hand
-- Those of one version together; $4 only these, $5 how many, $6 bytes of payload that are enough. Lengths are known without
-- the payloads being read.
SELECT id, run_id, generation, ordinal, key, code, message, payload, payload_bytes, message_key, version, at, retries,
       note, retry
  FROM (
    SELECT d.*, sum(coalesce(octet_length(payload), 0)) OVER w - coalesce(octet_length(payload), 0) AS before,
           row_number() OVER w AS place
      FROM dead_letters d
     WHERE job_id = $1 AND generation = $2 AND retry = -$3::int AND ($4::uuid[] IS NULL OR id = ANY ($4))
    WINDOW w AS (ORDER BY version NULLS FIRST, final_at, id)
  ) ordered
 WHERE before < $6 ORDER BY place LIMIT $5

-- name: keys
SELECT id, key FROM dead_letters WHERE job_id = $1 AND id = ANY ($2)

-- name: sent
-- They are sent now, in the run that had set them aside.
WITH gone AS (
    DELETE FROM dead_letters WHERE job_id = $1 AND retry IS NOT NULL AND id = ANY ($2) RETURNING run_id
), counted AS (
    UPDATE runs r SET rows_sent = r.rows_sent + g.rows, rows_dead = greatest(0, r.rows_dead - g.rows)
      FROM (SELECT run_id, count(*) AS rows FROM gone GROUP BY run_id) g WHERE r.id = g.run_id
)
SELECT count(*) FROM gone

-- name: count_sent
UPDATE jobs SET totals_rows_sent = totals_rows_sent + $2, totals_rows_dead = greatest(0, totals_rows_dead - $3),
       totals_bytes_sent = totals_bytes_sent + $4, last_progress_at = clock_timestamp()
 WHERE id = $1

-- name: count_bytes
UPDATE runs SET bytes_sent = bytes_sent + $2 WHERE id = $1

-- name: stay
UPDATE dead_letters d SET retries = d.retries + 1, retry = NULL, code = coalesce(s.code, d.code),
       message = coalesce(s.message, d.message), note = s.note
  FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) AS s (id, code, message, note)
 WHERE d.job_id = $1 AND d.id = s.id AND d.retry IS NOT NULL

-- name: let_go
-- Of a retry that failed: all but what its prepared chunk holds.
UPDATE dead_letters d SET retries = retries + 1, retry = NULL, note = $4
 WHERE job_id = $1 AND generation = $2 AND retry = -$3::int
   AND NOT EXISTS (
       SELECT FROM chunks c WHERE c.job_id = $1 AND c.generation = $2 AND c.ordinal = $3 AND c.state = 'prepared'
          AND (c.letters -> 'sent' ? d.id::text))

-- name: note_unknown
UPDATE dead_letters SET note = $4 WHERE job_id = $1 AND generation = $2 AND retry = -$3::int

-- name: end_retry
UPDATE retries SET done_at = clock_timestamp() WHERE job_id = $1 AND generation = $2 AND number = -$3::int
RETURNING letters

-- name: step_waits
UPDATE steps SET state = 'waiting', owner = NULL, leased_until = NULL, condition = NULL
 WHERE job_id = $1 AND generation = $2 AND kind = $3 AND ordinal = $4
