-- What relations are called now; null where they are gone.
SELECT r.oid::int8 AS oid, (SELECT c.oid::regclass::text FROM pg_class c WHERE c.oid = r.oid) AS name
FROM unnest($1::int8[]::oid[]) AS r (oid)
