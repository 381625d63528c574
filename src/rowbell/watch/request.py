"""What a wait asks for, checked at the call, before anything is touched."""

from __future__ import annotations

import asyncio
import inspect as python_inspect
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

from sqlalchemy import ColumnElement, inspect
from sqlalchemy.exc import CompileError
from sqlalchemy.orm import LoaderCallableStatus
from sqlalchemy.sql.elements import SQLCoreOperations

from rowbell.errors import InvalidArgumentError, InvalidColumnError
from rowbell.watch.distinct import UNSEEN
from rowbell.watch.rows import MappedRows
from rowbell.watch.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Dialect
    from sqlalchemy.orm import InstanceState, QueryableAttribute
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell.keys import Key
    from rowbell.mapping import SchemaMap
    from rowbell.watch.state import Reason
    from rowbell.watch.watch import Until


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """A wait's arguments, checked.

    Attributes:
        rows: The rows of the model.
        key: Which of them.
        columns: The attributes to watch.
        interval: The polling interval, in seconds.
        timeout: How long, in seconds; ``None`` for ever.
        until: The condition, if one was given.
        condition_key: Equal for waits whose SQL condition is the same, and can share a SELECT.
        since: The values last seen, by attribute; empty if none were given.
        options: Loader options.
    """

    rows: MappedRows
    key: Key
    columns: tuple[str, ...]
    interval: float
    timeout: float | None
    until: Until | None
    condition_key: Hashable
    since: Mapping[str, Any]
    options: Sequence[ORMOption]

    @classmethod
    def of(
        cls,
        dialect: Dialect,
        schema_map: SchemaMap | None,
        model: type[Any],
        pk_value: object,
        *,
        columns: Sequence[str | QueryableAttribute[Any]] | None,
        interval: float,
        timeout: float | None,
        until: Until | None,
        since: object,
        options: Sequence[ORMOption],
    ) -> Self:
        """Check a wait's arguments; see ``wait_for_row_change`` for them and the errors."""
        rows = MappedRows.of(model, dialect, schema_map)
        if not 0 < interval < math.inf:
            raise InvalidArgumentError("interval", interval, "a number of seconds above 0")
        if timeout is not None and not timeout >= 0:
            raise InvalidArgumentError("timeout", timeout, "a number of seconds, or None for ever")
        condition = _until(rows, until)
        names = _columns(rows, columns, condition)
        return cls(
            rows,
            rows.key(pk_value),
            names,
            float(interval),
            None if timeout is None else float(timeout),
            condition,
            _condition_key(rows, condition),
            _since(rows, names, since),
            tuple(options),
        )

    @property
    def known_baseline(self) -> tuple[Any, ...] | None:
        """What the caller last saw, ``None`` where only the server knows how a read returns it."""
        if not all(self.rows.is_read_as_given(name, value) for name, value in self.since.items()):
            return None
        return tuple(self.since.get(name, UNSEEN) for name in self.columns)

    def baseline(self, connection: Connection) -> tuple[Any, ...]:
        """What the caller last saw, in the form in which reads return it, from the server."""
        names = [name for name in self.columns if name in self.since]
        result = connection.execute(
            self.rows.literal(names, self.since),
            execution_options=self.rows.execution_options,
        )
        row = result.one()
        seen = dict(zip(names, row, strict=True))
        return tuple(seen.get(name, UNSEEN) for name in self.columns)

    def watch(self, begun: float, *, wants_instance: bool) -> Watch:
        """The watch that serves this wait."""
        return Watch(
            rows=self.rows,
            key=self.key,
            columns=self.columns,
            interval=self.interval,
            timeout=self.timeout,
            deadline=math.inf if self.timeout is None else begun + self.timeout,
            result=asyncio.get_running_loop().create_future(),
            until=self.until,
            condition_key=self.condition_key,
            options=self.options,
            wants_instance=wants_instance,
            hindrance=self.hindrance,
        )

    @property
    def hindrance(self) -> Reason | None:
        """Why the wait can only be polled, whatever is installed, if that is so."""
        return self.rows.hindrance(self.columns)


def _columns(
    rows: MappedRows,
    columns: Sequence[str | QueryableAttribute[Any]] | None,
    until: Until | None,
) -> tuple[str, ...]:
    """The attributes to watch: those named, or those that the model declares.

    A condition looks at what it looks at, whatever is declared; nobody knows what a predicate
    looks at.
    """
    names = rows.columns.resolve(columns)
    everything = tuple(rows.columns.properties)
    if columns is not None or until is None or len(names) == len(everything):
        return names
    return rows.columns.of(until) if isinstance(until, ColumnElement) else everything


def _until(rows: MappedRows, until: object) -> Until | None:
    if until is None:
        return None
    if isinstance(until, SQLCoreOperations):
        to_expression = getattr(until, "__clause_element__", None)
        expression = cast("ColumnElement[bool]", to_expression() if to_expression else until)
        foreign = rows.foreign_column(expression)
        if foreign is not None:
            why = "in until= is not a column"
            raise InvalidColumnError(rows.model, foreign, rows.columns.properties, why)
        return expression
    if not callable(until) or python_inspect.iscoroutinefunction(until):
        raise InvalidArgumentError(
            "until", until, "a function that is given an instance, or an SQL expression"
        )
    return until


def _condition_key(rows: MappedRows, until: Until | None) -> Hashable:
    """What the server is to be asked, as a key.

    Raises:
        InvalidArgumentError: The expression cannot be written in SQL of this database.
    """
    if not isinstance(until, ColumnElement):
        return None
    try:
        compiled = until.compile(dialect=rows.dialect)
    except CompileError as error:
        raise InvalidArgumentError(
            "until", type(until), f"SQL of this database ({error})"
        ) from error
    key = (str(compiled), tuple(sorted(compiled.params.items())))
    try:
        hash(key)
    except TypeError:
        return id(until)
    return key


def _since(rows: MappedRows, names: Sequence[str], since: object) -> Mapping[str, Any]:
    if since is None:
        return {}
    if isinstance(since, Mapping):
        given = cast("Mapping[str, Any]", since)
        known = {rows.columns.one(name): value for name, value in given.items()}
        seen = {name: known[name] for name in names if name in known}
    elif isinstance(since, rows.model):
        state = cast("InstanceState[Any]", inspect(since))
        # An attribute that the caller has changed and not flushed was last seen as it was before.
        loaded = {**state.dict, **state.committed_state}
        seen = {name: loaded[name] for name in names if name in loaded}
        # What was assigned while it was expired was never seen.
        seen = {k: v for k, v in seen.items() if not isinstance(v, LoaderCallableStatus)}
    else:
        expected = f"an instance of {rows.model.__name__}, or values by attribute"
        raise InvalidArgumentError("since", since, expected)
    if not seen:
        expected = "something that holds a watched column; are its attributes expired?"
        raise InvalidArgumentError("since", since, expected)
    return seen
