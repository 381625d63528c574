-- The privileges on all objects of the schema. They are granted explicitly: default privileges may
-- have added others, and a dump restored without privileges has none. What writers call or read is
-- granted to PUBLIC, because the writers cannot be listed: cascades, deferred triggers and
-- subscriptions run as other roles. Only register() keeps the privileges that an administrator has
-- granted, if any role but the owner may call it, and so do lead() and admit(), which are for relays.
DO $rowbell$
DECLARE
  right_of_others record;
BEGIN
  FOR right_of_others IN
    SELECT DISTINCT format('REVOKE ALL ON %s FROM %s CASCADE', o.name,
             CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END) AS statement
    FROM (
      SELECT ''::name AS name_alone, 'SCHEMA rowbell' AS name, n.nspowner AS owner,
             coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl
      FROM pg_namespace AS n WHERE n.nspname = 'rowbell'
      UNION ALL
      SELECT '', CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass,
             c.relowner, coalesce(c.relacl, acldefault(
               CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner))
      FROM pg_class AS c
      WHERE c.relnamespace = 'rowbell'::regnamespace AND c.relkind IN ('r', 'm', 'S')
      UNION ALL
      SELECT f.proname, 'FUNCTION ' || f.oid::regprocedure, f.proowner,
             coalesce(f.proacl, acldefault('f', f.proowner))
      FROM pg_proc AS f
      WHERE f.pronamespace = 'rowbell'::regnamespace AND f.prorettype <> 'trigger'::regtype
        AND NOT (f.proname = 'register' AND EXISTS (
          SELECT FROM aclexplode(f.proacl) AS given WHERE given.grantee <> f.proowner))
    ) AS o, aclexplode(o.acl) AS a
    WHERE a.grantee <> o.owner
      -- Of the roles that may relay those are kept that did not get it by default privileges.
      AND NOT (o.name_alone IN ('lead', 'admit') AND a.grantee <> 0 AND NOT EXISTS (
                 SELECT FROM pg_default_acl AS d, aclexplode(d.defaclacl) AS given
                 WHERE d.defaclrole = o.owner AND d.defaclobjtype = 'f'
                   AND given.grantee = a.grantee))
  LOOP
    EXECUTE right_of_others.statement;
  END LOOP;
  GRANT USAGE ON SCHEMA rowbell TO PUBLIC;
  GRANT SELECT ON rowbell.registration, rowbell.listener, rowbell.registration_limit TO PUBLIC;
  GRANT SELECT ON SEQUENCE rowbell.table_flags, rowbell.listener_number, rowbell.relay_term
  TO PUBLIC;
  GRANT SELECT, USAGE ON SEQUENCE rowbell.unsent_notifications TO PUBLIC;
  GRANT EXECUTE ON FUNCTION
    rowbell.schema_version(), rowbell.notify(oid, bigint[], bigint[]),
    rowbell.open_listener(), rowbell.own_channel(bigint), rowbell.close_listener(),
    rowbell.introduce(text, text),
    rowbell.delete_stale(), rowbell.lower_flags(), rowbell.table_version(oid),
    rowbell.permitted_columns(name, oid), rowbell.is_intact(oid, bytea),
    rowbell.obstacle(name, oid, bytea, text[]),
    rowbell.unregister(oid[], bigint[], bigint),
    rowbell.heartbeat(oid[], bytea[], text[], bigint),
    rowbell.tables_without_writers(oid[], bigint)
  TO PUBLIC;
  IF NOT EXISTS (
    SELECT FROM pg_proc AS f, aclexplode(f.proacl) AS given
    WHERE f.pronamespace = 'rowbell'::regnamespace AND f.proname = 'register'
      AND given.grantee <> f.proowner)
  THEN
    GRANT EXECUTE ON FUNCTION
      rowbell.register(oid[], bytea[], text[], oid[], bigint[], text[], bigint) TO PUBLIC;
  END IF;
END
$rowbell$
