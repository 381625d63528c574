-- Raises the flags of tables, if they are not raised. First a lock that keeps flags from being
-- lowered until the end of the transaction. Two sessions that add different flags at once would lose
-- one of them, so a second lock lets only one session at a time do so. It is on a table that nobody
-- else locks, and it is taken in a subtransaction that is rolled back: the lock is released at once,
-- and the sequence keeps its value.
CREATE OR REPLACE FUNCTION rowbell.raise_flags(flags bigint)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $rowbell$
BEGIN
  LOCK TABLE rowbell.registration IN ROW EXCLUSIVE MODE;
  IF flags & ~ coalesce(pg_sequence_last_value('rowbell.table_flags'), 0) <> 0 THEN
    BEGIN
      LOCK TABLE rowbell.registration_limit IN SHARE UPDATE EXCLUSIVE MODE;
      PERFORM setval('rowbell.table_flags',
                     flags | coalesce(pg_sequence_last_value('rowbell.table_flags'), 0));
      RAISE EXCEPTION USING ERRCODE = 'RB000', MESSAGE = 'releases the lock';
    EXCEPTION WHEN SQLSTATE 'RB000' THEN
      RETURN;
    END;
  END IF;
END
$rowbell$
