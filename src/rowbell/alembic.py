"""Triggers in Alembic migrations: ``op.create_row_triggers()``, ``op.drop_row_triggers()``.

``register()`` in ``env.py`` registers the two operations::

    import rowbell.alembic

    rowbell.alembic.register()

and a migration uses them::

    def upgrade() -> None:
        op.create_table("orders", …)
        op.create_row_triggers("orders", key=["id"])

    def downgrade() -> None:
        op.drop_row_triggers("orders", key=["id"])
        op.drop_table("orders")

Both are idempotent, take their locks with a timeout, and also work with ``--sql``.
``--autogenerate`` ignores the schema ``rowbell``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, Table
from sqlalchemy.exc import NoSuchTableError

try:
    from alembic import util
    from alembic.autogenerate import comparators
    from alembic.operations import MigrateOperation, Operations
except ImportError as error:
    raise ImportError("rowbell.alembic needs Alembic: pip install rowbell[alembic]") from error

from rowbell._identifiers import qualified, quote_literal
from rowbell._lock_timeout import LockTimeout, LockTimeoutValue
from rowbell._watch.database.ddl import limited, pinned
from rowbell._watch.database.install import install_triggers, remove_triggers
from rowbell._watch.database.schema import SCHEMA, schema_statements
from rowbell._watch.database.tables import TriggerOptions, declare
from rowbell._watch.database.triggers import ForEach, TableTriggers, announcement, drop_statements
from rowbell._watch.database.trust import refuse_untrusted_owners
from rowbell._watch.values.key_hash import KeyColumn
from rowbell.errors import TriggerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps


class RowTriggersOp(MigrateOperation):
    """The arguments of the two operations. Each operation reverses the other.

    Args:
        table_name: The table.
        key: The columns of its primary key. Online they are read from the database. With
            ``--sql`` there is no database, so they must be given.
        schema: The table's schema.
        for_each: ``"row"`` for a partitioned table. Online it is determined automatically.
        replicated: Also fire for changes by logical replication.
        columns: The columns worth watching, as in ``@watched(columns=…)``; by default all.
        lock_timeout: The longest wait for the table's lock, in PostgreSQL's form.
    """

    def __init__(
        self,
        table_name: str,
        *,
        key: Sequence[str] | None = None,
        schema: str | None = None,
        for_each: ForEach | str | None = None,
        replicated: bool = False,
        columns: Sequence[str] | None = None,
        lock_timeout: LockTimeoutValue = "2s",
    ) -> None:
        self.table_name = table_name
        self.key = None if key is None else list(key)
        self.schema = schema
        self.for_each = ForEach.of(for_each)
        self.replicated = replicated
        self.columns = None if columns is None else list(columns)
        self.lock_timeout = str(LockTimeout.of(lock_timeout, "lock_timeout"))

    def arguments(self) -> dict[str, Any]:
        """The arguments, for the reverse operation."""
        return {
            "key": self.key,
            "schema": self.schema,
            "for_each": self.for_each,
            "replicated": self.replicated,
            "columns": self.columns,
            "lock_timeout": self.lock_timeout,
        }

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """The operation as Alembic prints it."""
        return (type(self).__name__, self.schema, self.table_name)

    @classmethod
    def invoke(cls, operations: Operations, table_name: str, **arguments: Any) -> Any:
        """Run the operation in a migration."""
        return operations.invoke(cls(table_name, **arguments))

    @property
    def qualified_name(self) -> str:
        """The table's name as SQL."""
        return qualified(self.schema, self.table_name)

    def reflect(self, operations: Operations) -> Table:
        """The table as it is in the database."""
        try:
            table = Table(
                self.table_name,
                MetaData(),
                schema=self.schema,
                autoload_with=operations.get_bind(),
                resolve_fks=False,
            )
        except NoSuchTableError:
            why = "the table does not exist in this database"
            raise TriggerError(self.qualified_name, why) from None
        if self.key is not None and set(self.key) != {c.name for c in table.primary_key}:
            found = ", ".join(c.name for c in table.primary_key)
            raise TriggerError(
                self.qualified_name, f"key={self.key} is not its primary key ({found})"
            )
        unknown = [name for name in self.columns or () if name not in table.columns]
        if unknown:
            why = f"columns={self.columns}: it has no column {', '.join(unknown)}"
            raise TriggerError(self.qualified_name, why)
        declared = None if self.columns is None else tuple(self.columns)
        declare(table, TriggerOptions(self.for_each, self.replicated, declared))
        return table


class CreateRowTriggersOp(RowTriggersOp):
    """``op.create_row_triggers()``."""

    def reverse(self) -> MigrateOperation:
        """The operation that undoes it."""
        return DropRowTriggersOp(self.table_name, **self.arguments())

    def statements(self) -> list[str]:
        """All statements, for ``--sql``. Each is safe to repeat."""
        if not self.key:
            raise TriggerError(
                self.qualified_name, "with --sql, give the primary key, as in key=['id']"
            )
        triggers = TableTriggers(
            self.schema,
            self.table_name,
            tuple(KeyColumn(name) for name in sorted(self.key)),
            self.for_each,
            self.replicated,
            None if self.columns is None else tuple(sorted(self.columns)),
        )
        # Without a database, the table's schema is unknown. So only rowbell's schema is created
        # with the fixed search_path. Later statements qualify every operator and function.
        create = f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
        return [
            *pinned([create, *schema_statements(), *triggers.create_function()]),
            triggers.check_key(),
            f"LOCK TABLE {triggers.name} IN SHARE ROW EXCLUSIVE MODE",
            *triggers.create_triggers(),
            announcement(triggers.name),
            refuse_untrusted_owners(quote_literal(triggers.name)),
        ]


class DropRowTriggersOp(RowTriggersOp):
    """``op.drop_row_triggers()``."""

    def reverse(self) -> MigrateOperation:
        """The operation that undoes it."""
        return CreateRowTriggersOp(self.table_name, **self.arguments())

    def statements(self) -> list[str]:
        """All statements, for ``--sql``."""
        return drop_statements(self.qualified_name)


def register() -> None:
    """Register ``op.create_row_triggers()`` and ``op.drop_row_triggers()`` with Alembic.

    With ``include_schemas=True``, ``--autogenerate`` then ignores the schema ``rowbell``.

    Call it in ``env.py``; it may be called repeatedly. It is not automatic, because an
    ``alembic.plugins`` entry point makes some releases of Alembic fail at import.
    """
    if hasattr(Operations, "create_row_triggers"):
        return
    Operations.register_operation("create_row_triggers", "invoke")(CreateRowTriggersOp)
    Operations.register_operation("drop_row_triggers", "invoke")(DropRowTriggersOp)
    Operations.implementation_for(CreateRowTriggersOp)(_create)
    Operations.implementation_for(DropRowTriggersOp)(_drop)
    priority = getattr(
        util, "DispatchPriority", None
    )  # since Alembic 1.18; before that, this comparator is the last one anyway
    last: dict[str, Any] = {} if priority is None else {"priority": priority.LAST}
    comparators.dispatch_for("schema", **last)(_leave_our_schema_alone)


def _leave_our_schema_alone(
    _context: AutogenContext, upgrade_ops: UpgradeOps, _schemas: set[str | None]
) -> None:
    """Ignore the schema ``rowbell``: no metadata has its tables, so Alembic would drop them."""
    found = upgrade_ops.ops
    upgrade_ops.ops = [op for op in found if getattr(op, "schema", None) != SCHEMA]


def _create(operations: Operations, operation: CreateRowTriggersOp) -> None:
    if operations.migration_context.as_sql:
        _print(operations, operation, operation.statements())
    else:
        table = operation.reflect(operations)
        install_triggers(operations.get_bind(), table, lock_timeout=operation.lock_timeout)


def _drop(operations: Operations, operation: DropRowTriggersOp) -> None:
    if operations.migration_context.as_sql:
        _print(operations, operation, operation.statements())
    else:
        table = operation.reflect(operations)
        remove_triggers(operations.get_bind(), table, lock_timeout=operation.lock_timeout)


def _print(operations: Operations, operation: RowTriggersOp, statements: list[str]) -> None:
    for statement in limited(statements, LockTimeout.of(operation.lock_timeout)):
        # Not execute(): some dialects would double each % here, as they do for their driver.
        operations.migration_context.impl.static_output(f"{statement};\n")
