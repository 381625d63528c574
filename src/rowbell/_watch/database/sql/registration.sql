-- The rows that listeners want to be notified of. Trigger functions read it as the writer, so every
-- role may. It has no secrets: a table, the hash of a key, a listener's number, names of columns.
CREATE UNLOGGED TABLE IF NOT EXISTS rowbell.registration (
  table_oid oid NOT NULL,
  key_hash bigint NOT NULL,
  listener bigint NOT NULL,
  columns text[],
  PRIMARY KEY (table_oid, key_hash, listener)
)
