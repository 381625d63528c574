"""What the database answers to the calls of ``calls``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Server:
    """The server that a connection has reached.

    Attributes:
        backend_pid: The server process.
        in_recovery: Whether it is a standby.
        database: The database's name.
        started: When the server was started, in seconds: it is known by that.
        schema: The version of the schema ``rowbell`` and the oldest that it is compatible with;
            ``None`` where it is not installed.
    """

    backend_pid: int
    in_recovery: bool
    database: str
    started: float
    schema: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class TableState:
    """What the database says of a table that is waited for.

    Attributes:
        obstacle: Why its rows cannot be waited for by notification, ``None`` if they can.
        registers: Whether the database registers its rows; it does where only the client objects.
        version: Changes when the table, its partitions, its triggers or the meaning of its name
            do.
    """

    obstacle: str | None
    registers: bool
    version: object


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to ``register()``.

    Attributes:
        tables: What the database says of each table, by oid.
        over_limit: Nothing was registered: the role would have had too many.
    """

    tables: dict[int, TableState]
    over_limit: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to ``heartbeat()``.

    Attributes:
        backend_pid: The server process.
        in_recovery: Whether it is a standby by now.
        listens: Whether this session listens on the channels that it is notified on.
        unsent: How many notifications could not be sent, ever.
        registered: How many rows are registered for this session.
        checksum: Their ``checksum()``.
        tables: What the database says of each table, by oid.
    """

    backend_pid: int
    in_recovery: bool
    listens: bool
    unsent: int
    registered: int
    checksum: int
    tables: dict[int, TableState]
