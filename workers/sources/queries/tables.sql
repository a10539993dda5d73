-- What the role may read, by name, with columns and the column lists that prove a row: those of valid, complete,
-- immediate unique indexes over plain not-null columns, the primary key first.
-- $1 after this name or null, $2 how many
SELECT t.name, t.kind, t.rows,
    (SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                                       'nullable', NOT a.attnotnull) ORDER BY a.attnum)
     FROM pg_attribute a
     WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped)::text AS columns,
    (SELECT json_agg(k.columns ORDER BY k.indisprimary DESC, k.indexrelid)
     FROM (SELECT i.indexrelid, i.indisprimary,
                  (SELECT json_agg(a.attname ORDER BY p.place)
                   FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS p (attnum, place)
                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.attnum) AS columns
           FROM pg_index i
           WHERE i.indrelid = t.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
             AND NOT EXISTS (SELECT FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS p (attnum)
                             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.attnum
                             WHERE p.attnum = 0 OR NOT a.attnotnull)) AS k)::text AS keys
FROM (SELECT c.oid,
             quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name,
             CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned' WHEN 'v' THEN 'view'
                            WHEN 'm' THEN 'materialized_view' ELSE 'foreign' END AS kind,
             CASE WHEN c.reltuples >= 0 AND c.relkind <> 'v' THEN c.reltuples::int8 END AS rows
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
        AND has_schema_privilege(n.oid, 'USAGE')
        AND (has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT'))) AS t
WHERE $1::text IS NULL OR t.name COLLATE "C" > $1
ORDER BY t.name COLLATE "C"
LIMIT $2
