-- Named things and who may use them.

-- name: ensure_account
INSERT INTO accounts (id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING

-- name: select_datasources
SELECT d.id, :account::text AS account, d.name, d.revision, d.definition, d.password, d.created_at, d.updated_at
  FROM datasources d
 WHERE d.account_id = (SELECT id FROM accounts WHERE name = :account)
   AND d.name = :name  --? name
 ORDER BY d.name

-- name: lock_datasource
SELECT definition, password FROM datasources WHERE account_id = $1 AND name = $2 FOR UPDATE

-- name: put_datasource
INSERT INTO datasources AS d (id, account_id, name, definition, password) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (account_id, name) DO UPDATE
   SET definition = excluded.definition, password = excluded.password, revision = d.revision + 1,
       updated_at = clock_timestamp()
RETURNING id

-- name: job_with_datasource
SELECT name FROM jobs WHERE account_id = $1 AND datasource = $2 AND removed_at IS NULL ORDER BY name LIMIT 1

-- name: delete_datasource
DELETE FROM datasources WHERE account_id = $1 AND name = $2

-- name: select_credentials
SELECT c.id, :account::text AS account, c.name, c.revision, c.secrets, c.created_at, c.updated_at
  FROM credentials c
 WHERE c.account_id = (SELECT id FROM accounts WHERE name = :account)
   AND c.name = :name  --? name
 ORDER BY c.name

-- name: put_credential
INSERT INTO credentials AS c (id, account_id, name, secrets) VALUES ($1, $2, $3, $4)
    ON CONFLICT (account_id, name) DO UPDATE
   SET secrets = excluded.secrets, revision = c.revision + 1, updated_at = clock_timestamp()
RETURNING id

-- name: lock_credential
SELECT secrets FROM credentials WHERE account_id = $1 AND name = $2 FOR UPDATE

-- name: job_with_credential
-- Removed jobs whose clean-up is not over count, and so do generations that nobody has closed yet: their sinks have to
-- be opened once more.
SELECT j.name, j.removed_at IS NOT NULL AS removed
  FROM jobs j
 WHERE j.account_id = $1
   AND (j.credential = $2
        OR j.spec #> '{source,columns}' @> jsonb_build_array(
             jsonb_build_object('mask', jsonb_build_object('credential', $2::text)))
        OR EXISTS (SELECT FROM generations g
                    WHERE g.job_id = j.id AND g.closed_at IS NULL AND g.spec -> 'sink' ->> 'credential' = $2))
 ORDER BY removed, j.name
 LIMIT 1

-- name: delete_credential
DELETE FROM credentials WHERE account_id = $1 AND name = $2

-- name: select_tokens
SELECT t.id, a.name AS account, t.name, t.role, t.created_at, t.expires_at, t.digest
  FROM tokens t JOIN accounts a ON a.id = t.account_id
 WHERE true
   AND t.digest = ANY(:digests) AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())  --? digests
   AND a.name = :account  --? account
 ORDER BY t.name

-- name: insert_token
INSERT INTO tokens (id, account_id, name, role, digest, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (account_id, name) DO NOTHING
RETURNING created_at

-- name: delete_token
DELETE FROM tokens WHERE account_id = (SELECT id FROM accounts WHERE name = $1) AND (id::text = lower($2) OR name = $2)
RETURNING name

-- name: any_token
SELECT EXISTS (SELECT FROM tokens WHERE expires_at IS NULL OR expires_at > clock_timestamp())

-- name: record
-- What was done to a named thing, in the same transaction.
INSERT INTO events (account_id, event, actor, origin, request_id, details) VALUES ($1, $2, $3, $4, $5, $6)

-- name: select_tables
SELECT t.id, :account::text AS account, t.name, t.revision, t.definition, t.created_at, t.updated_at
  FROM tables t
 WHERE t.account_id = (SELECT id FROM accounts WHERE name = :account)
   AND t.name = :name  --? name
 ORDER BY t.name

-- name: lock_table
SELECT definition FROM tables WHERE account_id = $1 AND name = $2 FOR UPDATE

-- name: put_table
INSERT INTO tables AS t (id, account_id, name, definition) VALUES ($1, $2, $3, $4)
    ON CONFLICT (account_id, name) DO UPDATE
   SET definition = excluded.definition, revision = t.revision + 1, updated_at = clock_timestamp()

-- name: delete_table
DELETE FROM tables WHERE account_id = $1 AND name = $2 RETURNING name

-- name: table_with_datasource
SELECT name FROM tables WHERE account_id = $1 AND datasource = $2 ORDER BY name LIMIT 1

-- name: select_keys
-- `mark` differs as soon as anything of a key does, as a job's.
SELECT k.id, a.name AS account, k.name, k.key, k.role, k.secret, k.created_at, ROW(k.id, k.xmin, a.xmin)::text AS mark
  FROM keys k JOIN accounts a ON a.id = k.account_id
 WHERE true
   AND k.key = ANY(:keys)  --? keys
   AND a.name = :account  --? account
 ORDER BY k.name

-- name: select_signed
-- The marks of keys and of the job that is asked for by each, as of one moment: a key sees the jobs of its own account,
-- and where key or job is not there, there is no row.
SELECT asked.key, ROW(k.id, k.xmin, a.xmin)::text, a.name, j.id, j.mark
  FROM unnest(:keys::text[], :ids::uuid[]) AS asked (key, id)
  JOIN keys k ON k.key = asked.key
  JOIN accounts a ON a.id = k.account_id
 CROSS JOIN LATERAL (:job) j

-- name: insert_key
INSERT INTO keys (id, account_id, name, key, role, secret) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (account_id, name) DO NOTHING
RETURNING created_at

-- name: delete_key
DELETE FROM keys WHERE account_id = (SELECT id FROM accounts WHERE name = $1) AND (key = $2 OR name = $2) RETURNING name
