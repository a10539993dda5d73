-- Which of these names the catalog calls volatile, as function, behind an operator, or as a function of a row.
-- A name without schema is any function the session would find. $1, $2 schemas (null: none) and names of functions;
-- $3 operators; $4 attributes
SELECT DISTINCT 'function ' || p.oid::regprocedure::text AS what
FROM unnest($1::text[], $2::text[]) AS wanted(schema, name)
JOIN pg_proc p ON p.proname = wanted.name
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.provolatile = 'v'
  AND CASE WHEN wanted.schema IS NULL THEN n.nspname = ANY (current_schemas(true)) ELSE n.nspname = wanted.schema END
UNION
SELECT 'operator ' || o.oid::regoperator::text
FROM pg_operator o
JOIN pg_proc p ON p.oid = o.oprcode
WHERE o.oprname = ANY ($3::text[]) AND p.provolatile = 'v'
UNION
SELECT 'function ' || p.oid::regprocedure::text
FROM pg_proc p
JOIN pg_type t ON t.oid = p.proargtypes[0]
WHERE p.proname = ANY ($4::text[]) AND p.pronargs = 1 AND p.provolatile = 'v' AND t.typtype = 'c'
