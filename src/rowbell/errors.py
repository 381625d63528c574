"""Every error that rowbell raises.

::

    RowbellError
     ├─ NotFoundError (LookupError)             the row does not exist, or no longer
     ├─ WaitTimeoutError (TimeoutError)         no change within the time given
     ├─ LockTimeoutError (SQLAlchemyError, TimeoutError)     a lock was not acquired in time
     ├─ PoolExhaustedError (TimeoutError, SQLAlchemy's too)  all connections are in use
     ├─ UnmappedModelError (TypeError)          not a mapped class, or one that cannot be watched
     ├─ RelationshipError (TypeError)           not a Many-to-Many relationship
     ├─ InvalidKeyError (ValueError)            not a primary key of the model
     ├─ InvalidColumnError (ValueError)         not a column of the model
     ├─ InvalidArgumentError (ValueError)       another argument is outside its range
     ├─ UnflushedInstanceError (ValueError)     an instance has no row yet
     ├─ SessionStateError (RuntimeError)        the session cannot do that in the state it is in
     ├─ WatcherStateError (RuntimeError)        the watcher is closed, not entered, of another loop
     ├─ DatabaseStateError (RuntimeError)       a database exists, is missing, or is in use
     ├─ UnsupportedEngineError (TypeError)      an engine that no watcher can work with
     ├─ ListenError (RuntimeError)              mode="listen", and listening is not possible
     └─ TriggerError (RuntimeError)             triggers cannot be installed on that table

Each keeps the facts of its message as attributes.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def describe_row(model: type[Any], key: Mapping[str, object]) -> str:
    """A row for a message: ``Order(id=7)``; a long key is shortened."""
    columns = ", ".join(f"{name}={_short(value)}" for name, value in key.items())
    return f"{model.__name__}({columns})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"  # noqa: PLR2004


class RowbellError(Exception):
    """The base of all errors of rowbell. They can be pickled, if what they hold can."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    class_: type[RowbellError], args: tuple[Any, ...], facts: dict[str, Any]
) -> RowbellError:
    error = class_.__new__(class_, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class NotFoundError(RowbellError, LookupError):
    """The row does not exist when a wait begins, or was deleted while it lasted.

    Attributes:
        model: The mapped class.
        key: The primary key, by attribute name.
        deleted: Whether the row had been there when the wait began.
    """

    def __init__(
        self, model: type[Any], key: Mapping[str, object], *, deleted: bool = False, hint: str = ""
    ) -> None:
        self.model = model
        self.key = dict(key)
        self.deleted = deleted
        what = "was deleted" if deleted else "not found"
        super().__init__(f"{describe_row(model, key)} {what}{hint and f': {hint}'}")


class WaitTimeoutError(RowbellError, TimeoutError):
    """A wait's time passed, and a last read after it showed no change.

    Attributes:
        model: The mapped class.
        key: The primary key, by attribute name.
        timeout: The time given, in seconds.
        served: How the wait was being served when it ended, as a clause.
    """

    def __init__(
        self, model: type[Any], key: Mapping[str, object], *, timeout: float, served: str
    ) -> None:
        self.model = model
        self.key = dict(key)
        self.timeout = timeout
        self.served = served
        row = describe_row(model, key)
        super().__init__(f"No change detected in {row} within {timeout:g}s ({served})")


class LockTimeoutError(RowbellError, SQLAlchemyError, TimeoutError):
    """The lock was not acquired within the timeout. Nothing was changed.

    Attributes:
        objects: What was to be locked: the names of tables as SQL, rows, or a key.
        mode: The mode of the lock.
        timeout: The wait, as PostgreSQL writes it (``"5s"``); ``None`` where none was allowed,
            or where it was the caller's own ``lock_timeout`` that ended it.
        holders: The process IDs of the sessions that hold it, where they are known.
        cancelled: What the server said, where it ended the statement before that time: for a
            ``statement_timeout`` that is shorter, say.
    """

    def __init__(
        self,
        objects: Iterable[str],
        mode: str,
        timeout: str | None,
        holders: Iterable[int] = (),
        *,
        cancelled: str | None = None,
    ) -> None:
        self.objects = tuple(objects)
        self.mode = mode
        self.timeout = timeout
        self.holders = tuple(holders)
        self.cancelled = cancelled
        wait = f"within {timeout}" if timeout else "without a longer wait"
        held = "another transaction holds one that conflicts (pg_blocking_pids() tells whose)"
        if self.holders:
            held = f"held by process {', '.join(map(str, self.holders))} (see pg_stat_activity)"
        remedy = "Try again when it has ended, or allow a longer wait"
        if cancelled:
            held = f"{cancelled} (statement_timeout limits the wait for a lock, too)"
            remedy = "Allow the statement more time, or the lock less"
        super().__init__(f"no {mode} lock on {', '.join(self.objects)} {wait}: {held}. {remedy}")


class PoolExhaustedError(RowbellError, PoolTimeoutError, TimeoutError):
    """All connections of the engine's pool were in use until its timeout.

    Attributes:
        size: The pool's size (``pool_size``).
        overflow: How many more it opens at need (``max_overflow``).
        waited: How long it waited (``pool_timeout``), in seconds.
    """

    def __init__(self, *, size: int, overflow: int, waited: float) -> None:
        self.size = size
        self.overflow = overflow
        self.waited = waited
        super().__init__(
            f"no connection within {waited:g}s: all {size + overflow} of the pool are in use "
            f"(pool_size {size}, max_overflow {overflow}). Hold sessions for a shorter time, or "
            "raise one of the two"
        )


class UnmappedModelError(RowbellError, TypeError):
    """The object given as a model is not a class that SQLAlchemy maps to tables.

    Attributes:
        model: What was given.
    """

    def __init__(self, model: object, why: str = "") -> None:
        self.model = model
        name = model.__name__ if isinstance(model, type) else repr(model)
        problem = why or "is not a class mapped by SQLAlchemy: pass the model class itself"
        super().__init__(f"{name} {problem}")


class InvalidKeyError(RowbellError, ValueError):
    """The value given as a primary key does not fit the model's key.

    Attributes:
        model: The mapped class.
        value: What was given.
    """

    def __init__(self, model: type[Any], value: object, why: str) -> None:
        self.model, self.value = model, value
        super().__init__(f"{_short(value)} is no key of {model.__name__}: {why}")


_NOT_MAPPED: Final = "is not a mapped column"


class InvalidColumnError(RowbellError, ValueError):
    """A name or attribute given does not stand for a column of the model.

    Attributes:
        model: The mapped class.
        column: What was given; ``None`` if nothing was.
    """

    def __init__(
        self, model: type[Any], column: object, known: Iterable[str], why: str = _NOT_MAPPED
    ) -> None:
        self.model, self.column = model, column
        names, text = sorted(known), str(column)
        close = get_close_matches(text, names, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
        problem = why if column is None else f"{text!r} {why}"
        super().__init__(f"{problem} of {model.__name__}: {remedy}")


class InvalidArgumentError(RowbellError, ValueError):
    """An argument is outside its range.

    Attributes:
        argument: The argument's name.
        value: What was given.
    """

    def __init__(self, argument: str, value: object, expected: str) -> None:
        self.argument, self.value = argument, value
        super().__init__(f"{argument} must be {expected}, got {_short(value)}")


class RelationshipError(RowbellError, TypeError):
    """The attribute is not a Many-to-Many relationship, or not one that can be written to.

    Attributes:
        attribute: What was given.
    """

    def __init__(self, attribute: object, why: str) -> None:
        self.attribute = attribute
        super().__init__(f"{attribute} {why}")


class UnflushedInstanceError(RowbellError, ValueError):
    """An instance has no row in the database yet, so nothing can refer to it.

    Attributes:
        instance: The instance.
    """

    def __init__(self, instance: object) -> None:
        self.instance = instance
        super().__init__(
            f"a {type(instance).__name__} that has no row yet cannot be related: "
            "add it to the session and await session.flush() first"
        )


class SessionStateError(RowbellError, RuntimeError):
    """The session cannot do that in the state that it is in; the message says what to do."""


class WatcherStateError(RowbellError, RuntimeError):
    """The watcher is closed, was not entered, or belongs to another event loop."""


class DatabaseStateError(RowbellError, RuntimeError):
    """A database cannot be created or dropped in its current state.

    Attributes:
        database: The database's name.
        state: ``"exists"``, ``"missing"`` or ``"in use"``.
    """

    def __init__(self, database: str, state: str, remedy: str) -> None:
        self.database, self.state = database, state
        verb = state if state == "exists" else f"is {state}"
        super().__init__(f"the database {database!r} {verb}: {remedy}")


class UnsupportedEngineError(RowbellError, TypeError):
    """The engine cannot be watched at all; the message says why, and what to use."""


class ListenError(RowbellError, RuntimeError):
    """``mode="listen"`` is set, and listening is not possible.

    Attributes:
        reason: The reason, as ``WatcherStatistics.reason`` gives it.
        detail: What was seen, and the remedy.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f'cannot listen, as mode="listen" demands ({reason}): {detail}')


class TriggerError(RowbellError, RuntimeError):
    """Triggers cannot be installed on or removed from a table.

    Attributes:
        table: The table's name.
    """

    def __init__(self, table: str, why: str) -> None:
        self.table = table
        super().__init__(f"{table}: {why}")
