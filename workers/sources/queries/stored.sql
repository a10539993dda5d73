-- Rows as last counted, and bytes on the disk with what is stored apart, of a table and all below it.
-- $1 relation
WITH RECURSIVE tree (oid) AS (
  SELECT $1::oid
  UNION
  SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
)
SELECT sum(greatest(c.reltuples, 0))::float8 AS rows,
       sum(pg_table_size(t.oid))::float8 AS bytes
FROM tree t
JOIN pg_class c ON c.oid = t.oid
WHERE c.relkind <> 'p'
