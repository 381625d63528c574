-- A change of a sequence is visible to all sessions at once, independent of their snapshots.
-- table_flags: a bit for each table, 0 while none of its rows is registered: triggers do not search.
-- unsent_notifications: counts notifications that were due and could not be sent.
-- listener_number: numbers the listeners.
-- relay_term: numbers the terms of relays that lead.
DO $rowbell$
BEGIN
  IF to_regclass('rowbell.table_flags') IS NULL THEN
    CREATE SEQUENCE rowbell.table_flags MINVALUE 0 START 0;
    PERFORM setval('rowbell.table_flags', 0);
  END IF;
  IF to_regclass('rowbell.unsent_notifications') IS NULL THEN
    CREATE SEQUENCE rowbell.unsent_notifications CYCLE;
  END IF;
  IF to_regclass('rowbell.listener_number') IS NULL THEN
    CREATE SEQUENCE rowbell.listener_number;
  END IF;
  IF to_regclass('rowbell.relay_term') IS NULL THEN
    CREATE SEQUENCE rowbell.relay_term;
  END IF;
END
$rowbell$
