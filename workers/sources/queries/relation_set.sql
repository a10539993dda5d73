-- The relation, all its partitions and children, and what views among them read: whose writers a barrier waits for.
WITH RECURSIVE found(oid) AS (
    SELECT unnest($1::oid[])
--> below
)
SELECT c.oid::int8 AS oid, c.relkind::text AS kind, c.oid::regclass::text AS name,
       EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = c.oid) AS subscribed
FROM found
JOIN pg_class c ON c.oid = found.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.oid
