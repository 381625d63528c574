-- Indexes for the listener's queries on its own rows, and keys of tables that were restored without
-- them. CREATE INDEX IF NOT EXISTS would lock the table even if the index exists.
DO $rowbell$
BEGIN
  IF to_regclass('rowbell.registration_pkey') IS NULL THEN
    ALTER TABLE rowbell.registration ADD PRIMARY KEY (table_oid, key_hash, listener);
  END IF;
  IF to_regclass('rowbell.listener_pkey') IS NULL THEN
    ALTER TABLE rowbell.listener ADD PRIMARY KEY (number);
  END IF;
  IF to_regclass('rowbell.registration_limit_pkey') IS NULL THEN
    ALTER TABLE rowbell.registration_limit ADD PRIMARY KEY (role_name);
  END IF;
  IF to_regclass('rowbell.registration_listener') IS NULL THEN
    CREATE INDEX registration_listener ON rowbell.registration (listener);
  END IF;
END
$rowbell$
