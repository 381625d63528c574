-- For each ticket that a relay has received: the number and the channel of the listener, in this
-- session, that has the ticket's role; it is made if there is none. NULL if the ticket is not valid,
-- no longer valid, or its role does not exist. A ticket gives the caller rights of the ticket's role,
-- so only roles that an administrator has chosen may call this.
CREATE OR REPLACE FUNCTION rowbell.admit(
  tickets text[], OUT numbers bigint[], OUT channels text[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $rowbell$
#variable_conflict use_column
DECLARE
  parts text[];
  role oid;
  found bigint;
BEGIN
  FOR i IN 1 .. cardinality(tickets) LOOP
    parts := regexp_match(tickets[i], '^(([0-9]{1,10}):([0-9]{1,12}):[0-9a-f]{64}):([0-9a-f]{64})$');
    -- Hashes are compared, so that the time of the comparison tells nothing.
    role := (SELECT r.oid FROM pg_roles AS r
             WHERE r.oid::text = parts[2]
               AND parts[3]::bigint > date_part('epoch', clock_timestamp())
               AND sha256(parts[4]::bytea) = sha256(rowbell.ticket_code(parts[1])::bytea));
    found := NULL;
    IF role IS NOT NULL THEN
      SELECT max(l.number) INTO found FROM rowbell.listener AS l
      WHERE l.backend_pid = pg_backend_pid() AND l.role_oid = role;
      IF found IS NULL THEN
        found := nextval('rowbell.listener_number');
        INSERT INTO rowbell.listener
        VALUES (found, pg_backend_pid(),
                (SELECT a.backend_start FROM pg_stat_activity AS a WHERE a.pid = pg_backend_pid()),
                role, 0);
      END IF;
    END IF;
    numbers := array_append(numbers, found);
    channels := array_append(channels, CASE WHEN found IS NOT NULL THEN rowbell.channel(found) END);
  END LOOP;
END
$rowbell$
