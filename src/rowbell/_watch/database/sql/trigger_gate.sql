-- Ends the function if no row of the statement is registered. It takes one or two queries.
      -- Most statements change few rows, none of which is watched: this is the only query for them.
      -- It has a row if one is watched, or if there are many rows. Rows are looked up with one index
      -- probe each. OFFSET 0 and enable_seqscan = off make the cached plan do so.
      PERFORM FROM (
        (SELECT FROM @rows@ AS o OFFSET 999 LIMIT 1)
        UNION ALL
        SELECT FROM @rows@ AS o WHERE EXISTS (@registered_old@)@or_table@) AS watched_or_many LIMIT 1;
      IF NOT FOUND THEN
        RETURN NULL;
      END IF;
@table@
      -- The first of many rows are looked up in the same way. The others are looked up with a join,
      -- which is planned for many rows.
      SELECT count(*) AS looked, count(r.listener) AS watched INTO match
      FROM (SELECT * FROM @rows@ AS o LIMIT 1000) AS o
      LEFT JOIN LATERAL (@registered_old@) AS r ON true;
      IF match.watched = 0 AND match.looked >= 1000 THEN
        SELECT match.looked AS looked, count(*) AS watched INTO match FROM @rows@ AS o
        JOIN rowbell.registration AS r ON r.table_oid = root AND r.key_hash = @old_key@;
      END IF;
      IF match.watched = 0 THEN
        RETURN NULL;
      END IF;
