-- Notifies of the rows that a trigger found: the given listeners, or all listeners if none are
-- given. A forged call makes listeners read rows again, but only a limited number a second, so
-- every role may call it. The caller is not checked: in a SECURITY DEFINER function of the user, it
-- is not the writer.
-- The triggers' enable_seqscan = off must not apply here: it would make the plan for channel_secret,
-- which has no index, so expensive that PostgreSQL compiles it with JIT at each call.
CREATE OR REPLACE FUNCTION rowbell.notify(
  table_oid oid, listeners bigint[], key_hashes bigint[])
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = on
AS $rowbell$
#variable_conflict use_column
DECLARE
  usage CONSTANT double precision := pg_notification_queue_usage();
  sent CONSTANT integer := coalesce(
    substring(current_setting('rowbell.keys_sent', true) FROM '^[0-9]{1,8}$')::integer, 0);
BEGIN
  IF cardinality(key_hashes) = 0 THEN
    RETURN;
  ELSIF lower(current_setting('rowbell.notify', true)) IN ('off', 'false', 'no', '0') THEN
    PERFORM nextval('rowbell.unsent_notifications');
  ELSIF usage > 0.5 THEN
    -- With a full queue, the COMMIT of a transaction that notifies fails.
    PERFORM nextval('rowbell.unsent_notifications');
    IF current_setting('rowbell.warned', true) IS DISTINCT FROM 'on' THEN
      PERFORM set_config('rowbell.warned', 'on', true);
      RAISE WARNING 'rowbell: the notification queue is half full, listeners will catch up later'
        USING HINT = 'A listening session has a transaction open for long: see pg_stat_activity.';
    END IF;
  ELSIF key_hashes IS NULL OR usage > 0.25 OR sent + cardinality(key_hashes) > 1000 THEN
    -- PostgreSQL sends equal notifications of a transaction once, so these cannot fill the queue.
    PERFORM pg_notify(coalesce(rowbell.channel(l.listener), 'rowbell'), '1:' || table_oid || ':*')
    FROM (SELECT DISTINCT listener
          FROM unnest(coalesce(listeners, ARRAY[NULL]::bigint[])) AS w(listener)) AS l;
  ELSE
    PERFORM set_config('rowbell.keys_sent', (sent + cardinality(key_hashes))::text, true);
    PERFORM pg_notify(coalesce(rowbell.channel(s.listener), 'rowbell'),
                      '1:' || table_oid || ':' || string_agg(s.key_hash::text, ','))
    FROM (SELECT w.listener, w.key_hash,
                 (row_number() OVER (PARTITION BY w.listener) - 1) / 350 AS slice
          FROM unnest(listeners, key_hashes) AS w(listener, key_hash)) AS s
    GROUP BY s.listener, s.slice;
  END IF;
END
$rowbell$
