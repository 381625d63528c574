-- What makes channels unguessable: 244 random bits. A table would have to be readable by those who
-- dump the database; pg_dump neither reads nor locks a materialized view, and makes a new value
-- where it restores one.
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
