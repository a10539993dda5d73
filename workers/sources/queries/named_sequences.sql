-- Sequences by their names, as the job's owner wrote them; null where there is none. $1 names
SELECT given.name AS sequence_name,
       s.seqrelid::int8 AS sequence,
       s.seqincrement AS increment,
       has_sequence_privilege(s.seqrelid, 'SELECT') AS selectable,
       has_sequence_privilege(s.seqrelid, 'SELECT') OR has_sequence_privilege(s.seqrelid, 'USAGE') AS readable
FROM unnest($1::text[]) AS given(name)
LEFT JOIN pg_sequence s ON s.seqrelid = to_regclass(given.name)
