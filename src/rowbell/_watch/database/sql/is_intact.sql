-- Whether a trigger of rowbell fires for what its options say. After a column was renamed, WHEN
-- contains the new name of the same column.
CREATE OR REPLACE FUNCTION rowbell.is_intact(trigger_oid oid, options bytea)
RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $rowbell$
DECLARE
  definition CONSTANT text := pg_get_triggerdef(trigger_oid);
  named CONSTANT json := convert_from(options, 'UTF8')::json;
  relation regclass;
  event text;
  condition text := '';
BEGIN
  SELECT t.tgrelid, upper(substring(t.tgname FROM 9)) INTO relation, event
  FROM pg_trigger AS t WHERE t.oid = trigger_oid;
  IF json_typeof(named -> 'columns') = 'array' THEN
    SELECT format(' WHEN (record_image_ne(ROW(%s), ROW(%s)))',
                  string_agg('old.' || quote_ident(c.name), ', ' ORDER BY c.place),
                  string_agg('new.' || quote_ident(c.name), ', ' ORDER BY c.place))
    INTO condition
    FROM (SELECT k.name, k.place
          FROM json_object_keys(named -> 'key') WITH ORDINALITY AS k(name, place)
          UNION ALL
          SELECT d.name, d.place + 1000
          FROM json_array_elements_text(named -> 'columns') WITH ORDINALITY AS d(name, place)
          WHERE d.name NOT IN (SELECT json_object_keys(named -> 'key'))) AS c;
  END IF;
  RETURN split_part(definition, ' ON ', 1) = format('CREATE TRIGGER rowbell_%s AFTER %s',
                                                    lower(event), event)
    AND split_part(split_part(definition, format(' ON %s ', relation), 2),
                   ' EXECUTE FUNCTION ', 1) = ANY (CASE event
      WHEN 'UPDATE' THEN ARRAY[
        'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT',
        'FOR EACH ROW' || condition]
      WHEN 'INSERT' THEN ARRAY[
        'REFERENCING NEW TABLE AS old_rows FOR EACH STATEMENT', 'FOR EACH ROW']
      WHEN 'DELETE' THEN ARRAY[
        'REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT', 'FOR EACH ROW']
      ELSE ARRAY['FOR EACH STATEMENT'] END);
END
$rowbell$
