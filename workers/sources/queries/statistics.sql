-- What is known of a table's size and of a column's values without looking at a row. `fresh`: few rows have changed
-- since ANALYZE looked (the count comes late and a crash forgets it, so the table's size has a say too), and the
-- histogram has no part without width: of a value that fills several one can not say how many rows it has.
-- $1 relation, $2 column
WITH RECURSIVE tree (oid) AS (
  SELECT $1::oid
  UNION
  SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
), size AS (
  SELECT count(*) AS tables,
         sum(pg_relation_size(t.oid))::int8 / current_setting('block_size')::int8 AS blocks,
         sum(greatest(c.reltuples, 0))::float8 AS rows
  FROM tree t
  JOIN pg_class c ON c.oid = t.oid
)
SELECT size.tables,
       size.blocks,
       size.rows,
       s.histogram_bounds::text AS bounds,
       array_length(s.histogram_bounds, 1) AS bound_count,
       s.most_common_vals::text AS common,
       s.most_common_freqs::text[] AS often,
       s.null_frac::float8 AS nulls,
       coalesce(size.tables = 1 AND greatest(a.last_analyze, a.last_autoanalyze) IS NOT NULL
                AND abs(size.blocks - c.relpages) <= 0.1 * c.relpages + 10
                AND a.n_mod_since_analyze <= 0.1 * greatest(a.n_live_tup, size.rows), false)
         AND s.attname IS NOT NULL
         AND (SELECT count(*) = count(DISTINCT b) FROM unnest(s.histogram_bounds::text::text[]) AS b) AS fresh
FROM size
JOIN pg_class c ON c.oid = $1
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = $2 AND NOT s.inherited
LEFT JOIN pg_stat_all_tables a ON a.relid = c.oid
