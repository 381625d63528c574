-- Registers rows for a listener of this session: by default for the one of open_listener(), and then
-- the caller's rights count; for one of admit(), the rights of the listener's role. First the lock,
-- then the flags, then the rows: while lower_flags() holds its lock, this function waits; after that
-- it sees that a flag is not raised, and raises it. It returns the obstacle of each table, if there
-- is one, and the table's version. A table may be named several times, with other options or columns.
-- `row_columns` has the columns that are watched in each row. NULL means any column; to a
-- role that may not SELECT all columns, it means those of `table_columns`. A row is not registered
-- if the role may not SELECT its columns. Columns that do not exist, for example because they were
-- dropped, are left out; a row with no other column is not registered. A listener of admit() is that
-- of several processes: it keeps the columns that a row had, unless the role may not SELECT them. A virtual generated column is not stored, so triggers
-- do not see its value; the columns that it is computed from are registered with it. `over_limit`
-- means that nothing was registered, because the role would have more registrations than
-- registration_limit allows (by default a hundred thousand).
CREATE OR REPLACE FUNCTION rowbell.register(
  tables oid[], options bytea[], table_columns text[],
  row_tables oid[], key_hashes bigint[], row_columns text[], for_listener bigint DEFAULT NULL,
  OUT obstacles text[], OUT versions bigint[], OUT over_limit boolean)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
#variable_conflict use_column
DECLARE
  caller name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
  own rowbell.listener;
  added bigint;
BEGIN
  SELECT l.* INTO own FROM rowbell.listener AS l
  WHERE l.backend_pid = pg_backend_pid() AND l.number = coalesce(for_listener, l.number)
  ORDER BY l.number DESC LIMIT 1;
  IF own.number IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = 'rowbell: this session is not a listener',
      HINT = 'Call rowbell.open_listener() first.';
  END IF;
  IF for_listener IS NOT NULL THEN
    caller := (SELECT r.rolname FROM pg_roles AS r WHERE r.oid = own.role_oid);
  END IF;
  SELECT array_agg(rowbell.obstacle(caller, t.oid, t.options, t.columns::text[]) ORDER BY t.place),
         array_agg(rowbell.table_version(t.oid) ORDER BY t.place)
  INTO obstacles, versions
  FROM unnest(tables, options, table_columns) WITH ORDINALITY AS t(oid, options, columns, place);
  over_limit := cardinality(key_hashes) + (
    SELECT coalesce(sum(l.registrations), 0) FROM rowbell.listener AS l
    WHERE l.role_oid = own.role_oid) > coalesce(
    (SELECT m.registrations FROM rowbell.registration_limit AS m
     JOIN pg_roles AS r ON r.rolname = m.role_name WHERE r.oid = own.role_oid), 100000);
  IF over_limit THEN
    RETURN;
  END IF;
  PERFORM rowbell.raise_flags(
    (SELECT bit_or(rowbell.table_flag(t.oid)) FROM unnest(tables, obstacles) AS t(oid, obstacle)
     WHERE t.obstacle IS NULL AND t.oid = ANY (row_tables)));
  WITH sound AS MATERIALIZED (
    SELECT t.oid, e.existing, p.permitted, CASE WHEN cardinality(e.existing) > cardinality(p.permitted)
           THEN ARRAY(SELECT c FROM unnest(tables, obstacles, table_columns)
                        AS named(oid, obstacle, columns)
                      CROSS JOIN LATERAL unnest(coalesce(named.columns::text[], p.permitted)) AS c
                      WHERE named.oid = t.oid AND named.obstacle IS NULL
                      INTERSECT SELECT unnest(p.permitted)) END AS instead_of_any
    FROM (SELECT DISTINCT named.oid FROM unnest(tables, obstacles) AS named(oid, obstacle)
          WHERE named.obstacle IS NULL) AS t
    CROSS JOIN LATERAL (SELECT rowbell.permitted_columns(caller, t.oid)) AS p(permitted)
    CROSS JOIN LATERAL (SELECT ARRAY(
      SELECT a.attname::text FROM pg_attribute AS a
      WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS e(existing)
  ), lists AS MATERIALIZED (
    SELECT d.columns AS given, ARRAY(SELECT DISTINCT c FROM unnest(d.columns::text[]) AS c) AS names
    FROM (SELECT DISTINCT c AS columns FROM unnest(row_columns) AS c WHERE c IS NOT NULL) AS d
  ), fitting AS MATERIALIZED (
    SELECT s.oid, l.given, ARRAY(SELECT unnest(l.names) INTERSECT SELECT unnest(s.existing)) AS names
    FROM sound AS s CROSS JOIN lists AS l
  ), derived AS MATERIALIZED (
    SELECT s.oid, l.given, array_agg(DISTINCT source.attname::text) AS names
    FROM sound AS s CROSS JOIN (SELECT given, names FROM lists UNION ALL SELECT NULL, NULL) AS l
    JOIN pg_attribute AS a ON a.attrelid = s.oid AND a.attgenerated NOT IN ('', 's')
                          AND a.attname::text = ANY (coalesce(l.names, s.instead_of_any))
    JOIN pg_attrdef AS e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
    JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
    JOIN pg_attribute AS source ON source.attrelid = a.attrelid AND source.attnum = d.refobjsubid
                               AND source.attnum > 0
    GROUP BY s.oid, l.given
  ), registered AS (
    INSERT INTO rowbell.registration AS r (table_oid, key_hash, listener, columns)
    SELECT DISTINCT ON (w.table_oid, w.key_hash)
           w.table_oid, w.key_hash, own.number,
           CASE WHEN k.table_oid IS NULL THEN n.names
                WHEN n.names IS NULL OR k.columns IS NULL AND s.instead_of_any IS NULL THEN NULL
                ELSE ARRAY(SELECT unnest(n.names) UNION SELECT c FROM unnest(k.columns) AS c
                           WHERE c = ANY (s.permitted) OR c <> ALL (s.existing)) END
    FROM unnest(row_tables, key_hashes, row_columns) AS w(table_oid, key_hash, columns)
    JOIN sound AS s ON s.oid = w.table_oid
    LEFT JOIN fitting AS f ON f.oid = w.table_oid AND f.given = w.columns
    LEFT JOIN derived AS d ON d.oid = w.table_oid AND d.given IS NOT DISTINCT FROM w.columns
    CROSS JOIN LATERAL (SELECT coalesce(f.names, s.instead_of_any) || d.names) AS n(names)
    LEFT JOIN rowbell.registration AS k ON k.table_oid = w.table_oid AND k.key_hash = w.key_hash
      AND k.listener = own.number AND for_listener IS NOT NULL
    WHERE w.columns IS NULL OR f.names <@ s.permitted AND f.names <> '{}'
    ON CONFLICT (table_oid, key_hash, listener) DO UPDATE SET columns = excluded.columns
    RETURNING (r.xmax = 0)::integer AS new
  )
  SELECT coalesce(sum(new), 0) INTO added FROM registered;
  UPDATE rowbell.listener SET registrations = registrations + added WHERE number = own.number;
END
$rowbell$
