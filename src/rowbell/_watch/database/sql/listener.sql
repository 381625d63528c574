-- The sessions that listen. A number is used once, a process ID again and again.
CREATE UNLOGGED TABLE IF NOT EXISTS rowbell.listener (
  number bigint PRIMARY KEY,
  backend_pid integer NOT NULL,
  backend_start timestamptz,
  role_oid oid NOT NULL,
  registrations bigint NOT NULL
)
