-- The sequences behind a key column, over all relations of the set: an identity's own, or the one its default draws
-- from. A default without a sequence, or that is more than one nextval, has sequence null.
-- $1 relations, $2 column name
SELECT a.attrelid::int8 AS relation,
       a.attrelid::regclass::text AS relation_name,
       a.attidentity::text AS identity,
       pg_get_expr(ad.adbin, ad.adrelid) AS default_text,
       s.seqrelid::int8 AS sequence,
       s.seqrelid::regclass::text AS sequence_name,
       s.seqcache AS cache,
       s.seqincrement AS increment,
       s.seqcycle AS cycle,
       (SELECT d.refobjid::regclass || '.' || quote_ident(a.attname)
        FROM pg_depend d
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.refclassid = 'pg_class'::regclass
          AND d.deptype IN ('a', 'i')) AS owned_by,
       has_sequence_privilege(s.seqrelid, 'SELECT') AS selectable,
       has_sequence_privilege(s.seqrelid, 'SELECT') OR has_sequence_privilege(s.seqrelid, 'USAGE') AS readable
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
LEFT JOIN pg_attrdef ad ON ad.adrelid = a.attrelid AND ad.adnum = a.attnum
LEFT JOIN LATERAL (
    -- a default also depends on its own table
    SELECT d.refobjid AS oid
    FROM pg_depend d
    JOIN pg_class sequence ON sequence.oid = d.refobjid AND sequence.relkind = 'S'
    WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = ad.oid AND d.refclassid = 'pg_class'::regclass
  UNION
    SELECT d.objid
    FROM pg_depend d
    WHERE a.attidentity <> '' AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
) AS owner ON true
LEFT JOIN pg_sequence s ON s.seqrelid = owner.oid
WHERE a.attrelid = ANY ($1::oid[]) AND a.attname = $2 AND NOT a.attisdropped
ORDER BY 1, 5
