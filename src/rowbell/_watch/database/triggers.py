"""The triggers of a table, and the function that they run, as SQL text.

There are two forms. The *statement* form looks up all rows of a statement with one join over the
transition tables. The *row* form looks up each row. It is used where there are no transition
tables: for partitioned tables, because their partitions are also written to directly; for declared
columns; and for changes by logical replication, which fires no statement triggers.
The cost for a writer is in steps. Each step is taken only if the one before requires it:

1. the trigger's ``WHEN``, with declared columns: did one of them change?
2. the flag: is any row of the table registered?
3. the probe: is one of these rows registered?
4. only then: what changed, and the notification.

The function runs as the writer. It depends only on the names of the key columns, the declared
columns and the form. So its name contains a hash of these, and it is never altered: two versions
of rowbell can be used side by side during a deployment. Its text is in ``sql/trigger_*.sql``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from rowbell._identifiers import qualified, quote_identifier, quote_literal
from rowbell._watch.database.schema import KEYS_PER_TRANSACTION, SCHEMA, TRIGGERS, sql
from rowbell._watch.values.key_hash import KeyColumn, key_hash
from rowbell.errors import InvalidArgumentError

_ROW, _DELETE, _UPDATE, _TRUNCATE = 1, 8, 16, 32  # bits of pg_trigger.tgtype


class ForEach(StrEnum):
    """What a trigger fires for: PostgreSQL's ``FOR EACH { ROW | STATEMENT }``."""

    ROW = "row"
    STATEMENT = "statement"

    @classmethod
    def of(cls, value: ForEach | str | None) -> ForEach | None:
        """The form that a caller names; ``None`` if the other options decide.

        Raises:
            InvalidArgumentError: It is neither.
        """
        if value is None:
            return None
        try:
            return cls(value)
        except ValueError:
            raise InvalidArgumentError("for_each", value, "'row' or 'statement'") from None


def trigger_options(key: tuple[KeyColumn, ...], declared: tuple[str, ...] | None = None) -> str:
    """The argument of the triggers: which hashes they notify of, and for what changes.

    A listener compares it byte by byte with ``pg_trigger.tgargs``. It is ASCII in any database.
    """
    options = {"version": 1, "key": {c.name: c.cast for c in key}, "columns": declared}
    return json.dumps(options, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class TriggerFunction:
    """The definition of a trigger function: its text, and its settings."""

    source: str
    settings: tuple[str, ...] = (
        "search_path=pg_catalog, pg_temp",
        "lock_timeout=50ms",
        "enable_seqscan=off",
    )


@dataclass(frozen=True, slots=True)
class TableTriggers:
    """A table's triggers, as SQL.

    Attributes:
        schema: The table's schema; ``None`` if the connection's ``search_path`` decides.
        table: The table's name.
        key: The columns of its primary key, sorted by name.
        for_each: The form; ``None`` if the other options decide.
        replicated: Whether they also fire for changes by logical replication (``ENABLE
            ALWAYS``).
        declared: The declared columns; ``None`` for all. An UPDATE that changes none of them does
            not call the function. Only for the row form.
        role: The role whose functions are in the schemas of its tables, because the schema
            ``rowbell`` belongs to another role. ``None``: they are in the schema ``rowbell``.
        oid: The table's oid, if it was looked up.
    """

    schema: str | None
    table: str
    key: tuple[KeyColumn, ...]
    for_each: ForEach | None = None
    replicated: bool = False
    declared: tuple[str, ...] | None = None
    role: str | None = None
    oid: int | None = None

    @property
    def name(self) -> str:
        """The table's name as SQL, quoted, with its schema if one was given."""
        return qualified(self.schema, self.table)

    @property
    def needs_rows(self) -> bool:
        """Whether the options need the row form."""
        return self.replicated or self.declared is not None

    @property
    def by_row(self) -> bool:
        """Whether it is the row form."""
        return self.for_each is ForEach.ROW or (self.for_each is None and self.needs_rows)

    @property
    def function_name(self) -> str:
        """The function's name as SQL. It ends in a hash of what the function and triggers do."""
        text = "\n".join([self._source, *self._conditions().values(), self.role or ""])
        digest = sha256(text.encode()).hexdigest()[:16]
        if self.role is None:
            return qualified(SCHEMA, f"changed_{digest}")
        return qualified(self.schema, f"rowbell_changed_{digest}")

    @property
    def function(self) -> TriggerFunction:
        """The function that the catalog must contain."""
        return TriggerFunction(self._source)

    @property
    def options(self) -> str:
        """The triggers' argument."""
        return trigger_options(self.key, self.declared)

    @property
    def types(self) -> dict[str, int]:
        """The ``pg_trigger.tgtype`` of each trigger."""
        each = _ROW if self.by_row else 0
        return dict(zip(TRIGGERS, (_UPDATE | each, _DELETE | each, _TRUNCATE), strict=True))

    def check_key(self) -> str:
        """The statement that fails if the type of the key has no hash function."""
        return f"SELECT pg_catalog.{key_hash(f'(NULL::{self.name})', self.key)}"

    def create_function(self) -> list[str]:
        """The statements that create the function. Any owner of a table may use it."""
        name, quote = self.function_name, self._unused("$rowbell$")
        header, _, _ = sql("trigger_guard").split("$rowbell$")
        return [
            f"{header.replace('@function@', name)}{quote}{self._source}{quote}",
            f"GRANT EXECUTE ON FUNCTION {name}() TO PUBLIC",
        ]

    def create_triggers(self) -> list[str]:
        """The statements that create or replace the triggers."""
        run = f"EXECUTE FUNCTION {self.function_name}({quote_literal(self.options)})"
        statements = [
            f"CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {self.name} {condition} {run}"
            for trigger, (event, condition) in zip(
                TRIGGERS, self._conditions().items(), strict=True
            )
        ]
        if self.replicated:
            statements += [
                f"ALTER TABLE {self.name} ENABLE ALWAYS TRIGGER {trigger}" for trigger in TRIGGERS
            ]
        return statements

    def _conditions(self) -> dict[str, str]:
        """The ``FOR EACH`` and ``WHEN`` clauses of each event's trigger.

        Functions in WHEN are looked up when the trigger is created, so they are written with their
        schema. This one compares rows as they are stored, and runs no code of their types.
        """
        each = f"FOR EACH {'ROW' if self.by_row else 'STATEMENT'}"
        if not self.by_row:
            old_rows = f"REFERENCING OLD TABLE AS old_rows {each}"
            both = f"REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows {each}"
            return {"UPDATE": both, "DELETE": old_rows, "TRUNCATE": "FOR EACH STATEMENT"}
        condition = ""
        if self.declared is not None:
            names = dict.fromkeys((*(column.name for column in self.key), *self.declared))
            old, new = (
                ", ".join(f"{row}.{quote_identifier(name)}" for name in names)
                for row in ("OLD", "NEW")
            )
            condition = f" WHEN (pg_catalog.record_image_ne(ROW({old}), ROW({new})))"
        return {
            "UPDATE": f"{each}{condition}",
            "DELETE": each,
            "TRUNCATE": "FOR EACH STATEMENT",
        }

    @property
    def _source(self) -> str:
        """The function's body."""
        if self.by_row:
            root = "coalesce(pg_partition_root(TG_RELID), TG_RELID)"
            old, new, body = key_hash("OLD", self.key), key_hash("NEW", self.key), "trigger_row"
            all_keys = f"ARRAY[{old}]"
            retyped_keys = f"SELECT ARRAY[{key_hash('($1)', self.key)}] AS keys"
        else:
            root = "TG_RELID"
            old, new, body = key_hash("o", self.key), key_hash("n", self.key), "trigger_statement"
            all_keys = f"ARRAY(SELECT {old} FROM old_rows AS o LIMIT {KEYS_PER_TRANSACTION + 1})"
            # Never used: PostgreSQL plans the queries of a statement again when its table changes.
            retyped_keys = "SELECT NULL::bigint[] AS keys WHERE $1 IS NULL"
        return _filled(
            sql("trigger_guard").split("$rowbell$")[1],
            root=root,
            all_keys=all_keys,
            retyped_keys=quote_literal(retyped_keys),
            body=_filled(
                sql(body).replace("$query$", self._unused("$query$")),
                registered_old=_registered(old),
                registered_new=_registered(new),
                old_key=old,
                new_key=new,
                old_key_in_format=old.replace("%", "%%"),
                new_key_in_format=new.replace("%", "%%"),
            ),
        )

    def _unused(self, quote: str) -> str:
        """A dollar quote that no column name contains."""
        while any(quote in column.name for column in self.key):
            quote = f"{quote[:-1]}_$"
        return quote


def _registered(key: str) -> str:
    """The probe: the registrations of the row with this key hash, which is given as SQL."""
    return (
        "SELECT r.listener, r.key_hash, r.columns FROM rowbell.registration AS r "
        f"WHERE r.table_oid = root AND r.key_hash = {key} OFFSET 0"
    )


def _filled(template: str, **parts: str) -> str:
    """A file in the folder ``sql`` with its @parts@ filled in, in one pass: names may contain @."""
    return re.sub(r"@(\w+)@", lambda part: parts[part[1]], template)


def drop_statements(table: str) -> list[str]:
    """The statements that drop the triggers of a table, which is named as SQL.

    The lock comes first: DROP TRIGGER locks partitions before their partitioned table, and
    applications lock them in the other order.
    """
    drop = [f"DROP TRIGGER IF EXISTS {trigger} ON {table}" for trigger in TRIGGERS]
    return [f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", *drop, announcement(table)]


def announcement(table: str) -> str:
    """The statement that makes listeners check a table's triggers, at commit."""
    name = quote_literal(table)
    oid = f"pg_catalog.to_regclass({name})::pg_catalog.oid"
    return f"SELECT pg_catalog.pg_notify('rowbell', pg_catalog.concat('1:', {oid}, ':?'))"
