-- Rights of our own role that a reader should not have.
SELECT r.rolsuper AS superuser,
       pg_has_role(current_user, 'pg_execute_server_program', 'MEMBER') AS runs_programs
FROM pg_roles r
WHERE r.rolname = current_user
