-- The job log's lines and the events, oldest first by `seq`, which is in the order of commits.

-- name: lock_log
-- Numbers are given under this lock and it is held until the commit is seen, so a reader that follows passes over none.
SELECT pg_advisory_xact_lock(hashtext('rowferry log'))

-- name: insert_lines
-- A job that is not known any more, or never was, leaves its line without one; its account is the job's where the line
-- names none.
INSERT INTO log (at, level, event, message, account_id, job_id, run_id, split, epoch, request_id, fields)
SELECT coalesce(l.at, clock_timestamp()), l.level, l.event, l.message, coalesce(a.id, j.account_id, r.account_id),
       CASE WHEN j.id IS NOT NULL OR r.id IS NOT NULL THEN l.job_id END, r.id, l.split, l.epoch, l.request_id, l.fields
  FROM jsonb_to_recordset($1) AS l (place int, at timestamptz, level text, event text, message text, account text,
       job_id uuid, run_id uuid, split int, epoch bigint, request_id text, fields jsonb)
  LEFT JOIN accounts a ON a.name = l.account
  LEFT JOIN jobs j ON j.id = l.job_id
  LEFT JOIN runs r ON r.id = l.run_id
 ORDER BY l.place

-- name: select_lines
SELECT l.seq, l.at, l.level, l.event, l.message, :account::text AS account, l.job_id, l.run_id, l.split, l.epoch,
       l.request_id, l.fields
  FROM log l
 WHERE l.account_id = (SELECT id FROM accounts WHERE name = :account)
   AND l.seq > :after  --? after
   AND l.job_id = :job_id  --? job_id
   AND l.run_id = :run_id  --? run_id
   AND l.level = ANY(:level)  --? level
   AND l.at >= :since  --? since
   AND l.at < :until  --? until
   AND (l.message ILIKE :q OR l.event ILIKE :q)  --? q
 ORDER BY l.seq
 LIMIT :limit

-- name: select_events
SELECT e.seq, e.at, e.event, e.job_id, e.job_name, e.run_id, e.actor, e.origin, e.state_from, e.state_to, e.details
  FROM events e
 WHERE e.account_id = (SELECT id FROM accounts WHERE name = :account)
   AND e.seq > :after  --? after
   AND e.job_id = :job_id  --? job_id
   AND e.job_name = :job  --? job
   AND e.run_id = :run_id  --? run_id
   AND e.event = ANY(:event)  --? event
   AND e.actor = :actor  --? actor
   AND e.at >= :since  --? since
   AND e.at < :until  --? until
 ORDER BY e.seq
 LIMIT :limit

-- name: last_seq
-- Where a reader begins that wants only what comes from now on.
SELECT (SELECT coalesce(max(seq), 0) FROM log) AS log, (SELECT coalesce(max(seq), 0) FROM events) AS events
