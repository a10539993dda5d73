-- Columns in their order. format_type with -1: the type without its length, as a key text is cast to it
-- (with null it would write "character", which is character(1)).
SELECT a.attnum AS number,
       a.attname AS name,
       format_type(a.atttypid, -1) AS type,
       t.typcategory::text AS category,
       a.attnotnull AS not_null,
       a.attidentity::text AS identity,
       CASE WHEN c.collname IS NOT NULL THEN quote_ident(cn.nspname) || '.' || quote_ident(c.collname) END AS collation
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation c ON c.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = c.collnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
