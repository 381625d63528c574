"""What only a process itself can find out about its tables, on a connection of its own engine.

A relay knows tables by their oids. Which table a name means depends on the ``search_path`` and the
rights of the process, and so does whether it may trust the owners of the trigger functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, OID

from rowbell._watch.database.calls import callers_view
from rowbell._watch.notifiers.contract import Obstacle
from rowbell._watch.reasons import Reason

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rowbell._watch.connections import Connections
    from rowbell._watch.notifiers.contract import Tables

_VIEW: Final = callers_view(":tables", ":schemas", ":names")
_LOOK: Final = text(f"SELECT {_VIEW}").bindparams(  # made of constants
    bindparam("tables", type_=ARRAY(OID)),
    bindparam("schemas", type_=ARRAY(Text)),
    bindparam("names", type_=ARRAY(Text)),
)


class Names:
    """The names of watched tables.

    Args:
        connections: The connections that the watcher's reads use.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._oids: dict[int, int | None] = {}
        self._untrusted: dict[int, Obstacle] = {}

    async def look(
        self, tables: Tables, *, only_new: bool = False
    ) -> tuple[dict[int, Obstacle], tuple[int, ...]]:
        """Look at the tables.

        Args:
            tables: The tables.
            only_new: Not at those that were looked at before.

        Returns:
            Those that may not be trusted; and those whose name means another table than before.
        """
        wanted = {oid: tables[oid][0] for oid in tables if not only_new or oid not in self._oids}
        moved: tuple[int, ...] = ()
        if wanted:
            parameters = {
                "tables": list(wanted),
                "schemas": [table.schema for table in wanted.values()],
                "names": [table.qualified for table in wanted.values()],
            }
            oids, untrusted = await self._connections.run(_look, parameters)
            now = dict(zip(wanted, oids, strict=True))
            moved = tuple(o for o in now if o in self._oids and self._oids[o] != now[o])
            self._oids.update(now)
            for oid, table in wanted.items():
                self._untrusted.pop(oid, None)
                if oid in untrusted:
                    name = f"table {table.qualified}"
                    self._untrusted[oid] = Obstacle(Reason.UNTRUSTED, name)
        return {oid: one for oid, one in self._untrusted.items() if oid in tables}, moved


def _look(connection: Connection, parameters: dict[str, Any]) -> tuple[list[int | None], list[int]]:
    oids, untrusted = connection.execute(_LOOK, parameters).one()
    return list(oids), list(untrusted)
