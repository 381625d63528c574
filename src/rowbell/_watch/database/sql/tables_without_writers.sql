-- The tables of these that no transaction from before a boundary can still change. A writer holds
-- ROW EXCLUSIVE on its table, or on the partition, until its commit is visible.
CREATE OR REPLACE FUNCTION rowbell.tables_without_writers(tables oid[], boundary bigint)
RETURNS SETOF oid LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  WITH held AS MATERIALIZED (SELECT * FROM pg_locks)
  SELECT t.oid FROM unnest(tables) AS t(oid)
  WHERE NOT EXISTS (
    SELECT FROM held AS lock
    JOIN held AS writer ON writer.virtualtransaction = lock.virtualtransaction
                       AND writer.locktype = 'transactionid' AND writer.mode = 'ExclusiveLock'
    WHERE lock.locktype = 'relation' AND lock.granted
      AND lock.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND lock.relation IN (SELECT t.oid UNION SELECT relid FROM pg_partition_tree(t.oid))
      AND lock.mode NOT IN ('AccessShareLock', 'RowShareLock')
      AND age(writer.transactionid) >= age(boundary::text::xid8::xid))
$rowbell$
