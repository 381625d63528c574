-- Makes this session the one that leads among the relays of a name, if no other session does: an
-- advisory lock says so, until the session ends. It never waits for the lock: a session that waits
-- has a snapshot, and would hold VACUUM back. `term` is above that of every leader before. If there
-- is another leader, `term` is NULL, and the others say which session that is.
CREATE OR REPLACE FUNCTION rowbell.lead(
  relay text, OUT term bigint, OUT leader_pid integer, OUT leader_role name)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
DECLARE
  key CONSTANT bigint := hashtextextended('rowbell relay ' || relay, 0);
BEGIN
  IF pg_try_advisory_lock(key) THEN
    term := nextval('rowbell.relay_term');
  ELSE
    SELECT l.pid, a.usename INTO leader_pid, leader_role
    FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND l.classid::bigint << 32 | l.objid::bigint = key;
  END IF;
END
$rowbell$
