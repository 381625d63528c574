-- The columns of a table that a role may SELECT.
CREATE OR REPLACE FUNCTION rowbell.permitted_columns(role name, table_oid oid)
RETURNS text[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT ARRAY(
    SELECT a.attname::text FROM pg_attribute AS a
    WHERE a.attrelid = table_oid AND a.attnum > 0 AND NOT a.attisdropped
      AND has_column_privilege(role, table_oid, a.attnum, 'SELECT'))
$rowbell$
