"""A wait's ``until``, checked at the call: a predicate, or an SQL expression on the row.

An armed watch checks its condition when its row changes. So a condition that may change while the
row does not is polled: one that reads other rows, or calls a function whose result may depend on
more than its arguments, such as ``now()``. A predicate is a Python function, so its dependencies
are unknown; it is called again at the wait's interval.
"""

from __future__ import annotations

import inspect as python_inspect
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from sqlalchemy import BindParameter, ColumnElement, String
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    Cast,
    ColumnClause,
    SQLCoreOperations,
    TextClause,
)
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import Exists, ScalarSelect, SelectBase

from rowbell.errors import InvalidArgumentError, InvalidColumnError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from rowbell._watch.rows.mapped_rows import MappedRows

Until: TypeAlias = "Callable[[Any], object] | ColumnElement[bool]"
"""A predicate on the row, or an SQL expression on the model's columns."""

_OF_ARGUMENTS: Final = frozenset(
    """
    abs ceil ceiling floor round trunc sign sqrt power mod coalesce nullif greatest least
    lower upper length char_length character_length octet_length bit_length substr substring
    left right trim btrim ltrim rtrim lpad rpad replace translate reverse concat concat_ws
    starts_with strpos position split_part md5 encode decode regexp_replace regexp_match
    array array_length array_position cardinality array_to_string any all unnest
    json_array_length jsonb_array_length json_typeof jsonb_typeof json_extract_path
    json_extract_path_text jsonb_extract_path jsonb_extract_path_text jsonb_exists
    jsonb_path_exists jsonb_path_match jsonb_contains isempty lower_inc upper_inc lower_inf
    upper_inf date_part date_trunc extract isfinite row
    """.split()  # noqa: SIM905  # forty lines otherwise
)
"""The functions whose result depends only on their arguments (or also on settings)."""

_LITERAL: Final = re.compile(r"\s*(-?[0-9.]+|'[^']*'|true|false|null)\s*", re.IGNORECASE)
_CLOCK_WORDS: Final = re.compile(r"\s*'?\s*(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_OPERATORS: Final = frozenset(
    """
    -> ->> #> #>> @> <@ ? ?| ?& @? @@ && || ~ ~* !~ !~* << >> &< &> -|- % ^ & | # = <>
    """.split()  # noqa: SIM905  # thirty lines otherwise
)
"""The operators in ``.op()`` that are PostgreSQL's own and do not depend on the time."""


def checked_condition(rows: MappedRows, until: object) -> Until | None:
    """The condition that ``until`` means.

    Raises:
        InvalidArgumentError: It is neither a plain function nor an SQL expression.
        InvalidColumnError: The expression has a column that is not the model's.
    """
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
    called = getattr(until, "__call__", None)  # noqa: B004  # it may be a callable object
    if not callable(until) or any(map(python_inspect.iscoroutinefunction, (until, called))):
        expected = "a plain function that is given an instance, or an SQL expression"
        raise InvalidArgumentError("until", until, expected)
    return until


def condition_key(rows: MappedRows, until: Until | None) -> Hashable:
    """A key that is equal for equal SQL conditions.

    Raises:
        InvalidArgumentError: The expression cannot be compiled to SQL of this database.
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


def varies_by(until: Until | None) -> str | None:
    """The part of a condition that may change while the row does not, as SQL; else ``None``."""
    if not isinstance(until, ColumnElement):
        return None
    elements = list(visitors.iterate(until))
    has_cast = any(isinstance(element, Cast) for element in elements)
    return next(filter(None, (_varying(element, has_cast) for element in elements)), None)


def _varying(element: object, has_cast: bool) -> str | None:  # noqa: FBT001
    found: str | None = None
    if isinstance(element, SelectBase | ScalarSelect | Exists):
        found = "a subquery"
    elif isinstance(element, FunctionElement):
        name = str(getattr(element, "name", type(element).__name__))
        is_known = getattr(element, "packagenames", ()) in {(), ("pg_catalog",)}
        found = None if is_known and name.lower() in _OF_ARGUMENTS else f"{name}()"
    elif isinstance(element, BindParameter):
        is_time = has_cast or not isinstance(element.type, String)
        if element.callable is not None or (
            is_time and isinstance(element.value, str) and _CLOCK_WORDS.match(element.value)
        ):
            found = repr(element.value)  # PostgreSQL reads 'now' as the current time
    elif isinstance(element, BinaryExpression) and isinstance(element.operator, custom_op):
        found = None if element.operator.opstring in _OPERATORS else element.operator.opstring
    elif isinstance(element, TextClause) or (
        isinstance(element, ColumnClause) and element.is_literal
    ):
        is_constant = _LITERAL.fullmatch(str(element)) and not _CLOCK_WORDS.match(str(element))
        found = None if is_constant else str(element)
    elif not type(element).__module__.startswith("sqlalchemy."):
        found = type(element).__name__
    return found
