-- The version of this schema, which only grows, and the oldest that a library may have been made
-- for in order to work with it.
CREATE OR REPLACE FUNCTION rowbell.schema_version(OUT version integer, OUT compatible_with integer)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT 1, 1
$rowbell$
