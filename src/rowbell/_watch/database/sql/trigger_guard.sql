-- The outer part of every trigger function. It runs as the writer. It must not make a write fail or
-- wait. An error, a missing privilege or a lock that is not granted within 50 ms ends the block.
-- Then the fallback notifies all listeners, which read the table again. It calls only PostgreSQL's
-- own functions. After a fallback, a transaction does not try again, so it waits once and warns
-- once.
CREATE OR REPLACE FUNCTION @function@() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET enable_seqscan = off
AS $rowbell$
#variable_conflict use_variable
DECLARE
  root CONSTANT oid := @root@;
  match record;
  differs boolean;
  problem text;
BEGIN
  IF current_setting('rowbell.fallback', true) IS DISTINCT FROM 'on' THEN
    BEGIN
      IF pg_sequence_last_value('rowbell.table_flags')
         & (1::bigint << (root::bigint % 62)::integer) = 0 THEN
        RETURN NULL;
      END IF;
      -- A writer outside READ COMMITTED sees old registrations, so it notifies all listeners.
      IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        IF TG_OP = 'TRUNCATE' THEN
          PERFORM rowbell.notify(root, NULL, NULL);
@updated@
        ELSE
          PERFORM rowbell.notify(root, NULL, @all_keys@);
        END IF;
        RETURN NULL;
      ELSIF TG_OP = 'TRUNCATE' THEN
        PERFORM rowbell.notify(root, array_agg(DISTINCT r.listener), NULL)
        FROM rowbell.registration AS r WHERE r.table_oid = root HAVING count(*) > 0;
        RETURN NULL;
      END IF;
@body@
      RETURN NULL;
    EXCEPTION
      WHEN datatype_mismatch THEN
        -- This session has compiled the function for the old type of a key that was altered since.
        -- It does not compile it again, so until the session ends it notifies all listeners.
        BEGIN
          EXECUTE @retyped_keys@ INTO match USING OLD;
          PERFORM rowbell.notify(root, NULL, match.keys);
          RETURN NULL;
        EXCEPTION WHEN OTHERS THEN
          problem := SQLERRM;
          PERFORM set_config('rowbell.fallback', 'on', true);
        END;
      WHEN OTHERS THEN
        problem := SQLERRM;
        PERFORM set_config('rowbell.fallback', 'on', true);
    END;
  END IF;
  BEGIN
    IF pg_notification_queue_usage() <= 0.5
       AND lower(current_setting('rowbell.notify', true))
           NOT IN ('off', 'false', 'no', '0') IS NOT FALSE THEN
      PERFORM pg_notify('rowbell', '1:' || root || ':*');
    ELSIF current_setting('rowbell.uncounted', true) IS DISTINCT FROM 'on' THEN
      PERFORM set_config('lock_timeout', '1ms', true);  -- one wait is enough
      PERFORM nextval('rowbell.unsent_notifications');
    END IF;
  EXCEPTION WHEN OTHERS THEN
    problem := concat_ws('; nor could they be notified: ', problem, SQLERRM);
    PERFORM set_config('rowbell.uncounted', 'on', true);
  END;
  IF problem IS NOT NULL THEN
    RAISE WARNING USING
      MESSAGE = 'rowbell: the trigger on ' || root::regclass || ' failed, so all listeners read'
                || ' the table again: ' || problem,
      HINT = 'Run install_triggers() again, for example by a migration.';
  END IF;
  RETURN NULL;
END
$rowbell$
