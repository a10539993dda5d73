-- Idempotency-Key.

-- name: take_key
-- A key is taken anew when its answer is a day old, or when the process that had it under way must be gone: no request
-- takes longer than its longest wait, 60 seconds, by far.
INSERT INTO idempotency AS i (account_id, key, fingerprint)
SELECT id, $2, $3 FROM accounts WHERE name = $1
    ON CONFLICT (account_id, key) DO UPDATE
   SET fingerprint = excluded.fingerprint, status = NULL, headers = NULL, body = NULL, created_at = clock_timestamp()
 WHERE i.created_at < clock_timestamp()
       - CASE WHEN i.status IS NULL THEN interval '5 minutes' ELSE interval '24 hours' END
RETURNING key

-- name: stored_answer
SELECT fingerprint, status, headers, body FROM idempotency
 WHERE account_id = (SELECT id FROM accounts WHERE name = $1) AND key = $2

-- name: keep_answer
UPDATE idempotency SET status = $3, headers = $4, body = $5
 WHERE account_id = (SELECT id FROM accounts WHERE name = $1) AND key = $2

-- name: forget_key
DELETE FROM idempotency WHERE account_id = (SELECT id FROM accounts WHERE name = $1) AND key = $2
