-- This value makes channels unguessable: 244 random bits. If it were in a table, every role that
-- dumps the database would have to read it. pg_dump does not read or lock a materialized view, and
-- a restore creates a new value.
DO $rowbell$
BEGIN
  IF to_regclass('rowbell.channel_secret') IS NULL THEN
    CREATE MATERIALIZED VIEW rowbell.channel_secret AS
      SELECT gen_random_uuid()::text || gen_random_uuid()::text AS value;
  ELSIF NOT (SELECT relispopulated FROM pg_class
             WHERE oid = to_regclass('rowbell.channel_secret')) THEN
    REFRESH MATERIALIZED VIEW rowbell.channel_secret;
  END IF;
END
$rowbell$
