-- In the row form, for tables whose inserts are declared: an inserted row is handled like a deleted
-- one; the new key of an UPDATE, and the whole table, may be registered too.
      IF TG_OP = 'INSERT' THEN
        OLD := NEW;
      END IF;
      PERFORM FROM rowbell.registration AS r WHERE r.table_oid = root
        AND r.key_hash = ANY (ARRAY[@whole_table@, @old_key@, @new_key@]);
      IF NOT FOUND THEN
        RETURN NULL;
      END IF;
      -- A transaction notifies of the whole table once.
      IF current_setting('rowbell.table_notified', true) IS DISTINCT FROM root::text THEN
        PERFORM rowbell.notify(root, array_agg(r.listener), array_agg(r.key_hash))
        FROM (@registered_table@) AS r HAVING count(*) > 0;
        IF FOUND THEN
          PERFORM set_config('rowbell.table_notified', root::text, true);
        END IF;
      END IF;
      IF TG_OP = 'UPDATE' AND @new_key@ <> @old_key@ THEN
        PERFORM rowbell.notify(root, array_agg(r.listener), array_agg(r.key_hash))
        FROM (@registered_new@) AS r HAVING count(*) > 0;
      END IF;
