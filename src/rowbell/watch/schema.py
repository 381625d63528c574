"""What stands in the database once: the schema ``rowbell``.

``interest``
    The rows that somebody watches. Triggers ask it before they notify, so that a row that
    nobody watches costs its writer one index probe and no NOTIFY.
``interested``
    A sequence as a flag: 0 while ``interest`` is empty. The triggers' ``WHEN`` reads it, so that
    then not even a function is called. It moves at once and for everybody, whatever his
    snapshot; ``watch()`` raises it before it registers and ``rest()`` lowers it, never while
    somebody registers: a lock on ``interest`` keeps the two apart.
``muted``
    Counts the notifications that were due and not sent (``SET rowbell.notify = off``, or a
    full queue). Listeners compare it at each heartbeat: a number that moved is a gap, and
    they prove every watch anew. A sequence, because it moves at once and outside of any
    transaction, prepared ones included.
``ring()``
    Called by the triggers: sends what they found.
``watch()``, ``clear()``, ``unwatch()``, ``sweep()``, ``pulse()``
    Called by the listener; ``pulse()`` calls ``rest()`` and ``compact()`` as well.

A row's key travels as a 64-bit hash of its key columns (``hash_record_extended``, since
PostgreSQL 14). It is a function of the value alone, whatever the session's ``TimeZone``,
``DateStyle``, ``bytea_output`` or ``extra_float_digits``; it follows the type's own
equality, so 1.0 and 1.00 are one numeric key; it fits any index and any payload. Two keys
that share a hash cost a needless read, never a wrong answer. Only SQL computes it.

Everything here is idempotent, and the comment on the schema carries a fingerprint of it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

TRIGGERS: Final = ("rowbell_update", "rowbell_delete", "rowbell_truncate")
"""The names of a table's triggers."""

SOMEBODY_WATCHES: Final = (
    "pg_catalog.pg_sequence_last_value('rowbell.interested'::pg_catalog.regclass) "
    "IS DISTINCT FROM 0"
)
"""Whether anybody watches anything, as SQL that calls no function but PostgreSQL's own."""

COMPACT_BEYOND: Final = 4_194_304
"""The size in bytes of ``interest`` from which on dead rows are not left to VACUUM alone."""

KEYS_PER_PAYLOAD: Final = 350
"""A key takes 21 bytes at most with its comma; PostgreSQL refuses payloads of 8000."""

KEYS_PER_STATEMENT: Final = 5_000
"""Beyond it, a statement says "this table" instead of naming the keys."""

_TRIGGER_NAMES: Final = ", ".join(f"'{name}'" for name in TRIGGERS)

_SETTINGS: Final = "SET search_path = pg_catalog, pg_temp"

_RING: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.ring(relation oid, listeners integer[], keys bigint[])
RETURNS void LANGUAGE plpgsql {_SETTINGS} AS $rowbell$
BEGIN
  IF cardinality(keys) = 0 THEN
    RETURN;
  ELSIF lower(current_setting('rowbell.notify', true)) IN ('off', 'false', 'no', '0') THEN
    PERFORM nextval('rowbell.muted');
  ELSIF pg_notification_queue_usage() > 0.9 THEN
    -- One more NOTIFY could fail the writer's COMMIT.
    RAISE WARNING 'rowbell: the notification queue is nearly full, listeners will catch up later'
      USING HINT = 'A listening session has been in a transaction for long: see pg_stat_activity.';
    PERFORM nextval('rowbell.muted');
  ELSIF keys IS NULL OR cardinality(keys) > {KEYS_PER_STATEMENT} THEN
    PERFORM pg_notify('rowbell' || coalesce('_' || heard.listener, ''), '1:' || relation || ':*')
    FROM (SELECT DISTINCT listener
          FROM unnest(coalesce(listeners, ARRAY[NULL]::integer[])) AS w(listener)) AS heard;
  ELSE
    PERFORM pg_notify('rowbell' || coalesce('_' || sliced.listener, ''),
                      '1:' || relation || ':' || string_agg(sliced.key::text, ','))
    FROM (SELECT w.listener, w.key,
                 (row_number() OVER (PARTITION BY w.listener) - 1) / {KEYS_PER_PAYLOAD} AS slice
          FROM unnest(listeners, keys) AS w(listener, key)) AS sliced
    GROUP BY sliced.listener, sliced.slice;
  END IF;
END
$rowbell$"""

_DIFFERS: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.differs(before jsonb, after jsonb, columns text[])
RETURNS boolean LANGUAGE sql IMMUTABLE {_SETTINGS} AS $rowbell$
  SELECT CASE
    WHEN columns IS NULL THEN before IS DISTINCT FROM after
    ELSE EXISTS (SELECT FROM unnest(columns) AS watched(name)
                 WHERE NOT after ? watched.name
                    OR before -> watched.name IS DISTINCT FROM after -> watched.name)
  END
$rowbell$"""

_TROUBLE: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.trouble(relation oid, signature bytea)
RETURNS text LANGUAGE sql STABLE SECURITY DEFINER {_SETTINGS} AS $rowbell$
  SELECT CASE
    WHEN NOT (coalesce(has_table_privilege(caller.name, relation, 'SELECT'), false)
              OR coalesce(has_any_column_privilege(caller.name, relation, 'SELECT'), false))
      THEN 'not_permitted'
    WHEN (SELECT count(*) FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid
          WHERE t.tgrelid = relation AND t.tgname IN ({_TRIGGER_NAMES})
            AND f.pronamespace = 'rowbell'::regnamespace) < {len(TRIGGERS)}
      THEN 'trigger_missing'
    WHEN EXISTS (SELECT FROM pg_trigger AS t
                 WHERE t.tgrelid = relation AND t.tgname IN ({_TRIGGER_NAMES})
                   AND t.tgargs <> signature)
      THEN 'trigger_outdated'
    WHEN EXISTS (SELECT FROM pg_trigger AS t
                 WHERE t.tgname IN ({_TRIGGER_NAMES}) AND t.tgenabled NOT IN ('O', 'A')
                   AND t.tgrelid IN (SELECT relation
                                     UNION SELECT relid FROM pg_partition_tree(relation)))
      THEN 'trigger_disabled'
  END
  FROM (SELECT coalesce(nullif(current_setting('role', true), 'none'), session_user)::name) AS
    caller(name)
$rowbell$"""

_WATCH: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.watch(
  tables oid[], signatures bytea[], relations oid[], keys bigint[], columns text[])
RETURNS TABLE (relation oid, trouble text)
LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} AS $rowbell$
#variable_conflict use_column
DECLARE
  sound oid[];
BEGIN
  RETURN QUERY
    SELECT t.relation, rowbell.trouble(t.relation, t.signature)
    FROM unnest(tables, signatures) AS t(relation, signature);
  sound := ARRAY(SELECT t.relation FROM unnest(tables, signatures) AS t(relation, signature)
                 WHERE rowbell.trouble(t.relation, t.signature) IS NULL);
  LOCK TABLE rowbell.interest IN ROW EXCLUSIVE MODE;
  IF pg_sequence_last_value('rowbell.interested') IS DISTINCT FROM 1 THEN
    PERFORM setval('rowbell.interested', 1);
  END IF;
  INSERT INTO rowbell.interest AS i (relation, key, listener, columns)
    SELECT DISTINCT ON (w.relation, w.key) w.relation, w.key, pg_backend_pid(), w.columns::text[]
    FROM unnest(relations, keys, columns) AS w(relation, key, columns)
    WHERE w.relation = ANY (sound)
  ON CONFLICT (relation, key, listener) DO UPDATE SET columns = excluded.columns;
END
$rowbell$"""

# Whoever registers holds ROW EXCLUSIVE on the table until his commit. A snapshot from before the
# lock would not show who did since, so READ COMMITTED only. Should the flag ever be down over
# somebody who is registered (a restored dump, a stray setval), it is raised.
_REST: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.rest()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} SET lock_timeout = '20ms' AS $rowbell$
DECLARE
  down CONSTANT boolean := pg_sequence_last_value('rowbell.interested') IS NOT DISTINCT FROM 0;
BEGIN
  IF EXISTS (SELECT FROM rowbell.interest) THEN
    IF down THEN
      PERFORM setval('rowbell.interested', 1);
    END IF;
  ELSIF NOT down AND current_setting('transaction_isolation') = 'read committed' THEN
    LOCK TABLE rowbell.interest IN SHARE MODE;
    IF NOT EXISTS (SELECT FROM rowbell.interest) THEN
      PERFORM setval('rowbell.interested', 0);
    END IF;
  END IF;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
  RETURN;
END
$rowbell$"""

# While some old transaction keeps VACUUM from removing dead rows, only a new file does. Writers
# that ask `interest` hold a lock on it until they commit; they are waited for very shortly,
# because others queue up behind.
_COMPACT: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.compact()
RETURNS void LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} SET lock_timeout = '20ms' AS $rowbell$
DECLARE
  kept rowbell.interest[];
BEGIN
  IF pg_total_relation_size('rowbell.interest') < {COMPACT_BEYOND}
     OR current_setting('transaction_isolation') <> 'read committed'
     OR pg_total_relation_size('rowbell.interest')
        < 400 * (SELECT count(*) FROM rowbell.interest) THEN
    RETURN;
  END IF;
  LOCK TABLE rowbell.interest IN ACCESS EXCLUSIVE MODE;
  kept := ARRAY(SELECT i FROM rowbell.interest AS i);
  TRUNCATE rowbell.interest;
  INSERT INTO rowbell.interest SELECT * FROM unnest(kept);
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
  RETURN;
END
$rowbell$"""

_CLEAR: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.clear(relations oid[], boundary bigint)
RETURNS SETOF oid LANGUAGE sql VOLATILE {_SETTINGS} AS $rowbell$
  WITH held AS MATERIALIZED (SELECT * FROM pg_locks)
  SELECT r.oid FROM unnest(relations) AS r(oid)
  WHERE NOT EXISTS (
    SELECT FROM held AS lock
    JOIN held AS writer ON writer.virtualtransaction = lock.virtualtransaction
                       AND writer.locktype = 'transactionid' AND writer.mode = 'ExclusiveLock'
    WHERE lock.locktype = 'relation' AND lock.granted
      AND lock.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND lock.relation IN (SELECT r.oid UNION SELECT relid FROM pg_partition_tree(r.oid))
      AND lock.mode NOT IN ('AccessShareLock', 'RowShareLock')
      AND age(writer.transactionid) >= age(boundary::text::xid8::xid))
$rowbell$"""

_UNWATCH: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.unwatch(relations oid[], keys bigint[])
RETURNS void LANGUAGE sql SECURITY DEFINER {_SETTINGS} AS $rowbell$
  DELETE FROM rowbell.interest AS i
  USING unnest(relations, keys) AS w(relation, key)
  WHERE i.relation = w.relation AND i.key = w.key AND i.listener = pg_backend_pid()
$rowbell$"""

_SWEEP: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.sweep(own boolean)
RETURNS void LANGUAGE sql SECURITY DEFINER {_SETTINGS} AS $rowbell$
  DELETE FROM rowbell.interest
  WHERE (own AND listener = pg_backend_pid())
     OR listener NOT IN (SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL);
$rowbell$"""

_PULSE: Final = f"""
CREATE OR REPLACE FUNCTION rowbell.pulse(tables oid[], signatures bytea[],
  OUT backend integer, OUT in_recovery boolean, OUT queue_usage double precision,
  OUT channels text[], OUT muted bigint, OUT troubled oid[], OUT troubles text[])
LANGUAGE sql VOLATILE SECURITY DEFINER {_SETTINGS} AS $rowbell$
  SELECT rowbell.sweep(false);
  SELECT rowbell.rest();
  SELECT rowbell.compact();
  SELECT pg_backend_pid(), pg_is_in_recovery(), pg_notification_queue_usage(),
         ARRAY(SELECT pg_listening_channels()),
         (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM rowbell.muted),
         array_agg(t.relation) FILTER (WHERE t.trouble IS NOT NULL),
         array_agg(t.trouble) FILTER (WHERE t.trouble IS NOT NULL)
  FROM (SELECT w.relation, rowbell.trouble(w.relation, w.signature) AS trouble
        FROM unnest(tables, signatures) AS w(relation, signature)) AS t
$rowbell$"""

_STATEMENTS: Final = (
    "CREATE SCHEMA IF NOT EXISTS rowbell",
    "GRANT USAGE ON SCHEMA rowbell TO PUBLIC",
    """
CREATE UNLOGGED TABLE IF NOT EXISTS rowbell.interest (
  relation oid NOT NULL,
  key bigint NOT NULL,
  listener integer NOT NULL,
  columns text[],
  PRIMARY KEY (relation, key, listener)
)""",
    "CREATE SEQUENCE IF NOT EXISTS rowbell.muted",
    "CREATE SEQUENCE IF NOT EXISTS rowbell.interested MINVALUE 0 MAXVALUE 1",
    "GRANT SELECT ON SEQUENCE rowbell.interested TO PUBLIC",
    # Down at first; where rowbell stood already somebody may be registered.
    (
        "SELECT setval('rowbell.interested', 0)"
        " WHERE to_regprocedure('rowbell.pulse(oid[], bytea[])') IS NULL"
    ),
    _RING,
    _DIFFERS,
    _TROUBLE,
    _WATCH,
    _REST,
    _COMPACT,
    _CLEAR,
    _UNWATCH,
    _SWEEP,
    _PULSE,
)

FINGERPRINT: Final = "rowbell 1 " + sha256("\n".join(_STATEMENTS).encode()).hexdigest()[:16]
"""What the comment on the schema says when it is as this version of rowbell wants it."""


def schema_statements() -> list[str]:
    """The statements that create or replace the schema, in order, one command each."""
    return [
        *(statement.strip() for statement in _STATEMENTS),
        f"COMMENT ON SCHEMA rowbell IS '{FINGERPRINT}'",
    ]
