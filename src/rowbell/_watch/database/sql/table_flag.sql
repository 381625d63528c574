-- The flag of a table in the sequence table_flags: one of 62 bits. Tables may share one; then a
-- writer of one of them searches without need. Triggers compute the same.
CREATE OR REPLACE FUNCTION rowbell.table_flag(table_oid oid)
RETURNS bigint LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT 1::bigint << (table_oid::bigint % 62)::integer
$rowbell$
