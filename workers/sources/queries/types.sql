-- The types of a query's output by their oids, as columns.sql tells those of a table. A statement's description has
-- resolved domains, but for those of an array's elements, and says nothing of modifiers and dimensions.
WITH RECURSIVE elements (array_oid, oid, modifier) AS (
  SELECT e.typarray, e.oid, -1
  FROM pg_type e
  WHERE e.typarray = ANY ($1::oid[])
  UNION ALL
  SELECT s.array_oid, t.typbasetype, t.typtypmod
  FROM elements s
  JOIN pg_type t ON t.oid = s.oid AND t.typtype = 'd'
)
SELECT t.oid,
       format_type(t.oid, -1) AS type,
       t.typcategory::text AS category,
       t.typcollation <> 0 AS collated,
       CASE WHEN e.oid IS NULL THEN format_type(t.oid, -1) ELSE format_type(e.oid, e.modifier) || '[]' END AS exact,
       CASE WHEN e.oid IS NULL THEN 0 ELSE 1 END AS dimensions,
       coalesce(et.typtype, t.typtype) = 'e' AS enum,
       t.typlen = -1 AS varies
FROM pg_type t
LEFT JOIN elements e ON e.array_oid = t.oid AND NOT EXISTS (SELECT FROM pg_type d WHERE d.oid = e.oid AND d.typtype = 'd')
LEFT JOIN pg_type et ON et.oid = e.oid
WHERE t.oid = ANY ($1::oid[])
