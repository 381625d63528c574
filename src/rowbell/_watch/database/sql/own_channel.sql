-- The channel of this session's own number; NULL if it is not a listener.
CREATE OR REPLACE FUNCTION rowbell.own_channel()
RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT rowbell.channel(max(l.number)) FROM rowbell.listener AS l
  WHERE l.backend_pid = pg_backend_pid()
$rowbell$
