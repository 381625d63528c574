-- The channel of one listener. Only the other functions may call it, because it reads the secret.
CREATE OR REPLACE FUNCTION rowbell.channel(listener bigint)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT 'rowbell_' || left(encode(sha256(convert_to(value || ':' || listener, 'UTF8')), 'hex'), 48)
  FROM rowbell.channel_secret
$rowbell$
