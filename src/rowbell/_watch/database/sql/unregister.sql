-- Deletes registrations of a listener of this session, by default the one of open_listener().
CREATE OR REPLACE FUNCTION rowbell.unregister(
  row_tables oid[], key_hashes bigint[], for_listener bigint DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
#variable_conflict use_column
DECLARE
  own CONSTANT bigint := (SELECT max(l.number) FROM rowbell.listener AS l
                          WHERE l.backend_pid = pg_backend_pid()
                            AND l.number = coalesce(for_listener, l.number));
  deleted bigint;
BEGIN
  DELETE FROM rowbell.registration AS r
  USING unnest(row_tables, key_hashes) AS w(table_oid, key_hash)
  WHERE r.table_oid = w.table_oid AND r.key_hash = w.key_hash AND r.listener = own;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  UPDATE rowbell.listener SET registrations = registrations - deleted WHERE number = own;
END
$rowbell$
