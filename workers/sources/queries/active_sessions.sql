-- Statements of others that the server works on now; null where this role would not see those of other roles.
SELECT CASE WHEN pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
            THEN (SELECT count(*)
                  FROM pg_stat_activity
                  WHERE state = 'active' AND backend_type = 'client backend'
                    AND application_name NOT LIKE 'rowferry %') END
