-- Makes this session a listener. It returns the listener's number, and a channel that only this
-- session gets to know. A number is never assigned twice, so no session learns the channel of
-- another. Registrations without a listener, which a restored dump may contain, are deleted.
CREATE OR REPLACE FUNCTION rowbell.open_listener(OUT number bigint, OUT channel text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
DECLARE
  caller CONSTANT name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
BEGIN
  PERFORM rowbell.close_listener();
  DELETE FROM rowbell.registration WHERE ctid = ANY (ARRAY(
    SELECT r.ctid FROM rowbell.registration AS r
    WHERE NOT EXISTS (SELECT FROM rowbell.listener AS l WHERE l.number = r.listener)
    FOR UPDATE SKIP LOCKED));
  number := nextval('rowbell.listener_number');
  channel := rowbell.channel(number);
  INSERT INTO rowbell.listener
  VALUES (number, pg_backend_pid(),
          (SELECT a.backend_start FROM pg_stat_activity AS a WHERE a.pid = pg_backend_pid()),
          (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = caller), 0);
END
$rowbell$
