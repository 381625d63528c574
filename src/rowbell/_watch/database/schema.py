"""The schema ``rowbell``, which exists once in a database. Its SQL is in the folder ``sql``.

=========================  ==================================================================
``registration``           the rows that listeners want to be notified of
``listener``               the sessions that listen, each with a number
``registration_limit``     how many rows a role may register, if an administrator sets that
``table_flags``            a sequence: a bit for each table, 0 while none of its rows is registered
``unsent_notifications``   a sequence: counts the notifications that could not be sent
``relay_term``             a sequence: numbers the relays that have led
``channel_secret``         a random value, from which names of channels and tickets are made
``notify()``               called by the triggers
the other functions        called by listeners, all through ``calls``, and by relays
=========================  ==================================================================

Installing is idempotent. Each object is compared with the catalog: its owner, its privileges and
its definition. The schema's version (``schema_version()``) only increases. An older library does
not change a newer schema.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

SCHEMA: Final = "rowbell"
"""The schema's name."""

SCHEMA_VERSION: Final = 1
"""The version of the schema that this library installs."""

TRIGGERS: Final = ("rowbell_update", "rowbell_delete", "rowbell_truncate", "rowbell_insert")
"""The names of a table's triggers. The last one exists only if inserts are declared."""

COMPACT_BEYOND: Final = 4_194_304
"""Above this size in bytes, dead registrations are not left to VACUUM alone."""

KEYS_PER_PAYLOAD: Final = 350
"""A key and its comma take 21 bytes at most; PostgreSQL refuses payloads of 8000 bytes."""

KEYS_PER_TRANSACTION: Final = 1_000
"""With more keys, a transaction notifies of whole tables, so that it cannot fill the queue."""

REGISTRATIONS_PER_ROLE: Final = 100_000
"""How many rows a role may have registered, unless ``registration_limit`` has another number."""

_RELATIONS: Final = (
    "registration",
    "listener",
    "registration_limit",
    "indexes",
    "sequences",
    "channel_secret",
)
FUNCTIONS: Final = (
    "schema_version",
    "channel",
    "notify",
    "close_listener",
    "open_listener",
    "own_channel",
    "ticket_code",
    "introduce",
    "lead",
    "admit",
    "delete_stale",
    "table_flag",
    "needed_flags",
    "raise_flags",
    "lower_flags",
    "compact",
    "table_version",
    "permitted_columns",
    "is_intact",
    "obstacle",
    "register",
    "unregister",
    "heartbeat",
    "tables_without_writers",
)
"""The functions of the schema. Each is in the file of the same name."""

_OF_RELAYS: Final = frozenset({"lead", "admit"})
"""An administrator grants these to the roles of relays."""

_OF_THE_OWNER: Final = _OF_RELAYS | frozenset(
    {"channel", "ticket_code", "compact", "table_flag", "needed_flags", "raise_flags"}
)
_SHAPES: Final = {
    "registration": ("r", "table_oid oid, key_hash int8, listener int8, columns _text"),
    "registration_pkey": ("i", "table_oid oid, key_hash int8, listener int8"),
    "registration_listener": ("i", "listener int8"),
    "listener": (
        "r",
        (
            "number int8, backend_pid int4, backend_start timestamptz, role_oid oid,"
            " registrations int8"
        ),
    ),
    "listener_pkey": ("i", "number int8"),
    "registration_limit": ("r", "role_name name, registrations int8"),
    "registration_limit_pkey": ("i", "role_name cstring"),
    "channel_secret": ("m", "value text"),
    "table_flags": ("S", None),
    "unsent_notifications": ("S", None),
    "listener_number": ("S", None),
    "relay_term": ("S", None),
}
_PUBLIC_MAY: Final = {
    "registration": "SELECT",
    "listener": "SELECT",
    "registration_limit": "SELECT",
    "channel_secret": "",
    "table_flags": "SELECT",
    "unsent_notifications": "SELECT, USAGE",
    "listener_number": "SELECT",
    "relay_term": "SELECT",
}


@cache
def sql(name: str) -> str:
    """The text of a file in the folder ``sql``, without the comment at its top."""
    lines = (
        files("rowbell._watch.database")
        .joinpath("sql", f"{name}.sql")
        .read_text("utf-8")
        .splitlines()
    )
    while lines[0].startswith("--"):
        del lines[0]
    return "\n".join(lines)


def schema_statements() -> list[str]:
    """The statements that create missing objects of the schema and replace the others, in order."""
    return [*map(sql, (*_RELATIONS, *FUNCTIONS, "rights"))]


class SchemaState(StrEnum):
    """The state of the schema in a database."""

    MISSING = "missing"
    """There is no schema of that name."""
    INSTALLED = "installed"
    """The schema is as this library installs it."""
    INCOMPLETE = "incomplete"
    """This version or an older one; objects or privileges are missing or differ: install again."""
    NEWER = "newer"
    """A later version that this library works with. It is not changed."""
    INCOMPATIBLE = "incompatible"
    """A later version that requires a newer library."""


NEWER: Final = frozenset({SchemaState.NEWER, SchemaState.INCOMPATIBLE})
"""The states of a schema that a later version has installed."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What ``schema_status()`` found.

    Attributes:
        state: The state of the schema.
        version: The schema's version; ``None`` if it has none.
        differences: What is missing or differs, one phrase each.
        owner: The schema's owner, quoted as SQL; ``None`` if there is no schema.
        mine: Whether the current role is the owner, or may SET ROLE to it.
    """

    state: SchemaState
    version: int | None = None
    differences: tuple[str, ...] = ()
    owner: str | None = None
    mine: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether this library works with the schema in this state."""
        return self.state in {SchemaState.INSTALLED, SchemaState.NEWER}


def schema_status(connection: Connection) -> SchemaStatus:
    """The state of the schema ``rowbell`` in the catalog."""
    found = connection.execute(
        text(
            "SELECT n.nspowner::regrole::text AS owner, CASE"
            " WHEN current_setting('server_version_num')::integer < 160000"
            " THEN pg_has_role(n.nspowner, 'MEMBER') ELSE pg_has_role(n.nspowner, 'SET')"
            " END AS mine,"
            " EXISTS (SELECT FROM aclexplode(n.nspacl) AS a WHERE a.grantee = 0"
            "  AND a.privilege_type = 'USAGE') AS usable,"
            " (SELECT f.prosrc FROM pg_proc AS f WHERE f.pronamespace = n.oid"
            "  AND f.proname = 'schema_version') AS version"
            " FROM pg_namespace AS n WHERE n.nspname = :schema"
        ),
        {"schema": SCHEMA},
    ).one_or_none()
    if found is None:
        return SchemaStatus(SchemaState.MISSING)
    version, compatible_with = _numbers(found.version or "")
    differences: tuple[str, ...] = ()
    if version is not None and version > SCHEMA_VERSION:
        compatible = compatible_with <= SCHEMA_VERSION
        state = SchemaState.NEWER if compatible else SchemaState.INCOMPATIBLE
    else:
        unusable = [] if found.usable else ["PUBLIC may not use the schema"]
        differences = (*unusable, *_wrong_relations(connection), *_wrong_functions(connection))
        state = SchemaState.INCOMPLETE if differences else SchemaState.INSTALLED
    return SchemaStatus(state, version, differences, found.owner, found.mine)


def _numbers(source: str) -> tuple[int | None, int]:
    """The version and the oldest compatible version, from the text of ``schema_version()``.

    It is read, not called: the function may belong to anybody.
    """
    found = re.fullmatch(r"\s*SELECT (\d+), (\d+)\s*", source)
    return (None, 0) if found is None else (int(found[1]), int(found[2]))


def _wrong_relations(connection: Connection) -> list[str]:
    rows = connection.execute(
        text(
            "SELECT c.relname, c.relkind::text, c.relispopulated AS populated,"
            " (SELECT string_agg(a.attname || ' ' || t.typname, ', ' ORDER BY a.attnum)"
            "  FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid"
            "  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,"
            " c.relrowsecurity OR EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid)"
            " OR EXISTS (SELECT FROM pg_rewrite AS w WHERE w.ev_class = c.oid AND c.relkind = 'r')"
            " AS altered,"
            " (SELECT coalesce(string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), '')"
            "  FROM aclexplode(c.relacl) AS a WHERE a.grantee = 0) AS public_may,"
            " EXISTS (SELECT FROM aclexplode(c.relacl) AS a"
            "  WHERE a.grantee NOT IN (0, c.relowner)) AS others_may"
            " FROM pg_class AS c WHERE c.relnamespace = 'rowbell'::regnamespace"
        )
    ).all()
    found = {row.relname: row for row in rows}
    wrong: list[str] = []
    for name, (kind, columns) in _SHAPES.items():
        row = found.get(name)
        if row is None:
            wrong.append(f"{name} is missing")
        elif row.relkind != kind or (columns is not None and row.columns != columns):
            wrong.append(f"{name} is not the object that rowbell creates")
        elif row.altered:
            wrong.append(f"{name} has triggers, rules or row-level security of others")
        elif not row.populated:
            wrong.append(f"{name} is not populated")
        elif kind != "i" and (row.public_may != _PUBLIC_MAY[name] or row.others_may):
            wrong.append(f"{name} has other privileges")
    return wrong


def _wrong_functions(connection: Connection) -> list[str]:
    rows = connection.execute(
        text(
            "SELECT f.proname, f.prosrc, f.prosecdef, coalesce(f.proconfig, '{}') AS config,"
            " f.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(f.proacl) AS a"
            "  WHERE a.grantee = 0) AS public_may,"
            " EXISTS (SELECT FROM aclexplode(f.proacl) AS a"
            "  WHERE a.grantee NOT IN (0, f.proowner)) AS others_may"
            f" FROM pg_proc AS f WHERE f.pronamespace = '{SCHEMA}'::regnamespace"
            " AND f.prorettype <> 'trigger'::regtype"
        )
    ).all()
    wrong = [
        f"function {row.proname}() runs with its owner's rights and is not one of rowbell's"
        for row in rows
        if row.proname not in FUNCTIONS and row.prosecdef
    ]
    for name in FUNCTIONS:
        same = [row for row in rows if row.proname == name]
        header, source, _ = sql(name).split("$rowbell$")
        config = sorted(
            part.split("\n")[0].split(" AS")[0].strip().replace(" = ", "=").replace("'", "")
            for part in header.replace("\n", " ").split("SET ")[1:]
        )
        if len(same) != 1:
            wrong.append(f"function {name}() is missing or there are several")
        elif (
            same[0].prosrc != source
            or same[0].prosecdef != ("SECURITY DEFINER" in header)
            or settings(same[0].config) != tuple(config)
        ):
            wrong.append(f"function {name}() differs")
        elif name != "register" and (
            same[0].public_may != (name not in _OF_THE_OWNER)
            or (same[0].others_may and name not in _OF_RELAYS)
        ):
            wrong.append(f"function {name}() has other privileges")
    return wrong


def settings(config: Iterable[str]) -> tuple[str, ...]:
    """A function's ``proconfig``, independent of ``quote_all_identifiers`` at its creation."""
    return tuple(sorted(setting.replace('"', "") for setting in config))
