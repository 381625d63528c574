-- The rows that somebody waits for. Trigger functions read it as the writer, so everybody may.
-- It holds no secret: a table, the hash of a key, the number of a listener, names of columns.
CREATE UNLOGGED TABLE IF NOT EXISTS rowbell.registration (
  table_oid oid NOT NULL,
  key_hash bigint NOT NULL,
  listener bigint NOT NULL,
  columns text[],
  PRIMARY KEY (table_oid, key_hash, listener)
)
