-- Indexes that a key can walk: btree, valid, whole, over plain columns in rising order. Those that are unique and
-- checked at once prove a key.
SELECT i.indexrelid::regclass::text AS name,
       i.indisprimary AS is_primary,
       i.indisunique AND i.indimmediate AS proves,
       ARRAY(SELECT a.attname::text
             FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, position)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE k.position <= i.indnkeyatts
             ORDER BY k.position) AS columns
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE i.indrelid = $1
  AND i.indisvalid AND i.indisready AND i.indislive
  AND i.indpred IS NULL AND i.indexprs IS NULL
  AND m.amname = 'btree'
ORDER BY i.indisprimary DESC, i.indexrelid
