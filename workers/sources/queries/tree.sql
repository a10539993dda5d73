-- The tables of a tree that hold rows, largest first: how many blocks, how many rows by the last count of them (null:
-- nobody has counted), and whether this role may read each by itself.
-- $1 relation
WITH RECURSIVE tree (oid) AS (
  SELECT $1::oid
  UNION
  SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
)
SELECT c.oid::regclass::text AS name,
       s.blocks,
       CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples::float8 * s.blocks / c.relpages END AS rows,
       has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(c.relnamespace, 'USAGE') AS readable
FROM tree t
JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'r'
CROSS JOIN LATERAL (
  SELECT pg_relation_size(c.oid)::int8 / current_setting('block_size')::int8 AS blocks
) AS s
WHERE s.blocks > 0
ORDER BY s.blocks DESC
LIMIT 2000
