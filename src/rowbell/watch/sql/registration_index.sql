-- For what a listener does with its own rows. IF NOT EXISTS would lock the table all the same.
DO $rowbell$
BEGIN
  IF to_regclass('rowbell.registration_listener') IS NULL THEN
    CREATE INDEX registration_listener ON rowbell.registration (listener);
  END IF;
END
$rowbell$
