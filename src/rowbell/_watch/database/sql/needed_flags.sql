-- The flags of all tables of which a row is registered. The index is searched once for each table,
-- also if the plan was made while few rows were registered.
CREATE OR REPLACE FUNCTION rowbell.needed_flags()
RETURNS bigint LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $rowbell$
  WITH RECURSIVE registered AS (
    SELECT min(r.table_oid) AS oid FROM rowbell.registration AS r
    UNION ALL
    SELECT (SELECT min(r.table_oid) FROM rowbell.registration AS r WHERE r.table_oid > t.oid)
    FROM registered AS t WHERE t.oid IS NOT NULL
  )
  SELECT coalesce(bit_or(rowbell.table_flag(t.oid)), 0)
  FROM registered AS t WHERE t.oid IS NOT NULL
$rowbell$
