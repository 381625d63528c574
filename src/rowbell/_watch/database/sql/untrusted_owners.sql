-- The roles that could change the code that writers or listeners of these tables run, but could not
-- change the tables. A trigger function runs as every writer. So its owner, and the owners of what
-- it reads, must be the table's owner, the current role, or a role that may become one of them, as
-- superusers may. The client runs this query, because functions of the schema belong to its owner.
SELECT c.oid AS table_oid, o.what, coalesce(r.rolname, 'PUBLIC') AS role
FROM pg_catalog.pg_class AS c
CROSS JOIN LATERAL (
  SELECT 'the schema rowbell' AS what, n.nspowner AS role_oid
  FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'rowbell'
  UNION
  SELECT 'the right to create in the schema rowbell', a.grantee
  FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a
  WHERE n.nspname = 'rowbell' AND a.privilege_type = 'CREATE'
  UNION
  SELECT 'rowbell.' || k.relname::pg_catalog.text, k.relowner
  FROM pg_catalog.pg_class AS k
  JOIN pg_catalog.pg_namespace AS n ON n.oid = k.relnamespace WHERE n.nspname = 'rowbell'
  UNION
  SELECT 'rowbell.' || f.proname::pg_catalog.text || '()', f.proowner
  FROM pg_catalog.pg_proc AS f
  JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace WHERE n.nspname = 'rowbell'
  UNION
  SELECT 'the trigger function', f.proowner
  FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
  WHERE t.tgrelid = c.oid
    AND t.tgname IN ('rowbell_update', 'rowbell_delete', 'rowbell_truncate',
                       'rowbell_insert')
) AS o
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = o.role_oid
WHERE c.oid = ANY (@tables@)
  AND (o.role_oid = 0::pg_catalog.oid
       OR NOT (pg_catalog.pg_has_role(o.role_oid, c.relowner, 'MEMBER')
               OR pg_catalog.pg_has_role(o.role_oid, current_user, 'MEMBER')))
ORDER BY c.oid, o.what DESC
