-- Raises the flags of tables, if they are not raised. First a lock that keeps flags from being
-- lowered until the end of the transaction. Two sessions that add different flags at once would lose
-- one of them. So only one at a time can insert the listener 0. That is rolled back at once; the
-- sequence keeps its value. It is no lock of a table: any role can hold those for a moment, as with
-- COMMENT. Messages are off: a client that does not read them could hold up the rollback.
CREATE OR REPLACE FUNCTION rowbell.raise_flags(flags bigint)
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET client_min_messages = 'error'
AS $rowbell$
BEGIN
  LOCK TABLE rowbell.registration IN ROW EXCLUSIVE MODE;
  IF flags & ~ coalesce(pg_sequence_last_value('rowbell.table_flags'), 0) <> 0 THEN
    BEGIN
      INSERT INTO rowbell.listener VALUES (0, 0, NULL, 0, 0);
      -- The owner may have restarted the sequence. Then it has no value.
      PERFORM setval('rowbell.table_flags', flags | coalesce(
        pg_sequence_last_value('rowbell.table_flags'), rowbell.needed_flags()));
      RAISE EXCEPTION USING ERRCODE = 'RB000', MESSAGE = 'lets the next session do so';
    EXCEPTION WHEN SQLSTATE 'RB000' THEN
      RETURN;
    END;
  END IF;
END
$rowbell$
