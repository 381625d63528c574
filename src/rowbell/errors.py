"""Every error that rowbell raises.

::

    RowbellError
     ├─ NotFoundError (LookupError)             the row does not exist, or no longer
     ├─ WaitTimeoutError (TimeoutError)         no change within the time given
     ├─ UnmappedModelError (TypeError)          not a mapped class, or one that cannot be watched
     ├─ InvalidKeyError (ValueError)            not a primary key of the model
     ├─ InvalidColumnError (ValueError)         not a column of the model
     ├─ InvalidWaitError (ValueError)           another argument of a wait or a watcher
     ├─ SessionStateError (RuntimeError)        the session cannot wait in the state it is in
     ├─ WatcherStateError (RuntimeError)        the watcher is closed, not entered, of another loop
     ├─ UnsupportedEngineError (TypeError)      an engine that no watcher can work with
     ├─ ListenError (RuntimeError)              mode="listen", and listening is not possible
     └─ TriggerError (RuntimeError)             triggers cannot be installed on that table
         └─ LockTimeoutError (TimeoutError, SQLAlchemyError)

Each keeps the facts that its sentence is built from as attributes.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def describe_row(model: type[Any], key: Mapping[str, object]) -> str:
    """A row for a sentence: ``Order(id=7)``; a long key is shortened."""
    columns = ", ".join(f"{name}={_short(value)}" for name, value in key.items())
    return f"{model.__name__}({columns})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"  # noqa: PLR2004


class RowbellError(Exception):
    """The base of all errors of rowbell."""


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
        self.model = model
        self.value = value
        super().__init__(f"{_short(value)} is no key of {model.__name__}: {why}")


class InvalidColumnError(RowbellError, ValueError):
    """A name or attribute given does not stand for a column of the model.

    Attributes:
        model: The mapped class.
        column: What was given.
    """

    def __init__(
        self, model: type[Any], column: object, known: Iterable[str], why: str = ""
    ) -> None:
        self.model = model
        self.column = column
        names = sorted(known)
        text = column if isinstance(column, str) else str(column)
        close = get_close_matches(text, names, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
        problem = why or "is not a mapped column"
        super().__init__(f"{text!r} {problem} of {model.__name__}: {remedy}")


class InvalidWaitError(RowbellError, ValueError):
    """An argument of a wait or of a watcher is outside its range.

    Attributes:
        argument: The argument's name.
        value: What was given.
    """

    def __init__(self, argument: str, value: object, expected: str) -> None:
        self.argument = argument
        self.value = value
        super().__init__(f"{argument} must be {expected}, got {_short(value)}")


class SessionStateError(RowbellError, RuntimeError):
    """The session cannot wait in the state that it is in; the sentence names the way out."""


class WatcherStateError(RowbellError, RuntimeError):
    """The watcher is closed, was not entered, or belongs to another event loop."""


class UnsupportedEngineError(RowbellError, TypeError):
    """The engine cannot be watched at all; the sentence says why and what to use."""


class ListenError(RowbellError, RuntimeError):
    """``mode="listen"`` was asked for, and listening does not work.

    Attributes:
        reason: The reason, as ``WatcherStatistics.reason`` gives it.
        detail: What was seen, and the remedy.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f'cannot listen, as mode="listen" demands ({reason}): {detail}')


class TriggerError(RowbellError, RuntimeError):
    """Triggers cannot be installed on or removed from a table.

    Attributes:
        table: The table's name.
    """

    def __init__(self, table: str, why: str) -> None:
        self.table = table
        super().__init__(f"{table}: {why}")


class LockTimeoutError(TriggerError, SQLAlchemyError, TimeoutError):
    """A table's lock was not to be had in time.

    Attributes:
        table: The table's name.
        mode: The lock's mode.
        timeout: The wait, as PostgreSQL's ``lock_timeout`` takes it.
    """

    def __init__(self, table: str, mode: str, timeout: str) -> None:
        self.mode = mode
        self.timeout = timeout
        super().__init__(
            table,
            f"no {mode} lock within {timeout}: a transaction that uses the table is open "
            "(see pg_stat_activity, pg_blocking_pids). Nothing was changed; try again when it "
            "has ended, or allow a longer lock_timeout",
        )
