@gates@
      IF TG_OP <> 'UPDATE' THEN
        PERFORM rowbell.notify(root, array_agg(r.listener), array_agg(r.key_hash))
        FROM old_rows AS o CROSS JOIN LATERAL (@registered_old@) AS r;
        RETURN NULL;
      END IF;
      -- Stored bytes are compared: no operator, cast or setting has an influence.
      IF match.looked = 1 THEN
        FOR match IN
          SELECT r.columns, array_agg(r.listener) AS listeners, array_agg(r.key_hash) AS key_hashes,
                 bool_or(r.columns IS NULL OR @old_key@ <> @new_key@) AS differs
          FROM old_rows AS o CROSS JOIN new_rows AS n CROSS JOIN LATERAL (@registered_old@) AS r
          WHERE (o.*)::record *<> (n.*)::record GROUP BY r.columns
        LOOP
          differs := match.differs;
          IF NOT differs THEN
            BEGIN
              EXECUTE format(
                'SELECT record_image_ne(ROW(%1$s), ROW(%2$s)) FROM old_rows AS o, new_rows AS n',
                (SELECT string_agg(format('o.%I', c.name), ', ')
                 FROM unnest(match.columns) AS c(name)),
                (SELECT string_agg(format('n.%I', c.name), ', ')
                 FROM unnest(match.columns) AS c(name)))
              INTO differs;
            EXCEPTION WHEN undefined_column THEN  -- renamed or dropped since it was registered
              differs := true;
            END;
          END IF;
          IF differs THEN
            PERFORM rowbell.notify(root, match.listeners, match.key_hashes);
          END IF;
        END LOOP;
        RETURN NULL;
      END IF;
      -- Many rows are grouped, not joined: the cached plan suits a few rows and a hundred thousand.
      FOR match IN
        SELECT changed.columns,
               array_agg(changed.listener) AS listeners, array_agg(changed.key_hash) AS key_hashes
        FROM (SELECT i.listener, i.key_hash, i.columns
              FROM (SELECT r.*, 0 AS age, (o.*)::record AS image
                    FROM old_rows AS o CROSS JOIN LATERAL (@registered_old@) AS r
                    UNION ALL
                    SELECT r.*, 1 AS age, (n.*)::record AS image
                    FROM new_rows AS n CROSS JOIN LATERAL (@registered_new@) AS r) AS i
              GROUP BY i.listener, i.key_hash, i.columns
              HAVING count(*) <> 2 OR count(*) FILTER (WHERE i.age = 0) <> 1
                  OR (array_agg(i.image ORDER BY i.age))[1]
                     *<> (array_agg(i.image ORDER BY i.age))[2]) AS changed
        GROUP BY changed.columns
      LOOP
        IF match.columns IS NULL THEN
          PERFORM rowbell.notify(root, match.listeners, match.key_hashes);
          CONTINUE;
        END IF;
        BEGIN
          EXECUTE format($query$
            SELECT rowbell.notify($1, array_agg(changed.listener), array_agg(changed.key_hash))
            FROM (SELECT w.listener, i.key_hash
                  FROM (SELECT @old_key_in_format@ AS key_hash, 0 AS age, ROW(%1$s) AS image
                        FROM old_rows AS o
                        UNION ALL
                        SELECT @new_key_in_format@, 1, ROW(%2$s)
                        FROM new_rows AS n) AS i
                  JOIN unnest($2, $3) AS w(listener, key_hash) USING (key_hash)
                  GROUP BY w.listener, i.key_hash
                  HAVING count(*) <> 2 OR count(*) FILTER (WHERE i.age = 0) <> 1
                      OR (array_agg(i.image ORDER BY i.age))[1]
                         *<> (array_agg(i.image ORDER BY i.age))[2]) AS changed
            HAVING count(*) > 0 $query$,
            (SELECT string_agg(format('o.%I', c.name), ', ') FROM unnest(match.columns) AS c(name)),
            (SELECT string_agg(format('n.%I', c.name), ', ') FROM unnest(match.columns) AS c(name)))
          USING root, match.listeners, match.key_hashes;
        EXCEPTION WHEN undefined_column THEN  -- renamed or dropped since it was registered
          PERFORM rowbell.notify(root, match.listeners, match.key_hashes);
        END;
      END LOOP;
