"""The arguments of a wait, checked at the call, before anything else is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, cast

from sqlalchemy import ColumnElement, inspect
from sqlalchemy.orm import LoaderCallableStatus

from rowbell._watch.arguments import ABSENT, Missing, WaitArguments, complete_arguments
from rowbell._watch.reasons import Reason
from rowbell._watch.rows.mapped_rows import MappedRows
from rowbell._watch.rows.since import Since
from rowbell._watch.rows.whole_tables import WholeTables
from rowbell._watch.timing import seconds_of
from rowbell._watch.until import checked_condition, condition_key, varies_by
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from sqlalchemy import Connection, Dialect
    from sqlalchemy.orm import InstanceState, QueryableAttribute
    from sqlalchemy.orm.interfaces import ORMOption

    from rowbell._mapping import SchemaMap
    from rowbell._primary_key import Key
    from rowbell._watch.until import Until


@dataclass(frozen=True, slots=True)
class WaitRequest:
    """The checked arguments of a wait.

    Attributes:
        rows: The rows of the model.
        key: The primary key of the row.
        columns: The attributes to watch.
        interval: The polling interval, in seconds.
        timeout: The timeout, in seconds; ``None`` for no limit.
        until: The condition, if one was given.
        condition_key: Equal for waits with the same SQL condition, which can share a SELECT.
        since: What the caller last saw, if it was given.
        options: Loader options.
        waits_for_missing: Whether the wait goes on while the row does not exist.
        is_absent: Whether the caller knows of no row. Then one that exists is a change.
        again: Makes the same request for a subclass; ``None`` if its columns would be the same.
    """

    rows: MappedRows
    key: Key
    columns: tuple[str, ...]
    interval: float
    timeout: float | None
    until: Until | None
    condition_key: Hashable
    since: Since | None
    options: Sequence[ORMOption]
    waits_for_missing: bool
    is_absent: bool
    again: Callable[[type[Any]], WaitRequest] | None

    @classmethod
    def of(
        cls,
        dialect: Dialect,
        schema_map: SchemaMap | None,
        model: type[Any],
        pk_value: object,
        arguments: Mapping[str, Any],
        *,
        known: type[Any] = WaitArguments,
    ) -> WaitRequest:
        """Check the arguments, which are those of ``known``; it and the callers document them."""
        return cls.maker(dialect, schema_map, model, arguments, known=known)(pk_value)

    @classmethod
    def maker(
        cls,
        dialect: Dialect,
        schema_map: SchemaMap | None,
        model: type[Any],
        arguments: Mapping[str, Any],
        *,
        known: type[Any],
    ) -> Callable[[object], WaitRequest]:
        """Check the arguments; return what makes the request for a row of a given key."""
        given = complete_arguments(arguments, known)
        rows = MappedRows.of(model, dialect, schema_map)
        columns, timeout, since = given["columns"], given["timeout"], given["since"]
        every = seconds_of("interval", given["interval"])
        limit = None if timeout is None else seconds_of("timeout", timeout, may_be_zero=True)
        condition = checked_condition(rows, given["until"])
        names = _columns(rows, columns, condition)
        depends_on_class = rows.has_subclasses and not (
            columns is not None or isinstance(condition, ColumnElement)
        )
        waits = _missing(given["missing"]) is Missing.WAIT
        seen = {} if since is ABSENT else _since(rows, names, since)
        knows_nothing = waits and since is None and given["until"] is None

        def again(pk_value: object, model: type[Any]) -> WaitRequest:
            return cls.of(dialect, schema_map, model, pk_value, arguments, known=known)

        def of_row(pk_value: object) -> WaitRequest:
            key = rows.key(pk_value)
            return cls(
                rows,
                key,
                names,
                every,
                limit,
                condition,
                condition_key(rows, condition),
                Since(rows, key, names, seen) if seen else None,
                tuple(given["options"]),
                waits,
                since is ABSENT or (knows_nothing and known is WaitArguments),
                partial(again, pk_value) if depends_on_class else None,
            )

        return of_row

    @classmethod
    def of_tables(
        cls, dialect: Dialect, schema_map: SchemaMap | None, model: type[Any], interval: object
    ) -> Self:
        """The request for any change of a class's tables."""
        rows = WholeTables.of(model, dialect, schema_map)
        every, names = seconds_of("interval", interval), rows.columns.declared
        return cls(rows, (), names, every, None, None, _TABLES, None, (), False, False, None)  # noqa: FBT003

    @property
    def tables(self) -> WholeTables | None:
        """The tables, if it is for any change of them."""
        return self.rows if isinstance(self.rows, WholeTables) else None

    @staticmethod
    def narrowed(connection: Connection, requests: Sequence[WaitRequest]) -> list[WaitRequest]:
        """The requests of one class, each for its row's own class, which may have more columns."""
        rows = requests[0].rows
        asking = rows.subclasses([request.key for request in requests])
        if asking is None:
            return list(requests)
        statement, parameters = asking
        result = connection.execute(statement, parameters, execution_options=rows.execution_options)
        identities = dict(tuple(row) for row in result)
        return [
            request.of_class(identities.get(place)) for place, request in enumerate(requests, 1)
        ]

    def of_class(self, identity: object) -> WaitRequest:
        """The request for the class with that polymorphic identity."""
        mapper = self.rows.mapper.polymorphic_map.get(identity)
        is_other = mapper is not None and mapper is not self.rows.mapper
        return self.again(mapper.class_) if mapper is not None and is_other and self.again else self

    def without_the_row(self, elapsed: float) -> Self:
        """The request for the rest of its time, after the row was seen and deleted."""
        rest = None if self.timeout is None else max(self.timeout - elapsed, 0.0)
        return replace(self, timeout=rest, since=None, is_absent=True)

    def deadline(self, begun: float) -> float:
        """When the timeout has passed if the wait began then; ``math.inf`` for never."""
        return math.inf if self.timeout is None else begun + self.timeout

    @property
    def condition(self) -> ColumnElement[bool] | None:
        """``until``, if the server evaluates it."""
        return self.until if isinstance(self.until, ColumnElement) else None

    @property
    def predicate(self) -> Callable[[Any], object] | None:
        """``until``, if it is called with an instance."""
        return None if isinstance(self.until, ColumnElement) else self.until

    @property
    def never_armed(self) -> Reason | None:
        """Why the wait can only be polled, whatever is installed; ``None`` if it can be armed."""
        varies = Reason.VARYING_CONDITION if varies_by(self.until) else None
        return self.rows.never_armed(self.columns) or varies

    @property
    def subject(self) -> str:
        """What that reason concerns, for a message."""
        model = f"model {self.rows.model.__name__}"
        varies = varies_by(self.until)
        return f"{model}, whose condition depends on {varies}" if varies else model


_TABLES: Final = "tables"
"""The key of requests for whole tables, which read the same."""


def _columns(
    rows: MappedRows,
    columns: Sequence[str | QueryableAttribute[Any]] | None,
    until: Until | None,
) -> tuple[str, ...]:
    """The attributes to watch: those named, or those that the model declares.

    A condition needs the columns in it, even if they are not declared. A predicate may need any.
    """
    names = rows.columns.resolve(columns)
    everything = tuple(rows.columns.properties)
    if columns is not None or until is None or len(names) == len(everything):
        return names
    return rows.columns.of(until) if isinstance(until, ColumnElement) else everything


def _missing(value: object) -> Missing:
    try:
        return Missing(str(value))
    except ValueError:
        raise InvalidArgumentError("missing", value, "'raise' or 'wait'") from None


def _since(rows: MappedRows, names: Sequence[str], since: object) -> Mapping[str, Any]:
    if since is None:
        return {}
    if isinstance(since, Mapping):
        given = cast("Mapping[str, Any]", since)
        known = {rows.columns.one(name): value for name, value in given.items()}
        seen = {name: known[name] for name in names if name in known}
    elif isinstance(since, rows.model):
        state = cast("InstanceState[Any]", inspect(since))
        # Of an attribute with a change that is not flushed, the caller last saw the old value.
        loaded = {**state.dict, **state.committed_state}
        seen = {name: loaded[name] for name in names if name in loaded}
        # The old value of an attribute that was assigned while it was expired is unknown.
        seen = {k: v for k, v in seen.items() if not isinstance(v, LoaderCallableStatus)}
    else:
        expected = f"an instance of {rows.model.__name__}, or values by attribute"
        raise InvalidArgumentError("since", since, expected)
    if not seen:
        expected = "something with a value for a watched column; are its attributes expired?"
        raise InvalidArgumentError("since", since, expected)
    return seen
