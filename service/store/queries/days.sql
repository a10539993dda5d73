-- name: is_first
-- Of the splits that are worked on, one lists the days: the first.
SELECT NOT EXISTS (
    SELECT FROM steps WHERE job_id = $1 AND generation = $2 AND kind = 'split' AND state = 'leased' AND ordinal < $3
);

-- name: day_to_list
-- The oldest day that has settled chunks and is not listed; $3: today's too. By the time at which this transaction
-- began: a look that had to wait for its lock over midnight finds the day the next time.
SELECT (min(c.settled_at) AT TIME ZONE 'UTC')::date
FROM generations g JOIN chunks c ON c.job_id = g.job_id AND c.generation = g.number
WHERE g.job_id = $1 AND g.number = $2 AND c.state = 'settled'
    AND c.ordinal >= 0
    AND c.settled_at >= coalesce((g.listed_through + 1)::timestamp AT TIME ZONE 'UTC', '-infinity')
    AND ($3 OR c.settled_at < date_trunc('day', now(), 'UTC'));

-- name: day_page
-- Of the splits: what retries have sent is no part of it.
SELECT ordinal, sequence, epoch, attempt, rows, bytes, first_key, last_key, lower, target, checksum, details, run_id,
    letters, late, settled_at
FROM chunks
WHERE job_id = $1 AND generation = $2 AND state = 'settled' AND ordinal >= 0
    AND settled_at >= $3::date::timestamp AT TIME ZONE 'UTC'
    AND settled_at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
    AND ($4::timestamptz IS NULL OR (settled_at, ordinal, sequence) > ($4, $5, $6))
ORDER BY settled_at, ordinal, sequence LIMIT $7;

-- name: day_listed
UPDATE generations SET listed_through = greatest(listed_through, $3) WHERE job_id = $1 AND number = $2;
