-- Indexes that a key can walk: btree, valid, whole, over plain columns that sort as their types do. Those that are
-- unique and checked at once prove a key.
-- $1 relation
SELECT i.indexrelid::regclass::text AS name,
       i.indisprimary AS is_primary,
       i.indisunique AND i.indimmediate AS proves,
       k.columns,
       k.collations,
       k.deterministic,
       k.options
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
CROSS JOIN LATERAL (
  SELECT array_agg(a.attname::text ORDER BY n.place) AS columns,
         array_agg(CASE WHEN col.oid IS NOT NULL
                        THEN quote_ident(cn.nspname) || '.' || quote_ident(col.collname) END ORDER BY n.place) AS collations,
         array_agg(coalesce(col.collisdeterministic, true)::text ORDER BY n.place) AS deterministic,
         array_agg(n.option::text ORDER BY n.place) AS options,
         bool_and(EXISTS (SELECT FROM pg_opclass d
                          WHERE d.opcmethod = o.opcmethod AND d.opcfamily = o.opcfamily AND d.opcdefault)) AS usual
  FROM unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[], i.indoption::int2[])
       WITH ORDINALITY AS n(number, collation_oid, class, option, place)
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = n.number
  JOIN pg_opclass o ON o.oid = n.class
  LEFT JOIN pg_collation col ON col.oid = n.collation_oid
  LEFT JOIN pg_namespace cn ON cn.oid = col.collnamespace
  WHERE n.place <= i.indnkeyatts
) AS k
WHERE i.indrelid = $1
  AND i.indisvalid AND i.indisready AND i.indislive
  AND i.indpred IS NULL AND i.indexprs IS NULL
  AND m.amname = 'btree'
  AND k.usual
ORDER BY i.indisprimary DESC, i.indexrelid
