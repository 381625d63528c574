@inserts@
      PERFORM FROM rowbell.registration AS r
      WHERE r.table_oid = root AND r.key_hash = @old_key@;
      IF NOT FOUND OR (TG_OP = 'UPDATE' AND NOT OLD *<> NEW) THEN
        RETURN NULL;
      END IF;
      FOR match IN
        SELECT r.columns,
               array_agg(r.listener) AS listeners, array_agg(r.key_hash) AS key_hashes
        FROM rowbell.registration AS r
        WHERE r.table_oid = root AND r.key_hash = @old_key@ GROUP BY r.columns
      LOOP
        differs := match.columns IS NULL OR TG_OP <> 'UPDATE' OR @new_key@ <> @old_key@;
        IF NOT differs THEN
          -- Stored bytes are compared: no operator, cast or setting has an influence.
          BEGIN
            EXECUTE format(
              'SELECT record_image_ne(ROW(%1$s), ROW(%2$s))',
              (SELECT string_agg(format('($1).%I', c.name), ', ')
               FROM unnest(match.columns) AS c(name)),
              (SELECT string_agg(format('($2).%I', c.name), ', ')
               FROM unnest(match.columns) AS c(name)))
            INTO differs USING OLD, NEW;
          EXCEPTION WHEN undefined_column THEN  -- renamed or dropped since it was registered
            differs := true;
          END;
        END IF;
        IF differs THEN
          PERFORM rowbell.notify(root, match.listeners, match.key_hashes);
        END IF;
      END LOOP;
