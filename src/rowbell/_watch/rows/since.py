"""What a caller last saw of a row, in the form that reads return.

In general only the server can convert a value: it rounds, pads and casts. For the plain types that
most columns have, the value is known without a query.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import DBAPIError

from rowbell._watch.failures import is_passing
from rowbell._watch.values.distinct import UNSEEN, is_distinct
from rowbell._watch.values.forms import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from rowbell._primary_key import Key
    from rowbell._watch.rows.mapped_rows import MappedRows


@dataclass(frozen=True, slots=True)
class Since:
    """What the caller of one wait last saw.

    Attributes:
        rows: The rows of the class.
        key: The primary key of the row.
        columns: The watched attributes.
        values: The values that the caller last saw, by attribute; at least one.
    """

    rows: MappedRows
    key: Key
    columns: tuple[str, ...]
    values: Mapping[str, Any]

    @property
    def known(self) -> tuple[Any, ...] | None:
        """The baseline; ``None`` if the server must be queried."""
        seen = {
            name: self.rows.forms.known_read(name, value) for name, value in self.values.items()
        }
        if any(value is UNKNOWN for value in seen.values()):
            return None
        return self._in_order(seen)

    @staticmethod
    def asked(connection: Connection, several: Sequence[Since]) -> list[tuple[Any, ...]]:
        """The baselines of waits for rows of one class, from the server."""
        same: dict[int, dict[str, Any]] = {}
        by_names: defaultdict[tuple[str, ...], list[Since]] = defaultdict(list)
        for since in several:
            by_names[tuple(since.values)].append(since)
        for names, some in by_names.items():
            for since, found in zip(some, _in_rows(connection, some, names), strict=True):
                same[id(since)] = found
        return [since._in_order(since._given(connection, same[id(since)])) for since in several]  # noqa: SLF001

    def _in_order(self, seen: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(seen.get(name, UNSEEN) for name in self.columns)

    def _given(self, connection: Connection, same: dict[str, Any]) -> dict[str, Any]:
        """The values that are still the same in the row; the server converts the others."""
        seen = dict(same)
        rest = {name: value for name, value in self.values.items() if name not in same}
        if rest:
            statement, options = self.rows.literals(rest), self.rows.execution_options
            try:
                row = connection.execute(statement, execution_options=options).one()
            except DBAPIError as error:
                if is_passing(error):
                    raise
                # The column cannot hold the value, so the row has another one.
                seen |= dict.fromkeys(rest, _NOTHING_LIKE_IT)
            else:
                seen |= zip(rest, row, strict=True)
        return seen

    def is_as_seen(self, name: str, value: object) -> bool:
        """Whether a value equals what the caller last saw, by the comparison of its type."""
        if not self.rows.forms.is_opaque(name):
            return not is_distinct(self.values[name], value)
        type_ = self.rows.columns.properties[name].columns[0].type
        try:
            return bool(type_.compare_values(self.values[name], value))
        except Exception:  # noqa: BLE001  # of the application's type: compare in SQL instead
            return False


class _NothingLikeIt:
    """Differs from every value."""


_NOTHING_LIKE_IT: Final = _NothingLikeIt()


def _in_rows(
    connection: Connection, several: Sequence[Since], names: Sequence[str]
) -> list[dict[str, Any]]:
    """For each row, the attributes that still are what the caller last saw.

    The loaded values are compared: a value may have been rounded when the caller loaded it, and a
    type may send the same value differently each time.
    """
    rows = several[0].rows
    statement, parameters = rows.current([since.key for since in several], names)
    found: list[dict[str, Any]] = [{} for _ in several]
    try:
        result = connection.execute(
            statement, parameters, execution_options=rows.execution_options
        ).all()
    except Exception as error:
        if is_passing(error):
            raise
        return found  # a value cannot be loaded: compare in SQL instead
    for place, *pairs in result:
        since = several[place - 1]
        for name, form, value in zip(names, pairs[::2], pairs[1::2], strict=True):
            if since.is_as_seen(name, value):
                found[place - 1][name] = form
    return found
