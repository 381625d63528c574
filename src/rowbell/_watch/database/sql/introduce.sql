-- Introduces a session of a relay, on a connection of the session's own: the relay receives a ticket
-- by NOTIFY. It says which role has called this function for that session, and is valid for a minute.
-- `session` is a hash of the session's secret ID; `channel` is the relay's.
CREATE OR REPLACE FUNCTION rowbell.introduce(session text, channel text)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
DECLARE
  caller CONSTANT name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
  ticket CONSTANT text := format('%s:%s:%s',
    (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = caller),
    floor(date_part('epoch', clock_timestamp() + interval '1 minute')), session);
BEGIN
  IF (session ~ '^[0-9a-f]{64}$' AND channel ~ '^rowbell_relay_[0-9a-f]{32}$') IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'rowbell: this is no session and no channel of a relay';
  END IF;
  PERFORM pg_notify(channel, ticket || ':' || rowbell.ticket_code(ticket));
END
$rowbell$
