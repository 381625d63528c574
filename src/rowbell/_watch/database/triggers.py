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
of rowbell can be used side by side during a deployment. Its text is made by ``trigger_source``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from rowbell._identifiers import qualified, quote_identifier, quote_literal
from rowbell._watch.database.schema import SCHEMA, TRIGGERS, sql
from rowbell._watch.database.trigger_source import TriggerSource, unused_quote
from rowbell._watch.values.key_hash import KeyColumn, key_hash
from rowbell.errors import InvalidArgumentError

_ROW, _INSERT, _DELETE, _UPDATE, _TRUNCATE = 1, 4, 8, 16, 32  # bits of pg_trigger.tgtype


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


def trigger_options(
    key: tuple[KeyColumn, ...],
    declared: tuple[str, ...] | None = None,
    *,
    inserts: bool = False,
) -> str:
    """The argument of the triggers: which hashes they notify of, and for what changes.

    A listener compares it byte by byte with ``pg_trigger.tgargs``. It is ASCII in any database.
    """
    options = {"version": 1, "key": {c.name: c.cast for c in key}, "columns": declared}
    if inserts:
        options["inserts"] = True
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
        inserts: Whether they fire for inserts, too, and notify of the whole table.
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
    inserts: bool = False
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
        text = "\n".join([self._source.text, *self._conditions().values(), self.role or ""])
        digest = sha256(text.encode()).hexdigest()[:16]
        if self.role is None:
            return qualified(SCHEMA, f"changed_{digest}")
        return qualified(self.schema, f"rowbell_changed_{digest}")

    @property
    def function(self) -> TriggerFunction:
        """The function that the catalog must contain."""
        return TriggerFunction(self._source.text)

    @property
    def options(self) -> str:
        """The triggers' argument."""
        return trigger_options(self.key, self.declared, inserts=self.inserts)

    @property
    def types(self) -> dict[str, int]:
        """The ``pg_trigger.tgtype`` of each trigger."""
        each = _ROW if self.by_row else 0
        bits = (_UPDATE | each, _DELETE | each, _TRUNCATE, _INSERT | each)
        return dict(zip(self._triggers, bits, strict=False))

    @property
    def _triggers(self) -> tuple[str, ...]:
        return TRIGGERS if self.inserts else TRIGGERS[:-1]

    @property
    def _source(self) -> TriggerSource:
        return TriggerSource(self.key, by_row=self.by_row, inserts=self.inserts)

    def check_key(self) -> str:
        """The statement that fails if the type of the key has no hash function."""
        return f"SELECT pg_catalog.{key_hash(f'(NULL::{self.name})', self.key)}"

    def create_function(self) -> list[str]:
        """The statements that create the function. Any owner of a table may use it."""
        name, quote = self.function_name, unused_quote("$rowbell$", self.key)
        header, _, _ = sql("trigger_guard").split("$rowbell$")
        return [
            f"{header.replace('@function@', name)}{quote}{self._source.text}{quote}",
            f"GRANT EXECUTE ON FUNCTION {name}() TO PUBLIC",
        ]

    def create_triggers(self) -> list[str]:
        """The statements that create or replace the triggers."""
        run = f"EXECUTE FUNCTION {self.function_name}({quote_literal(self.options)})"
        statements = [
            f"CREATE OR REPLACE TRIGGER {trigger} AFTER {event} ON {self.name} {condition} {run}"
            for trigger, (event, condition) in zip(
                self._triggers, self._conditions().items(), strict=True
            )
        ]
        if self.replicated:
            statements += [
                f"ALTER TABLE {self.name} ENABLE ALWAYS TRIGGER {trigger}"
                for trigger in self._triggers
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
            of_all = {"UPDATE": both, "DELETE": old_rows, "TRUNCATE": "FOR EACH STATEMENT"}
            # The function treats inserted rows as it treats deleted ones, so they have that name.
            inserted = {"INSERT": f"REFERENCING NEW TABLE AS old_rows {each}"}
            return of_all | (inserted if self.inserts else {})
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
            **({"INSERT": each} if self.inserts else {}),
        }


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
