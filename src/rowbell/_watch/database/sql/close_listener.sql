-- Deletes the registrations of this session. Rows that another session is deleting are skipped, so
-- this does not wait for the end of another transaction.
CREATE OR REPLACE FUNCTION rowbell.close_listener()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
DECLARE
  own CONSTANT bigint[] := ARRAY(SELECT l.number FROM rowbell.listener AS l
                                 WHERE l.backend_pid = pg_backend_pid()
                                 FOR UPDATE SKIP LOCKED);
BEGIN
  DELETE FROM rowbell.registration WHERE ctid = ANY (ARRAY(
    SELECT r.ctid FROM rowbell.registration AS r WHERE r.listener = ANY (own)
    FOR UPDATE SKIP LOCKED));
  DELETE FROM rowbell.listener WHERE number = ANY (own);
END
$rowbell$
