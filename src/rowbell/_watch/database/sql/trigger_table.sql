-- Notifies of the whole table, if it is registered.
      PERFORM rowbell.notify(root, array_agg(r.listener), array_agg(r.key_hash))
      FROM (@registered_table@) AS r HAVING count(*) > 0;
