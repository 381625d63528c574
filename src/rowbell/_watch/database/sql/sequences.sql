-- A change of a sequence is visible to all sessions at once, independent of their snapshots.
-- has_registrations: 0 while no row is registered, so that triggers do not search.
-- unsent_notifications: counts notifications that were due and could not be sent.
-- listener_number: numbers the listeners.
DO $rowbell$
BEGIN
  IF to_regclass('rowbell.has_registrations') IS NULL THEN
    CREATE SEQUENCE rowbell.has_registrations MINVALUE 0 MAXVALUE 1 START 0;
    PERFORM setval('rowbell.has_registrations', 0);
  END IF;
  IF to_regclass('rowbell.unsent_notifications') IS NULL THEN
    CREATE SEQUENCE rowbell.unsent_notifications CYCLE;
  END IF;
  IF to_regclass('rowbell.listener_number') IS NULL THEN
    CREATE SEQUENCE rowbell.listener_number;
  END IF;
END
$rowbell$
