-- The version of this schema, which only increases, and the oldest version that a library may be
-- made for to work with this schema.
CREATE OR REPLACE FUNCTION rowbell.schema_version(OUT version integer, OUT compatible_with integer)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT 1, 1
$rowbell$
