-- The step of `found`, a recursive list of relations: their partitions and children, and what views among them read.
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
