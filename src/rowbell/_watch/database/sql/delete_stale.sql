-- Deletes registrations of listeners whose session no longer exists. The list of sessions is cached
-- for a transaction, so the cache is cleared. The list is read after the snapshot that shows the
-- listeners, so a listener that opens meanwhile is not deleted.
CREATE OR REPLACE FUNCTION rowbell.delete_stale()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
DECLARE
  stale bigint[];
BEGIN
  PERFORM pg_stat_clear_snapshot();
  stale := ARRAY(
    SELECT l.number FROM rowbell.listener AS l
    WHERE NOT EXISTS (SELECT FROM pg_stat_activity AS a
                      WHERE a.pid = l.backend_pid
                        AND (a.backend_start = l.backend_start) IS NOT FALSE)
    FOR UPDATE SKIP LOCKED);
  DELETE FROM rowbell.registration WHERE ctid = ANY (ARRAY(
    SELECT r.ctid FROM rowbell.registration AS r
    WHERE r.listener = ANY (stale)
    FOR UPDATE SKIP LOCKED));
  DELETE FROM rowbell.listener WHERE number = ANY (stale);
END
$rowbell$
