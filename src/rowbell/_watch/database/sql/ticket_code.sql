-- The code that makes a ticket valid: HMAC-SHA256 (RFC 2104). Its key is made from the secret, so only
-- the other functions may call it.
CREATE OR REPLACE FUNCTION rowbell.ticket_code(ticket text)
RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $rowbell$
  SELECT encode(sha256(p.outer_key || sha256(p.inner_key || convert_to(ticket, 'UTF8'))), 'hex')
  FROM (
    SELECT decode(string_agg(lpad(to_hex(get_byte(k.key, i) # 54), 2, '0'), '' ORDER BY i), 'hex')
             AS inner_key,
           decode(string_agg(lpad(to_hex(get_byte(k.key, i) # 92), 2, '0'), '' ORDER BY i), 'hex')
             AS outer_key
    FROM (SELECT sha256(convert_to('ticket:' || value, 'UTF8')) || decode(repeat('00', 32), 'hex')
          FROM rowbell.channel_secret) AS k(key)
    CROSS JOIN generate_series(0, 63) AS i
  ) AS p
$rowbell$
