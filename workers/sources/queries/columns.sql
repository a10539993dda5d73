-- Columns in their order. format_type with -1: the type without its length, as a key text is cast to it
-- (with null it would write "character", which is character(1)). `exact` is what a file's schema needs: with its
-- modifier, and domains, also those of an array's elements, as what they are made of. A constraint that is NOT VALID
-- yet (PostgreSQL 18) keeps nothing of what is there already.
WITH RECURSIVE resolved (number, oid, modifier, dimensions) AS (
  SELECT attnum, atttypid, atttypmod, attndims::int
  FROM pg_attribute
  WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT r.number, t.typbasetype, t.typtypmod, greatest(r.dimensions, t.typndims)
  FROM resolved r
  JOIN pg_type t ON t.oid = r.oid AND t.typtype = 'd'
), elements (number, oid, modifier) AS (
  SELECT r.number, e.oid, r.modifier
  FROM resolved r
  JOIN pg_type e ON e.typarray = r.oid
  UNION ALL
  SELECT s.number, t.typbasetype, t.typtypmod
  FROM elements s
  JOIN pg_type t ON t.oid = s.oid AND t.typtype = 'd'
)
SELECT a.attnum AS number,
       a.attname AS name,
       format_type(a.atttypid, -1) AS type,
       t.typcategory::text AS category,
       a.attnotnull AND NOT EXISTS (SELECT FROM pg_constraint n
                                    WHERE n.conrelid = a.attrelid AND n.contype = 'n' AND NOT n.convalidated
                                      AND n.conkey = ARRAY[a.attnum]) AS not_null,
       a.attidentity::text AS identity,
       a.attgenerated = 'v' AS virtual,
       CASE WHEN c.collname IS NOT NULL THEN quote_ident(cn.nspname) || '.' || quote_ident(c.collname) END AS collation,
       CASE WHEN e.oid IS NULL THEN format_type(r.oid, r.modifier)
            ELSE format_type(e.oid, e.modifier) || '[]' END AS exact,
       CASE WHEN e.oid IS NULL THEN 0 ELSE greatest(r.dimensions, 1) END AS dimensions,
       coalesce(et.typtype, b.typtype) = 'e' AS enum,
       b.typlen = -1 AS varies
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN resolved r ON r.number = a.attnum
JOIN pg_type b ON b.oid = r.oid AND b.typtype <> 'd'
LEFT JOIN elements e ON e.number = a.attnum AND NOT EXISTS (SELECT FROM pg_type d WHERE d.oid = e.oid AND d.typtype = 'd')
LEFT JOIN pg_type et ON et.oid = e.oid
LEFT JOIN pg_collation c ON c.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = c.collnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
