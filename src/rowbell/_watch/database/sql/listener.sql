-- The sessions that listen. A number is used only once; a process ID can be used again.
CREATE UNLOGGED TABLE IF NOT EXISTS rowbell.listener (
  number bigint PRIMARY KEY,
  backend_pid integer NOT NULL,
  backend_start timestamptz,
  role_oid oid NOT NULL,
  registrations bigint NOT NULL
)
