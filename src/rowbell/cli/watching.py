"""``rowbell watch``: a row's changes in the terminal."""

from __future__ import annotations

import asyncio
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from rich.text import Text
from sqlalchemy import Connection, MetaData, Table
from sqlalchemy.orm import registry

from rowbell._watch.database.ddl import in_terms_of_pg_catalog
from rowbell._watch.database.tables import declare
from rowbell._watch.watcher import RowWatcher
from rowbell.cli.output import Output, escaped
from rowbell.cli.problem import ProblemError
from rowbell.cli.tables import named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowbell.cli.target import Target

_PARSERS: Final[dict[type, Callable[[str], Any]]] = {
    int: int,
    float: float,
    Decimal: Decimal,
    UUID: UUID,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    time: time.fromisoformat,
    str: str,
}


async def watch(
    target: Target,
    name: str,
    key: str,
    output: Output,
    *,
    columns: Sequence[str] | None,
    until: str | None,
    seconds: float | None,
    follow: bool,
) -> bool:
    """Print each state of a row; return ``False`` if the timeout has passed.

    Without ``follow`` and ``until`` it ends with the first change.
    """
    async with target.engine() as engine:
        async with engine.connect() as connection:
            model, table = await connection.run_sync(_model, name)
        primary = list(table.primary_key.columns)
        parts = key.split(",") if len(primary) > 1 else [key]
        if len(parts) != len(primary):
            names = ",".join(column.name for column in primary)
            raise ProblemError(f"the key of {name!r} has {len(primary)} parts: {names}")
        values = tuple(_parsed(column, part) for column, part in zip(primary, parts, strict=True))
        condition = None if until is None else _condition(table, until)
        before: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(seconds), RowWatcher(engine) as watcher:
                states = watcher.follow(model, values, columns=columns, until=condition)
                async for state in states:
                    now = {column.name: getattr(state, column.key) for column in table.columns}
                    _show(output, before, now)
                    if before is not None and not follow and condition is None:
                        return True
                    before = now
                if states.ended == "deleted":
                    output.line("the row was deleted", "red")
        except TimeoutError:
            output.line(f"no change within {seconds:g} s", "yellow")
            return False
    return True


def _model(connection: Connection, name: str) -> tuple[type[Any], Table]:
    """A class for the rows of a table, as the database has it, with the options of its triggers."""
    found = named(connection, name)
    if not found.key:
        raise ProblemError(f"the table {name!r} has no primary key to identify its rows")
    with in_terms_of_pg_catalog(connection):
        table = Table(found.name, MetaData(), schema=found.schema, autoload_with=connection)
    if found.options is not None:  # its triggers tell of the columns that they name
        declare(table, found.options)
    model: type[Any] = type("Row", (), {})
    registry().map_imperatively(model, table)
    return model, table


def _parsed(column: Any, value: str) -> Any:
    """The value of a column, which is written as text.

    Raises:
        ProblemError: It is none of the column's type.
    """
    try:
        kind = column.type.python_type
    except NotImplementedError:
        kind = str
    if kind is bool:
        if value.lower() in {"true", "false"}:
            return value.lower() == "true"
        raise ProblemError(f"{value!r} is no value of {column.name}: true or false")
    try:
        return _PARSERS.get(kind, str)(value)
    except (ValueError, ArithmeticError):
        raise ProblemError(f"{value!r} is no value of {column.name} ({column.type})") from None


def _condition(table: Table, until: str) -> Any:
    """The condition ``column=value``."""
    name, equals, value = until.partition("=")
    column = table.columns.get(name.strip())
    if not equals or column is None:
        names = ", ".join(table.columns.keys())
        raise ProblemError(f"--until takes column=value, with one of the columns {names}")
    return column == _parsed(column, value.strip())


def _show(output: Output, before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    if output.as_json:
        output.json(now)
        return
    text = Text(datetime.now().astimezone().strftime("%H:%M:%S "), style="dim")
    for name, value in now.items():
        if before is not None and before[name] == value:
            continue
        text.append(f" {escaped(name)} ", style="bold")
        if before is not None:
            text.append(escaped(str(before[name])), style="red")
            text.append(" → ")
        text.append(escaped(str(value)), style="green" if before is not None else "")
    output.console.print(text)
