"""Every error that rowbell raises.

::

    RowbellError
     ├─ NotFoundError (LookupError)             the row does not exist, or was deleted
     ├─ WaitTimeoutError (TimeoutError)         no change within the timeout
     ├─ LockTimeoutError (SQLAlchemyError, TimeoutError)     a lock was not acquired in time
     ├─ PoolExhaustedError (TimeoutError, SQLAlchemy's too)  all connections are in use
     ├─ UnmappedModelError (TypeError)          not a mapped class, or one that cannot be watched
     ├─ RelationshipError (TypeError)           not a many-to-many relationship
     ├─ InvalidKeyError (ValueError)            not a primary key of the model
     ├─ InvalidColumnError (ValueError)         not a column of the model
     ├─ InvalidArgumentError (ValueError)       another argument is outside its range
     ├─ UnflushedInstanceError (ValueError)     an instance has no row yet
     ├─ SessionStateError (RuntimeError)        the session is in the wrong state for this
     ├─ WatcherStateError (RuntimeError)        the watcher is closed, not open, or of another loop
     ├─ DatabaseStateError (RuntimeError)       a database exists, is missing, or is in use
     ├─ UnsupportedEngineError (TypeError)      an engine that no watcher can work with
     ├─ ListenError (RuntimeError)              mode="listen", and listening is not possible
     └─ TriggerError (RuntimeError)             triggers cannot be installed on that table

Each error has the facts in its message as attributes.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


__all__ = [
    "DatabaseStateError",
    "InvalidArgumentError",
    "InvalidColumnError",
    "InvalidKeyError",
    "ListenError",
    "LockTimeoutError",
    "NotFoundError",
    "PoolExhaustedError",
    "RelationshipError",
    "RowbellError",
    "SessionStateError",
    "TriggerError",
    "UnflushedInstanceError",
    "UnmappedModelError",
    "UnsupportedEngineError",
    "WaitTimeoutError",
    "WatcherStateError",
]


def describe_row(model: type[Any], key: Mapping[str, object]) -> str:
    """A row for a message: ``Order(id=7)``; a long key is shortened."""
    columns = ", ".join(f"{name}={_short(value)}" for name, value in key.items())
    return f"{model.__name__}({columns})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"  # noqa: PLR2004


class RowbellError(Exception):
    """The base of all errors of rowbell. An error can be pickled if its attributes can."""

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
    """The row does not exist when a wait begins, or was deleted during the wait.

    Attributes:
        model: The mapped class.
        key: The primary key, by attribute name.
        deleted: Whether the row existed when the wait began.
    """

    def __init__(
        self, model: type[Any], key: Mapping[str, object], *, deleted: bool = False, hint: str = ""
    ) -> None:
        self.model = model
        self.key: dict[str, object] = dict(key)
        self.deleted = deleted
        what = "was deleted" if deleted else "not found"
        super().__init__(f"{describe_row(model, key)} {what}{hint and f': {hint}'}")


class WaitTimeoutError(RowbellError, TimeoutError):
    """The timeout of a wait has passed, and a last read after it showed no change.

    Attributes:
        model: The mapped class.
        key: The primary key, by attribute name.
        timeout: The timeout, in seconds.
        served: Whether the wait was polled or armed when it ended, as a clause.
    """

    def __init__(
        self, model: type[Any], key: Mapping[str, object], *, timeout: float, served: str
    ) -> None:
        self.model = model
        self.key: dict[str, object] = dict(key)
        self.timeout = timeout
        self.served = served
        row = describe_row(model, key)
        super().__init__(f"No change detected in {row} within {timeout:g}s ({served})")


class LockTimeoutError(RowbellError, SQLAlchemyError, TimeoutError):
    """The lock was not acquired within the timeout. Nothing was changed.

    Attributes:
        objects: The objects to lock: names of tables as SQL, rows, or a key.
        mode: The mode of the lock.
        timeout: The wait, as PostgreSQL writes it (``"5s"``); ``None`` if no wait was allowed,
            or if the caller's own ``lock_timeout`` ended it.
        holders: The process IDs of the sessions that hold the lock, if they are known.
        cancelled: The server's message, if it ended the statement before that time: for
            example because of a shorter ``statement_timeout``.
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
        self.objects: tuple[str, ...] = tuple(objects)
        self.mode = mode
        self.timeout = timeout
        self.holders: tuple[int, ...] = tuple(holders)
        self.cancelled = cancelled
        wait = f"within {timeout}" if timeout else "without a longer wait"
        held = "another transaction holds a conflicting lock (pg_blocking_pids() shows which)"
        if self.holders:
            held = f"held by process {', '.join(map(str, self.holders))} (see pg_stat_activity)"
        remedy = "Try again when that transaction has ended, or allow a longer wait"
        if cancelled:
            held = f"{cancelled} (statement_timeout also limits the wait for a lock)"
            remedy = "Allow more time for the statement, or less for the lock"
        super().__init__(f"no {mode} lock on {', '.join(self.objects)} {wait}: {held}. {remedy}")


class PoolExhaustedError(RowbellError, PoolTimeoutError, TimeoutError):
    """All connections of the engine's pool were in use until its timeout.

    Attributes:
        size: The pool's size (``pool_size``).
        overflow: How many more connections it may open (``max_overflow``).
        waited: How long it waited (``pool_timeout``), in seconds.
    """

    def __init__(self, *, size: int, overflow: int, waited: float) -> None:
        self.size = size
        self.overflow = overflow
        self.waited = waited
        super().__init__(
            f"no connection within {waited:g}s: all {size + overflow} of the pool are in use "
            f"(pool_size {size}, max_overflow {overflow}). Hold sessions for a shorter time, or "
            "increase one of these numbers"
        )


class UnmappedModelError(RowbellError, TypeError):
    """The given model is not a class that SQLAlchemy maps to tables.

    Attributes:
        model: The given object.
    """

    def __init__(self, model: object, why: str = "") -> None:
        self.model = model
        name = model.__name__ if isinstance(model, type) else repr(model)
        problem = why or "is not a class mapped by SQLAlchemy: pass the model class itself"
        super().__init__(f"{name} {problem}")


class InvalidKeyError(RowbellError, ValueError):
    """The given primary key does not fit the model's primary key.

    Attributes:
        model: The mapped class.
        value: The given value.
    """

    def __init__(self, model: type[Any], value: object, why: str) -> None:
        self.model: type[Any] = model
        self.value: object = value
        super().__init__(f"{_short(value)} is not a key of {model.__name__}: {why}")


_NOT_MAPPED: Final = "is not a mapped column"


class InvalidColumnError(RowbellError, ValueError):
    """A given name or attribute does not mean a column of the model.

    Attributes:
        model: The mapped class.
        column: The given name or attribute; ``None`` if none was given.
    """

    def __init__(
        self, model: type[Any], column: object, known: Iterable[str], why: str = _NOT_MAPPED
    ) -> None:
        self.model: type[Any] = model
        self.column: object = column
        names, text = sorted(known), str(column)
        close = get_close_matches(text, names, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
        problem = why if column is None else f"{text!r} {why}"
        super().__init__(f"{problem} of {model.__name__}: {remedy}")


class InvalidArgumentError(RowbellError, ValueError):
    """An argument is invalid.

    Attributes:
        argument: The argument's name.
        value: The given value.
    """

    def __init__(self, argument: str, value: object, expected: str) -> None:
        self.argument: str = argument
        self.value: object = value
        super().__init__(f"{argument} must be {expected}, got {_short(value)}")


class RelationshipError(RowbellError, TypeError):
    """The attribute is not a many-to-many relationship, or one that cannot be written to.

    Attributes:
        attribute: The given attribute.
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
    """The session is in the wrong state for this operation; the message says what to do."""


class WatcherStateError(RowbellError, RuntimeError):
    """The watcher is closed, was not entered, or belongs to another event loop."""


class DatabaseStateError(RowbellError, RuntimeError):
    """A database cannot be created or dropped in its current state.

    Attributes:
        database: The database's name.
        state: ``"exists"``, ``"missing"`` or ``"in use"``.
    """

    def __init__(self, database: str, state: str, remedy: str) -> None:
        self.database: str = database
        self.state: str = state
        verb = state if state == "exists" else f"is {state}"
        super().__init__(f"the database {database!r} {verb}: {remedy}")


class UnsupportedEngineError(RowbellError, TypeError):
    """The engine cannot be watched; the message says why, and what to use."""


class ListenError(RowbellError, RuntimeError):
    """``mode="listen"`` is set, but listening is not possible.

    Attributes:
        reason: The reason, as ``WatcherStatistics.reason`` gives it.
        detail: What was observed, and the remedy.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason: str = reason
        self.detail: str = detail
        super().__init__(f'cannot listen, which mode="listen" requires ({reason}): {detail}')


class TriggerError(RowbellError, RuntimeError):
    """Triggers cannot be installed on or removed from a table.

    Attributes:
        table: The table's name.
    """

    def __init__(self, table: str, why: str) -> None:
        self.table = table
        super().__init__(f"{table}: {why}")
