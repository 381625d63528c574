-- The channel of a listener of this session, by default the one of open_listener(); NULL if there is
-- none.
CREATE OR REPLACE FUNCTION rowbell.own_channel(for_listener bigint DEFAULT NULL)
RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT rowbell.channel(max(l.number)) FROM rowbell.listener AS l
  WHERE l.backend_pid = pg_backend_pid() AND l.number = coalesce(for_listener, l.number)
$rowbell$
