-- Rewrites the table of registrations when it is large and consists mostly of dead rows, which
-- VACUUM cannot remove while an old transaction runs. The lock lasts until the caller's transaction
-- ends, so only members of the schema's owner may call this. Writers that have read the table hold
-- a lock on it until they commit; this function waits for them only 20 ms.
CREATE OR REPLACE FUNCTION rowbell.compact()
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms'
AS $rowbell$
DECLARE
  kept rowbell.registration[];
BEGIN
  IF pg_total_relation_size('rowbell.registration') < 4194304
     OR current_setting('transaction_isolation') <> 'read committed'
     OR pg_total_relation_size('rowbell.registration')
        < 400 * (SELECT count(*) FROM rowbell.registration) THEN
    RETURN;
  END IF;
  LOCK TABLE rowbell.registration IN ACCESS EXCLUSIVE MODE;
  kept := ARRAY(SELECT r FROM rowbell.registration AS r);
  TRUNCATE rowbell.registration;
  INSERT INTO rowbell.registration SELECT * FROM unnest(kept);
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
  RETURN;
END
$rowbell$
