-- The job log as search. Three ways to a page, each over an index that is in the page's order; the filters that did not
-- choose the way are asked of the runs that it passes.

-- name: filters
   AND r.job_id = :job_id  --? job_id
   AND r.job_name = :job  --? job
   AND r.state = ANY(:state)  --? states
   AND r.sink = :sink  --? sink
   AND r.trigger = :trigger  --? trigger
   AND r.mode = :mode  --? mode
   AND r.labels @> :label  --? label
   AND false  --? nothing
   AND r.errors @> :error  --? error
   AND EXISTS (SELECT FROM jsonb_array_elements(r.errors) AS link WHERE link ->> 'message' ILIKE :q)  --? q
   AND r.started_at >= :started_from  --? started_from
   AND r.started_at < :started_to  --? started_to
   AND (r.started_at, r.id) < (:after_value, :after_id)  --? after

-- name: by_columns
SELECT r.*
  FROM runs r
 WHERE r.account_id = (SELECT id FROM accounts WHERE name = :account)
{filters}
 ORDER BY r.started_at DESC, r.id DESC
 LIMIT :limit

-- name: by_state
-- An index on the state is in order for one state at a time.
SELECT r.*
  FROM unnest(:state::text[]) AS s(state)
 CROSS JOIN LATERAL (
       SELECT r.*
         FROM runs r
        WHERE r.account_id = (SELECT id FROM accounts WHERE name = :account) AND r.state = s.state
{filters}
        ORDER BY r.started_at DESC, r.id DESC
        LIMIT :limit) AS r
 ORDER BY r.started_at DESC, r.id DESC
 LIMIT :limit

-- name: by_term
-- Looked up run by run: a join would be planned for a page of any length, and read all runs there are.
SELECT r.*
  FROM run_terms t
 CROSS JOIN LATERAL (SELECT * FROM runs WHERE id = t.run_id OFFSET 0) AS r
 WHERE t.account_id = (SELECT id FROM accounts WHERE name = :account) AND t.term = :term
   AND t.started_at >= :started_from  --? started_from
   AND t.started_at < :started_to  --? started_to
   AND (t.started_at, t.run_id) < (:after_value, :after_id)  --? after
{filters}
 ORDER BY t.started_at DESC, t.run_id DESC
 LIMIT :limit

-- name: rarest_term
-- Of all terms that a run must have, the one that fewest have: at most a thousand of each are counted. $2 labels and
-- codes, $3 a text whose words it must have.
SELECT w.term, (SELECT count(*) FROM (SELECT FROM run_terms t
                                       WHERE t.account_id = (SELECT id FROM accounts WHERE name = $1)
                                         AND t.term = w.term LIMIT 1000) AS few) AS runs
  FROM (SELECT unnest($2::text[]) UNION SELECT 'word:' || words_of($3)) AS w(term)
 ORDER BY runs, w.term
 LIMIT 1

-- name: count_by_columns
SELECT count(*)
  FROM runs r
 WHERE r.account_id = (SELECT id FROM accounts WHERE name = :account)
{filters}

-- name: count_by_term
SELECT count(*)
  FROM run_terms t
 CROSS JOIN LATERAL (SELECT * FROM runs WHERE id = t.run_id OFFSET 0) AS r
 WHERE t.account_id = (SELECT id FROM accounts WHERE name = :account) AND t.term = :term
{filters}
