-- What can be said about holders to a person; null where this role may not see it (pg_read_all_stats).
SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_seconds, query
FROM pg_stat_activity
WHERE pid = ANY ($1::text[]::int[])
