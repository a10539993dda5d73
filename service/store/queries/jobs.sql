-- What the HTTP side reads and defines of jobs. Removed jobs do not exist here.

-- name: account_id
SELECT id FROM accounts WHERE name = $1

-- name: lock_job
SELECT * FROM jobs
 WHERE id = $2 AND account_id = (SELECT id FROM accounts WHERE name = $1) AND removed_at IS NULL
   FOR UPDATE

-- name: select_jobs
-- One statement, so that a job and its splits are of one moment. `stalled` is defined here and nowhere else: live,
-- nothing it waits for explains it, and nothing has moved for a minute by the database's clock.
-- `mark` differs as soon as anything of `whole` does: the version of every row that it is made of, and what the clock
-- alone changes. An `xmin` comes again after 4 billion transactions, or in a database that was set back to a backup; a
-- job's row says its own time too.
SELECT j.id, j.name
     , ROW(j.xmin, j.status_revision, j.updated_at, s.stalled, k.parked, h.snapshot, r.version, v.versions)::text AS mark  --? mark
     , :account::text AS account, j.owner, j.spec, j.secret_pointers, j.spec_revision, j.status_revision  --? whole
     , j.state, j.desired, j.reason, j.generation, j.generation_unrun, j.guarantee, j.guarantee_note  --? whole
     , j.totals_rows_read, j.totals_rows_sent, j.totals_rows_dead, j.totals_rows_late  --? whole
     , j.totals_bytes_sent, j.totals_runs  --? whole
     , j.last_id, j.waiting_for, j.retrying, j.horizon, j.lag, s.stalled, j.last_progress_at, j.errors  --? whole
     , j.labels, j.created_at, j.updated_at, j.state_changed_at, j.next_run_at, k.parked, l.splits, h.snapshot  --? whole
     , r.id AS r_id, r.job_id AS r_job_id, r.job_name AS r_job_name, r.number AS r_number  --? whole
     , r.generation AS r_generation, r.trigger AS r_trigger, r.state AS r_state, r.sink AS r_sink  --? whole
     , r.datasource AS r_datasource, r.started_at AS r_started_at, r.ended_at AS r_ended_at  --? whole
     , r.rows_read AS r_rows_read, r.rows_sent AS r_rows_sent, r.rows_dead AS r_rows_dead  --? whole
     , r.rows_maybe_doubled AS r_rows_maybe_doubled, r.rows_late AS r_rows_late  --? whole
     , r.bytes_sent AS r_bytes_sent, r.last_id AS r_last_id  --? whole
     , r.splits_done AS r_splits_done, r.splits_total AS r_splits_total  --? whole
     , r.estimated_rows AS r_estimated_rows, r.errors AS r_errors, r.labels AS r_labels  --? whole
  FROM jobs j
 CROSS JOIN LATERAL (
       SELECT j.state IN ('running', 'stopping', 'aborting', 'failing') AND j.waiting_for IS NULL
              AND greatest(j.last_progress_at, j.state_changed_at) < now() - interval '60 seconds' AS stalled) s
  -- The moment that the current generation is read as of, once its plan is saved.
 CROSS JOIN LATERAL (
       SELECT CASE WHEN (j.spec #>> '{options,snapshot}')::boolean THEN (
           SELECT g.target -> 'snapshot' || jsonb_build_object('held', EXISTS (
                      SELECT FROM steps t WHERE t.job_id = g.job_id AND t.generation = g.number AND t.kind = 'plan'
                          AND t.state = 'leased'))
             FROM generations g WHERE g.job_id = j.id AND g.number = j.generation) END AS snapshot) h
  -- Between two steps nothing is leased for a moment.
 CROSS JOIN LATERAL (
       SELECT CASE WHEN j.state = 'running' AND j.updated_at < now() - interval '2 seconds'
                   THEN NOT EXISTS (SELECT FROM steps t WHERE t.job_id = j.id AND t.state = 'leased')
                   ELSE false END AS parked) k
  -- Looked up job by job: a join would be planned for a page of any length, and read all runs there are.
  LEFT JOIN LATERAL (SELECT *, xmin AS version FROM runs WHERE id = j.run_id OFFSET 0) r ON true
 CROSS JOIN LATERAL (  --? mark
       SELECT string_agg(p.xmin::text, ' ' ORDER BY p.ordinal) AS versions  --? mark
         FROM splits p WHERE p.job_id = j.id AND p.generation = j.generation) v  --? mark
 CROSS JOIN LATERAL (  --? whole
       SELECT jsonb_agg(jsonb_build_array(p.ordinal, p.lower, p.upper, p.position, p.done_at IS NOT NULL)  --? whole
                        ORDER BY p.ordinal) AS splits  --? whole
         FROM splits p WHERE p.job_id = j.id AND p.generation = j.generation) l  --? whole
 WHERE j.account_id = (SELECT id FROM accounts WHERE name = :account)
   AND j.removed_at IS NULL  --? present
   AND j.id = :id  --? id
   AND j.id = ANY(:ids)  --? ids
   AND j.name = ANY(:names)  --? names
   AND j.state = ANY(:state)  --? state
   AND j.sink_kind = :sink  --? sink
   AND j.mode = :mode  --? mode
   AND j.datasource = :datasource  --? datasource
   AND j.labels @> :label  --? label
   AND false  --? nothing
   AND j.name ILIKE :q  --? q
   AND s.stalled = :stalled  --? stalled
   AND j.errors @> :error_code  --? error_code
   AND j.created_at >= :created_from  --? created_from
   AND j.created_at < :created_to  --? created_to
   AND (j.created_at, j.id) > (:after_value, :after_id)  --? created_at after
   AND (j.created_at, j.id) < (:after_value, :after_id)  --? -created_at after
   AND (j.state_changed_at, j.id) > (:after_value, :after_id)  --? state_changed_at after
   AND (j.state_changed_at, j.id) < (:after_value, :after_id)  --? -state_changed_at after
   AND j.name > :after_value  --? name_up after
   AND j.name < :after_value  --? name_down after
 ORDER BY j.created_at, j.id  --? created_at
 ORDER BY j.created_at DESC, j.id DESC  --? -created_at
 ORDER BY j.state_changed_at, j.id  --? state_changed_at
 ORDER BY j.state_changed_at DESC, j.id DESC  --? -state_changed_at
 ORDER BY j.name  --? name_up
 ORDER BY j.name DESC  --? name_down
 LIMIT :limit  --? page

-- name: insert_job
INSERT INTO jobs (id, account_id, name, owner, spec, secrets, secret_pointers, guarantee, guarantee_note, next_run_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (account_id, name) WHERE removed_at IS NULL DO NOTHING
RETURNING id, account_id, name, run_id

-- name: replace_job
UPDATE jobs
   SET spec = $2, secrets = $3, secret_pointers = $4, guarantee = $5, guarantee_note = $6,
       next_run_at = $7, spec_revision = spec_revision + 1
 WHERE id = $1

-- name: patch_job
UPDATE jobs SET spec = $2, next_run_at = $3, spec_revision = spec_revision + 1 WHERE id = $1

-- name: replace_generation
-- A change that leaves the target alone: the current generation goes on with the new definition, and a run that is under
-- way with the new live parts.
UPDATE generations g SET spec = j.spec, secrets = j.secrets FROM jobs j
 WHERE j.id = $1 AND g.job_id = j.id AND g.number = j.generation

-- name: position
-- Whether the current generation says where to go on from, and whether it was planned.
SELECT g.begins, g.ranges, g.planned_at IS NOT NULL AS planned,
       g.begins <> 'beginning' OR EXISTS (
           SELECT FROM splits s
            WHERE s.job_id = g.job_id AND s.generation = g.number
              AND (s.position IS NOT NULL OR s.scanned_to IS NOT NULL OR s.done_at IS NOT NULL)) AS present
  FROM generations g JOIN jobs j ON j.id = g.job_id AND j.generation = g.number
 WHERE j.id = $1

-- name: secrets
SELECT secrets FROM jobs
 WHERE id = $2 AND account_id = (SELECT id FROM accounts WHERE name = $1) AND removed_at IS NULL

-- name: end_unplanned
-- A generation that was never planned has opened nothing: its successor has nothing to close.
UPDATE generations SET closed_at = clock_timestamp(), fenced = true
 WHERE job_id = $1 AND number = $2 AND planned_at IS NULL AND closed_at IS NULL

-- name: begin_generation
-- $1 job, $2 begins, $3 ranges
INSERT INTO generations (job_id, number, begins, ranges, spec, secrets)
SELECT id, generation + 1, $2, $3, spec, secrets FROM jobs WHERE id = $1

-- name: take_generation
-- $1 job, $2 unrun, $3 whether last_id changes, $4 last_id
UPDATE jobs SET generation = generation + 1, generation_unrun = $2,
       last_id = CASE WHEN $3 THEN $4 ELSE last_id END
 WHERE id = $1
RETURNING generation

-- name: ready_plan
-- Ready, though it can be leased only while the job wants to run.
INSERT INTO steps (job_id, generation, kind, state) VALUES ($1, $2, 'plan', 'ready')

-- name: remove_when_ended
UPDATE jobs SET remove_when_ended = true WHERE id = $1
