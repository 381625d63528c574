-- In the first query of the gate: also a row if the whole table is registered, and rows changed.
        UNION ALL
        SELECT FROM (SELECT FROM @rows@ AS o LIMIT 1) AS o, LATERAL (@registered_table@) AS r