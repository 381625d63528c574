"""Why waits are polled, and what to do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why waits are polled."""

    REQUESTED = "requested"
    """``mode="poll"``."""
    UNSUPPORTED = "unsupported"
    """The database, its driver or the server does not support LISTEN."""
    IN_RECOVERY = "in_recovery"
    """The server is a standby; LISTEN and NOTIFY are refused there."""
    NOT_DELIVERED = "not_delivered"
    """LISTEN was accepted, but nothing arrived, as behind a transaction pooler."""
    CONNECTION_LOST = "connection_lost"
    """The LISTEN connection could not be opened, or was lost."""
    RELAY_OUTDATED = "relay_outdated"
    """The relay does not understand this version of rowbell, or this one does not understand the
    relay."""
    CANNOT_LISTEN = "cannot_listen"
    """Listening failed with an error that does not pass, for example a wrong password or
    argument."""
    NOT_INSTALLED = "not_installed"
    """The schema ``rowbell`` is not in the database, so no table has triggers."""
    NOT_A_TABLE = "not_a_table"
    """Listening, but the wait is for a row of a view or a foreign table, which has no triggers."""
    TRIGGER_MISSING = "trigger_missing"
    """Listening, but a watched table has no triggers."""
    TRIGGER_OUTDATED = "trigger_outdated"
    """Listening, but the triggers of a watched table are for another key or for other declared
    columns."""
    TRIGGER_DISABLED = "trigger_disabled"
    """Listening, but the triggers of a watched table are disabled."""
    SCHEMA_OUTDATED = "schema_outdated"
    """The schema ``rowbell`` was installed by an older version of rowbell, or is incomplete."""
    SCHEMA_NEWER = "schema_newer"
    """The schema ``rowbell`` was installed by a newer rowbell that this one cannot work with."""
    NOT_PERMITTED = "not_permitted"
    """The role of the LISTEN connection may not SELECT the key and the watched columns, or may not
    register rows."""
    ROW_LEVEL_SECURITY = "row_level_security"
    """Listening, but row-level security restricts which rows the role of the LISTEN connection
    sees. Notifications would reveal changes of rows that it may not see."""
    INHERITANCE = "inheritance"
    """Listening, but the table is a partition, or inheritance links it with another table. Writes
    to that other table do not fire its triggers."""
    UNTRUSTED = "untrusted"
    """Listening, but a role that cannot change the table itself owns or may change the schema
    ``rowbell`` or the trigger function."""
    TOO_MANY_REGISTRATIONS = "too_many_registrations"
    """Listening, but the role has registered as many rows as it may."""
    NO_KEY = "no_key"
    """Listening, but a watched table has no primary key of its own."""
    NO_HASH = "no_hash"
    """Listening, but the type of a key column has no hash function, which triggers need to identify
    rows (for example cube or tsvector)."""
    NOT_DECLARED = "not_declared"
    """Listening, but a wait watches columns that its model does not declare."""

    INSERTS_NOT_DECLARED = "inserts_not_declared"
    """Listening, but a wait is for a row that does not exist, or ``changes()`` for a table, and the
    model does not declare that inserts notify."""
    OTHER_KEY_TYPE = "other_key_type"
    """Listening, but a wait is for a row that does not exist, and the model gives its key a type
    that cannot always be cast to the type in the database."""
    VARYING_CONDITION = "varying_condition"
    """Listening, but the condition of a wait may change while its row does not, because it calls a
    function such as ``now()``, or reads other rows."""

    OWN_CONNECTION = "own_connection"
    """The session sees other rows of the table than other connections do, by row-level security or
    another role. So its wait polls on the connection that it holds."""


REMEDIES: Final = {
    Reason.UNSUPPORTED: "set listen_url, or listen_connect to a function that returns an asyncpg "
    'connection, or use mode="poll"',
    Reason.IN_RECOVERY: 'use an engine on the primary, or mode="poll"',
    Reason.NOT_DELIVERED: "set listen_url to the server itself, not to the pooler "
    "(PgBouncer delivers in session mode only), or use mode='poll'",
    Reason.CONNECTION_LOST: "it is retried automatically",
    Reason.RELAY_OUTDATED: "update the relay first, then the processes that use it",
    Reason.CANNOT_LISTEN: "correct what the error names; it is retried automatically",
    Reason.NOT_A_TABLE: "wait for rows of the tables behind it, or poll",
    Reason.NOT_INSTALLED: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.TRIGGER_MISSING: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.TRIGGER_OUTDATED: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.TRIGGER_DISABLED: "ALTER TABLE … ENABLE TRIGGER, or run install_triggers() again",
    Reason.SCHEMA_OUTDATED: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.SCHEMA_NEWER: "update rowbell in this process",
    Reason.NOT_PERMITTED: "GRANT SELECT on the table, and EXECUTE on the function "
    "rowbell.register, to the role of the LISTEN connection",
    Reason.ROW_LEVEL_SECURITY: "set listen_url to listen as a role that row-level security does "
    "not restrict, if that role may know of changes",
    Reason.INHERITANCE: "wait for rows of the partitioned table, not of a partition, or poll",
    Reason.UNTRUSTED: "make the table's owner or a superuser the owner of the schema rowbell, and "
    "let no other role create in it; trigger_status() and install_triggers() name the objects",
    Reason.TOO_MANY_REGISTRATIONS: "raise the role's limit in rowbell.registration_limit",
    Reason.NO_KEY: "give the table a primary key",
    Reason.NO_HASH: "poll, or give the type an operator class for hash indexes",
    Reason.OWN_CONNECTION: "commit() before the wait, or wait without a session if the engine's "
    "other connections may see the row",
    Reason.VARYING_CONDITION: "compare with a value, or set how often it is read with interval=",
    Reason.OTHER_KEY_TYPE: "give the key in the model the type that it has in the database",
    Reason.INSERTS_NOT_DECLARED: "declare @watched(inserts=True) and install the triggers again",
    Reason.NOT_DECLARED: "add the columns to @watched(columns=…) and install the triggers again",
}
"""What to do about each reason, as a clause."""

OF_THE_CONNECTION: Final = frozenset(
    {
        Reason.UNSUPPORTED,
        Reason.IN_RECOVERY,
        Reason.NOT_DELIVERED,
        Reason.CONNECTION_LOST,
        Reason.CANNOT_LISTEN,
        Reason.RELAY_OUTDATED,
        Reason.NOT_PERMITTED,
        Reason.NOT_INSTALLED,
        Reason.SCHEMA_OUTDATED,
        Reason.SCHEMA_NEWER,
    }
)
"""The reasons that concern all waits of a watcher."""


FOR_GOOD: Final = frozenset({Reason.UNSUPPORTED, Reason.SCHEMA_NEWER})
"""The reasons after which connecting is not retried."""


def explain(reason: Reason, seen: str) -> str:
    """What was observed, and the remedy, as one clause."""
    remedy = REMEDIES.get(reason)
    return f"{seen}; {remedy}" if remedy else seen
