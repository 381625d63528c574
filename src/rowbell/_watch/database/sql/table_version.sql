-- A hash that changes when a table is renamed, moved or rewritten, when its columns, partitions or
-- parents change, or when its triggers are created, dropped, enabled or disabled.
CREATE OR REPLACE FUNCTION rowbell.table_version(table_oid oid)
RETURNS bigint LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  WITH tree AS (SELECT table_oid AS oid UNION SELECT relid::oid FROM pg_partition_tree(table_oid))
  SELECT hashtextextended(string_agg(fact, ';' ORDER BY fact), 0)
  FROM (SELECT concat_ws(' ', c.oid, c.relname, c.relnamespace, c.relfilenode) AS fact
        FROM pg_class AS c WHERE c.oid IN (SELECT oid FROM tree)
        UNION ALL
        SELECT concat_ws(' ', 'parent', i.inhparent)
        FROM pg_inherits AS i WHERE i.inhrelid = table_oid OR i.inhparent = table_oid
        UNION ALL
        SELECT concat_ws(' ', 'column', a.attnum, a.attname, a.atttypid, a.attisdropped, d.xmin)
        FROM pg_attribute AS a
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = table_oid AND a.attnum > 0
        UNION ALL
        SELECT concat_ws(' ', 'label', e.oid, e.enumlabel)
        FROM pg_enum AS e JOIN pg_attribute AS a ON a.atttypid = e.enumtypid
        WHERE a.attrelid = table_oid AND a.attnum > 0
        UNION ALL
        SELECT concat_ws(' ', 'trigger', t.oid, t.xmin, t.tgenabled)
        FROM pg_trigger AS t
        WHERE t.tgrelid IN (SELECT oid FROM tree)
          AND t.tgname IN ('rowbell_update', 'rowbell_delete', 'rowbell_truncate',
                       'rowbell_insert')) AS facts
$rowbell$
