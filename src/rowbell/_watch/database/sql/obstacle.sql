-- Why a table cannot notify; NULL if it can. `options` is the argument that the table's triggers
-- must have, `watched` the columns to be watched.
CREATE OR REPLACE FUNCTION rowbell.obstacle(
  role name, table_oid oid, options bytea, watched text[])
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
DECLARE
  -- A dropped column needs no privilege: the next read of the waits that watch it fails.
  needed CONSTANT text[] := ARRAY(
    SELECT a.attname FROM pg_attribute AS a
    WHERE a.attrelid = table_oid AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attname = ANY (watched) OR convert_from(options, 'UTF8')::jsonb -> 'key' ? a.attname));
  named CONSTANT text[] := ARRAY['rowbell_update', 'rowbell_delete', 'rowbell_truncate']
    || CASE WHEN convert_from(options, 'UTF8')::jsonb ? 'inserts' THEN ARRAY['rowbell_insert']
       ELSE '{}' END;
  -- Triggers that also fire for inserts serve a listener that does not need that.
  with_inserts CONSTANT bytea := convert_to(
    rtrim(convert_from(options, 'UTF8'), '}') || ',"inserts":true}', 'UTF8');
  tree CONSTANT oid[] := ARRAY(
    SELECT table_oid UNION SELECT relid FROM pg_partition_tree(table_oid));
  relation pg_class;
  triggers bigint;
  outdated bigint;
BEGIN
  SELECT c.* INTO relation FROM pg_class AS c WHERE c.oid = table_oid;
  IF relation.oid IS NULL THEN
    RETURN 'trigger_missing';
  ELSIF relation.relkind NOT IN ('r', 'p') THEN
    RETURN 'not_a_table';
  ELSIF role IS NULL  -- it was dropped
    OR NOT has_function_privilege(
      role, 'rowbell.register(oid[],bytea[],text[],oid[],bigint[],text[],bigint)', 'EXECUTE')
    OR NOT needed <@ rowbell.permitted_columns(role, table_oid)
  THEN
    RETURN 'not_permitted';
  ELSIF relation.relrowsecurity
    AND NOT EXISTS (SELECT FROM pg_roles AS r
                    WHERE r.rolname = role AND (r.rolsuper OR r.rolbypassrls))
    AND (relation.relforcerowsecurity OR NOT pg_has_role(role, relation.relowner, 'USAGE'))
  THEN
    RETURN 'row_level_security';
  ELSIF EXISTS (SELECT FROM pg_inherits AS i
                WHERE i.inhrelid = table_oid OR i.inhparent = table_oid AND relation.relkind = 'r')
  THEN
    RETURN 'inheritance';
  END IF;
  SELECT count(*), count(*) FILTER (WHERE t.tgargs NOT IN (options || decode('00', 'hex'),
                                                          with_inserts || decode('00', 'hex'))
                                       OR NOT rowbell.is_intact(t.oid, options))
  INTO triggers, outdated
  FROM pg_trigger AS t
  WHERE t.tgrelid = table_oid AND t.tgname = ANY (named);
  RETURN CASE
    WHEN triggers < cardinality(named) THEN 'trigger_missing'
    WHEN outdated > 0 THEN 'trigger_outdated'
    WHEN EXISTS (SELECT FROM pg_trigger AS t
                 WHERE t.tgname = ANY (named) AND t.tgenabled NOT IN ('O', 'A')
                   AND t.tgrelid = ANY (tree))
      THEN 'trigger_disabled'
  END;
END
$rowbell$
