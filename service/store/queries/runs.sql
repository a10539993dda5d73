-- The job log: runs, what they made visible, and what of the source is durable in the sink.

-- name: select_run
SELECT r.* FROM runs r WHERE r.account_id = (SELECT id FROM accounts WHERE name = $1) AND r.id = $2

-- name: select_outputs
SELECT c.run_id, c.generation, c.ordinal, c.sequence, c.target, c.partition, c.first_offset, c.last_offset, c.rows,
       CASE WHEN c.details -> 'offsets_whole' IS DISTINCT FROM 'false' THEN c.details -> 'offsets' END AS offsets,
       c.bytes, c.etag, c.checksum, c.first_key, c.last_key, c.settled_at
  FROM chunks c
 WHERE c.job_id = (SELECT j.id FROM jobs j JOIN accounts a ON a.id = j.account_id
                    WHERE a.name = :account AND j.id = :job_id AND j.removed_at IS NULL)
   AND c.state = 'settled'
   AND (c.settled_at, c.generation, c.ordinal, c.sequence) > (:after_at, :after_part, :after_split, :after_seq)  --? after
 ORDER BY c.settled_at, c.generation, c.ordinal, c.sequence
 LIMIT :limit

-- name: output_targets
SELECT c.job_id, c.target
  FROM chunks c
  JOIN jobs j ON j.id = c.job_id
  JOIN accounts a ON a.id = j.account_id
 WHERE a.name = $1 AND c.job_id = ANY ($2) AND j.removed_at IS NULL AND c.state = 'settled'
 ORDER BY c.job_id, c.settled_at, c.generation, c.ordinal, c.sequence

-- name: delivered_splits
-- The current generation's splits, and those of every generation before it that it goes on from: what any of them
-- delivered is durable. A generation from the beginning delivers all again, so nothing before it counts. A chunk that is
-- prepared and not settled may be visible: whoever moves the position must know.
WITH RECURSIVE counted (job_id, number, begins) AS (
    SELECT g.job_id, g.number, g.begins
      FROM generations g
      JOIN jobs j ON j.id = g.job_id AND j.generation = g.number
      JOIN accounts a ON a.id = j.account_id
     WHERE a.name = $1 AND j.id = $2 AND j.removed_at IS NULL
     UNION ALL
    SELECT g.job_id, g.number, g.begins
      FROM counted c
      JOIN generations g ON g.job_id = c.job_id AND g.number = c.number - 1
     WHERE c.begins <> 'beginning'
)
SELECT s.generation, s.ordinal, s.lower, s.upper, coalesce(p.last_key, s.position) AS position, s.scanned_to,
       s.done_at IS NOT NULL AS done
  FROM counted c
  JOIN splits s ON s.job_id = c.job_id AND s.generation = c.number
  LEFT JOIN LATERAL (
    SELECT h.last_key
      FROM chunks h
     WHERE h.job_id = s.job_id AND h.generation = s.generation AND h.ordinal = s.ordinal AND h.state = 'prepared'
     ORDER BY h.epoch DESC, h.attempt DESC
     LIMIT 1) p ON true
 ORDER BY s.generation, s.ordinal
