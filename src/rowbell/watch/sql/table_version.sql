-- A hash that changes when a table is renamed, moved or rewritten, when its partitions change, or
-- when its triggers are created, dropped, enabled or disabled.
CREATE OR REPLACE FUNCTION rowbell.table_version(table_oid oid)
RETURNS bigint LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  WITH tree AS (SELECT table_oid AS oid UNION SELECT relid::oid FROM pg_partition_tree(table_oid))
  SELECT hashtextextended(string_agg(fact, ';' ORDER BY fact), 0)
  FROM (SELECT concat_ws(' ', c.oid, c.relname, c.relnamespace, c.relfilenode) AS fact
        FROM pg_class AS c WHERE c.oid IN (SELECT oid FROM tree)
        UNION ALL
        SELECT concat_ws(' ', 'trigger', t.oid, t.xmin, t.tgenabled)
        FROM pg_trigger AS t
        WHERE t.tgrelid IN (SELECT oid FROM tree)
          AND t.tgname IN ('rowbell_update', 'rowbell_delete', 'rowbell_truncate')) AS facts
$rowbell$
