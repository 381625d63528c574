"""The operations of migrations on triggers. ``execution`` does what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from alembic.operations import MigrateOperation, Operations

from rowbell._identifiers import qualified
from rowbell._lock_timeout import LockTimeout, LockTimeoutValue
from rowbell._watch.database.schema import TRIGGERS
from rowbell._watch.database.scripts import create_script
from rowbell._watch.database.tables import TriggerOptions
from rowbell._watch.database.triggers import ForEach, TableTriggers, drop_statements
from rowbell._watch.values.key_hash import KeyColumn
from rowbell.errors import TriggerError

if TYPE_CHECKING:
    from collections.abc import Sequence


DEFAULT_LOCK_TIMEOUT: Final = "2s"


class RowTriggersOp(MigrateOperation):
    """The arguments of the operations on the triggers of a table.

    Args:
        table_name: The table.
        key: The columns of its primary key. Online they are read from the database. With
            ``--sql`` there is no database, so they must be given.
        schema: The table's schema.
        for_each: ``"row"`` for a partitioned table. Online it is determined automatically.
        replicated: Also fire for changes by logical replication.
        columns: The columns worth watching, as in ``@watched(columns=…)``; by default all.
        inserts: Also fire for inserts, as in ``@watched(inserts=True)``.
        lock_timeout: The longest wait for the table's lock, in PostgreSQL's form.

    Attributes:
        name: The operation's name in a migration.
        options: The options that these arguments make.

    Raises:
        InvalidArgumentError: ``for_each`` is neither form, or not the one that ``columns`` and
            ``replicated`` need; or ``lock_timeout`` is invalid.
    """

    name: ClassVar[str]

    def __init__(
        self,
        table_name: str,
        *,
        key: Sequence[str] | None = None,
        schema: str | None = None,
        for_each: ForEach | str | None = None,
        replicated: bool = False,
        columns: Sequence[str] | None = None,
        inserts: bool = False,
        lock_timeout: LockTimeoutValue = DEFAULT_LOCK_TIMEOUT,
    ) -> None:
        self.table_name = table_name
        self.key: list[str] | None = None if key is None else list(key)
        self.schema = schema
        self.for_each: ForEach | None = ForEach.of(for_each)
        self.replicated = replicated
        self.columns: list[str] | None = None if columns is None else list(columns)
        self.inserts = inserts
        declared = None if columns is None else tuple(sorted(columns))
        self.options: TriggerOptions = TriggerOptions(self.for_each, replicated, declared, inserts)
        self.lock_timeout: str = str(LockTimeout.of(lock_timeout, "lock_timeout"))

    def arguments(self) -> dict[str, Any]:
        """The arguments, for the reverse operation."""
        return {
            "key": self.key,
            "schema": self.schema,
            "for_each": self.for_each,
            "replicated": self.replicated,
            "columns": self.columns,
            "inserts": self.inserts,
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


class CreateRowTriggersOp(RowTriggersOp):
    """``op.create_row_triggers()``, with the arguments of ``RowTriggersOp``."""

    name = "create_row_triggers"
    superfluous: ClassVar[tuple[str, ...]] = ()
    """The triggers that may exist though inserts are not declared."""

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
            self.options.columns,
            self.inserts,
        )
        return create_script(triggers, () if self.inserts else self.superfluous)


class ReplaceRowTriggersOp(CreateRowTriggersOp):
    """``op.replace_row_triggers()``: other options. It also creates missing triggers.

    Args:
        table_name: The table.
        before: The operation that creates the triggers as they were, for the reverse.
        **arguments: As for ``op.create_row_triggers()``.
    """

    name = "replace_row_triggers"
    superfluous: ClassVar[tuple[str, ...]] = TRIGGERS[-1:]

    def __init__(
        self, table_name: str, *, before: CreateRowTriggersOp | None = None, **arguments: Any
    ) -> None:
        super().__init__(table_name, **arguments)
        self.before = before

    def reverse(self) -> MigrateOperation:
        """The operation that restores the options from before."""
        before = self if self.before is None else self.before
        return ReplaceRowTriggersOp(before.table_name, before=self, **before.arguments())


class DropRowTriggersOp(RowTriggersOp):
    """``op.drop_row_triggers()``. Its key and options are for the reverse operation."""

    name = "drop_row_triggers"

    def reverse(self) -> MigrateOperation:
        """The operation that undoes it."""
        return CreateRowTriggersOp(self.table_name, **self.arguments())

    def statements(self) -> list[str]:
        """All statements, for ``--sql``."""
        return drop_statements(self.qualified_name)


class UpgradeRowTriggersOp(MigrateOperation):
    """``op.upgrade_row_triggers()``: the SQL of this version of rowbell, for the role's tables.

    The options of the triggers stay as they are. Tables whose triggers are current are not locked.
    Tables of other roles, and tables that cannot have triggers any more, are left as they are, with
    a warning.
    Autogenerate does not see SQL that is older where the database is created by the new version,
    so call this in a migration after an update of rowbell that changes the SQL. Its downgrade does
    nothing: an older rowbell works with newer triggers. With ``--sql`` it is only a comment.

    Args:
        lock_timeout: The longest wait for the lock of each table, in PostgreSQL's form.
    """

    def __init__(self, *, lock_timeout: LockTimeoutValue = DEFAULT_LOCK_TIMEOUT) -> None:
        self.lock_timeout: str = str(LockTimeout.of(lock_timeout, "lock_timeout"))

    @classmethod
    def invoke(cls, operations: Operations, **arguments: Any) -> Any:
        """Run the operation in a migration."""
        return operations.invoke(cls(**arguments))


class ChangeKeyOp(MigrateOperation):
    """A comment in a revision: the primary key changes here, which Alembic does not write.

    Args:
        table_name: The table.
        before: The columns of the key before.
        after: Those of the key afterwards.
        schema: The table's schema.
    """

    def __init__(
        self, table_name: str, before: Sequence[str], after: Sequence[str], *, schema: str | None
    ) -> None:
        self.table_name = table_name
        self.before: list[str] = list(before)
        self.after: list[str] = list(after)
        self.schema = schema

    def reverse(self) -> MigrateOperation:
        """The comment in the downgrade."""
        return ChangeKeyOp(self.table_name, self.after, self.before, schema=self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """The operation as Alembic prints it."""
        return (type(self).__name__, self.schema, self.table_name)
