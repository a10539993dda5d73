-- The relation, all its partitions and children, and what views among them read: whose writers a barrier waits for.
WITH RECURSIVE found(oid) AS (
    SELECT unnest($1::oid[])
  UNION
    SELECT next.oid
    FROM found
    JOIN LATERAL (
        SELECT i.inhrelid AS oid FROM pg_inherits i WHERE i.inhparent = found.oid
      UNION ALL
        SELECT d.refobjid
        FROM pg_rewrite r
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
        WHERE r.ev_class = found.oid
    ) AS next ON true
)
SELECT c.oid::int8 AS oid, c.relkind::text AS kind, c.oid::regclass::text AS name,
       EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid) AS subscribed
FROM found
JOIN pg_class c ON c.oid = found.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.oid
