-- What names stand for, and where the rows lie, in one text: partitions, children and what views read among them, and the
-- file of each. In an older snapshot: as it was then.
-- $1 schemas, $2 names
WITH RECURSIVE found(oid) AS (
    SELECT c.oid
    FROM unnest($1::text[], $2::text[]) AS named(space, name)
    JOIN pg_namespace n ON n.nspname = named.space
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = named.name
--> below
), members AS (
    SELECT c.oid, c.relfilenode FROM found JOIN pg_class c ON c.oid = found.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
)
SELECT coalesce((SELECT string_agg(oid || ' ' || relfilenode, ',' ORDER BY oid) FROM members), '')
    || '|'
    || coalesce((
        SELECT string_agg(i::text, ',' ORDER BY i.inhparent, i.inhrelid)
        FROM pg_inherits i JOIN members m ON m.oid = i.inhparent
    ), '')
