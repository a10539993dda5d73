-- name: jobs
SELECT id AS key, 0 AS number, 'job ' || name AS what, secrets AS sealed FROM jobs WHERE secrets IS NOT NULL

-- name: write_jobs
UPDATE jobs SET secrets = $4 WHERE id = $1 AND $2::int = 0 AND secrets = $3

-- name: generations
SELECT g.job_id AS key, g.number, 'job ' || j.name || ', generation ' || g.number AS what, g.secrets AS sealed
FROM generations g JOIN jobs j ON j.id = g.job_id WHERE g.secrets IS NOT NULL

-- name: write_generations
UPDATE generations SET secrets = $4 WHERE job_id = $1 AND number = $2 AND secrets = $3

-- name: datasources
SELECT id AS key, 0 AS number, 'datasource ' || name AS what, password AS sealed FROM datasources
WHERE password IS NOT NULL

-- name: write_datasources
UPDATE datasources SET password = $4 WHERE id = $1 AND $2::int = 0 AND password = $3

-- name: credentials
SELECT id AS key, 0 AS number, 'credential ' || name AS what, secrets AS sealed FROM credentials

-- name: write_credentials
UPDATE credentials SET secrets = $4 WHERE id = $1 AND $2::int = 0 AND secrets = $3

-- name: keys
SELECT id AS key, 0 AS number, 'key ' || name AS what, secret AS sealed FROM keys

-- name: write_keys
UPDATE keys SET secret = $4 WHERE id = $1 AND $2::int = 0 AND secret = $3
