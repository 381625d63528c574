"""The answers of the database to the calls of ``calls``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Server:
    """The server that a connection has reached.

    Attributes:
        backend_pid: The server process.
        in_recovery: Whether it is a standby.
        database: The database's name.
        started: When the server was started, in seconds. It identifies the server.
        schema: The version of the schema ``rowbell`` and the oldest version that it is compatible
            with; ``None`` if it is not installed.
    """

    backend_pid: int
    in_recovery: bool
    database: str
    started: float
    schema: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class TableState:
    """The state of a watched table in the database.

    Attributes:
        obstacle: Why the table cannot notify; ``None`` if it can.
        registers: Whether ``register()`` registers its rows. It also does if only the client found
            the obstacle.
        version: It changes when the table, its partitions or its triggers change, or when its name
            means another table.
    """

    obstacle: str | None
    registers: bool
    version: object


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to ``register()``.

    Attributes:
        tables: The state of each table, by oid.
        over_limit: Nothing was registered, because the role would have had too many registrations.
    """

    tables: dict[int, TableState]
    over_limit: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The answer to ``heartbeat()``.

    Attributes:
        backend_pid: The server process.
        in_recovery: Whether it is a standby now.
        listens: Whether this session listens on the channels that notifications for it are sent to.
        unsent: How many notifications could not be sent, in total.
        registered: How many rows are registered for this session.
        checksum: The checksum of these rows, as in ``RowSet``.
        queue_usage: How much of the server's notification queue is used: 1 is all of it.
        tables: The state of each table, by oid.
    """

    backend_pid: int
    in_recovery: bool
    listens: bool
    unsent: int
    registered: int
    checksum: int
    queue_usage: float
    tables: dict[int, TableState]
