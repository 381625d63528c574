-- Sets has_registrations to 0 if nothing is registered. register() holds ROW EXCLUSIVE on the table
-- until its commit, so while a SHARE lock is held nothing is being registered. The lock is taken in
-- a subtransaction that is rolled back: the lock is released before this function returns, and the
-- sequence keeps its value. This runs only in READ COMMITTED: an older snapshot would not show the
-- rows that were registered since.
CREATE OR REPLACE FUNCTION rowbell.lower_flag()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms'
AS $rowbell$
DECLARE
  lowered CONSTANT boolean :=
    pg_sequence_last_value('rowbell.has_registrations') IS NOT DISTINCT FROM 0;
BEGIN
  IF EXISTS (SELECT FROM rowbell.registration) THEN
    -- After a restored dump or a setval() by the owner: changes since then were not notified.
    IF lowered THEN
      PERFORM setval('rowbell.has_registrations', 1);
      PERFORM nextval('rowbell.unsent_notifications');
    END IF;
  ELSIF NOT lowered AND current_setting('transaction_isolation') = 'read committed' THEN
    LOCK TABLE rowbell.registration IN SHARE MODE;
    IF NOT EXISTS (SELECT FROM rowbell.registration) THEN
      PERFORM setval('rowbell.has_registrations', 0);
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'RB000', MESSAGE = 'releases the lock';
  END IF;
EXCEPTION WHEN SQLSTATE 'RB000' OR lock_not_available OR deadlock_detected THEN
  RETURN;
END
$rowbell$
