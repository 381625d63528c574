-- Lowers the flags of tables of which no row is registered any more. register() holds ROW EXCLUSIVE
-- on the table until its commit, so while a SHARE lock is held nothing is being registered. The lock
-- is taken in a subtransaction that is rolled back: the lock is released before this function
-- returns, and the sequence keeps its value. Messages are off: a client that does not read them
-- could hold up the rollback. This runs only in READ COMMITTED: an older snapshot would not show the
-- rows that were registered since, or would show rows that are not registered any more.
CREATE OR REPLACE FUNCTION rowbell.lower_flags()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' SET client_min_messages = 'error'
AS $rowbell$
DECLARE
  needed bigint;
  raised bigint;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RETURN;
  END IF;
  -- In this order: the flag of a row that is found was raised before.
  needed := rowbell.needed_flags();
  raised := coalesce(pg_sequence_last_value('rowbell.table_flags'), 0);
  IF needed & ~ raised <> 0 THEN
    -- After a restored dump or a setval() by the owner: changes since then were not notified.
    PERFORM rowbell.raise_flags(needed);
    PERFORM nextval('rowbell.unsent_notifications');
  ELSIF raised <> needed THEN
    LOCK TABLE rowbell.registration IN SHARE MODE;
    PERFORM setval('rowbell.table_flags', rowbell.needed_flags());
    RAISE EXCEPTION USING ERRCODE = 'RB000', MESSAGE = 'releases the lock';
  END IF;
EXCEPTION WHEN SQLSTATE 'RB000' OR lock_not_available OR deadlock_detected THEN
  RETURN;
END
$rowbell$
