-- A listener calls this every few seconds. Is this still the same session, on a primary? Does it
-- listen on its channels? Is everything registered that it has registered? Have its tables changed?
-- A session with several listeners (admit()) asks for each, and the rights of its role count.
-- It runs as the caller. The functions that it calls run with more rights where they need them.
CREATE OR REPLACE FUNCTION rowbell.heartbeat(
  tables oid[], options bytea[], table_columns text[], for_listener bigint DEFAULT NULL,
  OUT backend_pid integer, OUT in_recovery boolean, OUT listens boolean, OUT unsent bigint,
  OUT registered bigint, OUT checksum bigint, OUT queue_usage double precision,
  OUT obstacles text[], OUT versions bigint[])
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
DECLARE
  owner CONSTANT oid := (SELECT n.nspowner FROM pg_namespace AS n WHERE n.nspname = 'rowbell');
  role name := current_user;
  own bigint;
BEGIN
  PERFORM rowbell.delete_stale();
  PERFORM rowbell.lower_flags();
  IF pg_has_role(owner, 'USAGE') THEN
    PERFORM rowbell.compact();
  END IF;
  -- A queue that was full recovers when a session queries its usage.
  queue_usage := pg_notification_queue_usage();
  SELECT pg_backend_pid(), pg_is_in_recovery(),
         ARRAY['rowbell', rowbell.own_channel(for_listener)] <@ ARRAY(SELECT pg_listening_channels()),
         CASE WHEN s.is_called THEN s.last_value ELSE 0 END
  INTO backend_pid, in_recovery, listens, unsent
  FROM rowbell.unsent_notifications AS s;
  SELECT max(l.number) INTO own FROM rowbell.listener AS l
  WHERE l.backend_pid = pg_backend_pid() AND l.number = coalesce(for_listener, l.number);
  IF for_listener IS NOT NULL THEN
    role := (SELECT r.rolname FROM rowbell.listener AS l JOIN pg_roles AS r ON r.oid = l.role_oid
             WHERE l.number = own);
  END IF;
  -- Squares are summed: an XOR or a plain sum would not change if several keys moved in parallel.
  SELECT count(*), coalesce(mod(sum(r.key * r.key), 9223372036854775807), 0)
  INTO registered, checksum
  FROM (SELECT (r.key_hash # (r.table_oid::bigint << 32))::numeric AS key
        FROM rowbell.registration AS r WHERE r.listener = own) AS r;
  SELECT array_agg(rowbell.obstacle(role, t.oid, t.options, t.columns::text[])
                   ORDER BY t.place),
         array_agg(rowbell.table_version(t.oid) ORDER BY t.place)
  INTO obstacles, versions
  FROM unnest(tables, options, table_columns) WITH ORDINALITY AS t(oid, options, columns, place);
END
$rowbell$
