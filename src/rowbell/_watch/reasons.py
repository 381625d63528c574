"""Why waits are polled, and what to do about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why waits are polled."""

    REQUESTED = "requested"
    """``mode="poll"``."""
    UNSUPPORTED = "unsupported"
    """The database, its driver or the server has no LISTEN."""
    IN_RECOVERY = "in_recovery"
    """The server is a standby; LISTEN and NOTIFY are refused there."""
    NOT_DELIVERED = "not_delivered"
    """LISTEN was accepted, and nothing arrived: a transaction pooler, or another server."""
    CONNECTION_LOST = "connection_lost"
    """The LISTEN connection could not be made, or was lost."""
    CANNOT_LISTEN = "cannot_listen"
    """Listening has failed with an error that does not pass by itself, as a wrong password or
    argument does not."""
    NOT_INSTALLED = "not_installed"
    """The schema ``rowbell`` is not in the database, so no table has triggers."""
    NOT_A_TABLE = "not_a_table"
    """Listening, but what is waited for is a view or a foreign table, which has no triggers."""
    TRIGGER_MISSING = "trigger_missing"
    """Listening, but a table that is waited for has no triggers."""
    TRIGGER_OUTDATED = "trigger_outdated"
    """Listening, but the triggers of a table that is waited for are those of another key or of
    other declared columns."""
    TRIGGER_DISABLED = "trigger_disabled"
    """Listening, but the triggers of a table that is waited for are disabled."""
    SCHEMA_OUTDATED = "schema_outdated"
    """The schema ``rowbell`` was installed by an older rowbell than this one, or is not whole."""
    SCHEMA_NEWER = "schema_newer"
    """The schema ``rowbell`` was installed by a newer rowbell, which this one cannot work with."""
    NOT_PERMITTED = "not_permitted"
    """The role of the LISTEN connection may not SELECT the key and the columns that are waited
    for, or may not register rows."""
    ROW_LEVEL_SECURITY = "row_level_security"
    """Listening, but row-level security restricts what the role of the LISTEN connection sees of
    the table; notifications would tell it of rows that it may not see."""
    INHERITANCE = "inheritance"
    """Listening, but the table is a partition, or another table inherits from it or it from
    another; writes through that table fire no trigger of this one."""
    UNTRUSTED = "untrusted"
    """Listening, but the schema ``rowbell`` or the trigger function belongs to, or may be changed
    by, a role that could not change the table itself."""
    TOO_MANY_REGISTRATIONS = "too_many_registrations"
    """Listening, but the role has as many rows registered as it may."""
    NO_KEY = "no_key"
    """Listening, but a table that is waited for has no primary key of its own."""
    NO_HASH = "no_hash"
    """Listening, but a column of the key is of a type without a hash function, by which triggers
    name rows (cube, say, or tsvector)."""
    NOT_DECLARED = "not_declared"
    """Listening, but a wait watches columns that its model does not declare as worth watching."""

    VARYING_CONDITION = "varying_condition"
    """Listening, but the condition of a wait may change without its row: it calls a function such
    as ``now()``, or looks at other rows."""

    OWN_CONNECTION = "own_connection"
    """The session sees the table in a way of its own, by row-level security or as another role, so
    its wait polls on the connection that it holds."""


REMEDIES: Final = {
    Reason.UNSUPPORTED: 'give listen_url="postgresql+asyncpg://…", or say mode="poll"',
    Reason.IN_RECOVERY: 'name the primary with listen_url and read from it, or say mode="poll"',
    Reason.NOT_DELIVERED: "name the server itself with listen_url, past the pooler "
    "(PgBouncer delivers in session mode only), or say mode='poll'",
    Reason.CONNECTION_LOST: "it is tried again by itself",
    Reason.CANNOT_LISTEN: "mend what the error names; it is tried again by itself",
    Reason.NOT_A_TABLE: "wait for rows of the tables behind it, or poll",
    Reason.NOT_INSTALLED: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.TRIGGER_MISSING: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.TRIGGER_OUTDATED: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.TRIGGER_DISABLED: "ALTER TABLE … ENABLE TRIGGER, or run install_triggers() anew",
    Reason.SCHEMA_OUTDATED: "run install_triggers() or op.create_row_triggers() in a migration",
    Reason.SCHEMA_NEWER: "update rowbell in this process",
    Reason.NOT_PERMITTED: "GRANT SELECT on the table, and EXECUTE on the function "
    "rowbell.register, to the role of the LISTEN connection",
    Reason.ROW_LEVEL_SECURITY: "listen as a role that row-level security does not restrict "
    "(listen_url), if that role's knowing of changes does no harm",
    Reason.INHERITANCE: "wait for rows of the partitioned table, not of a partition, or poll",
    Reason.UNTRUSTED: "let the table's owner or a superuser own the schema rowbell, and nobody "
    "else create in it; trigger_status() and install_triggers() name what and whose",
    Reason.TOO_MANY_REGISTRATIONS: "raise the role's limit in rowbell.registration_limit",
    Reason.NO_KEY: "give the table a primary key",
    Reason.NO_HASH: "poll, or give the type an operator class for hash indexes",
    Reason.OWN_CONNECTION: "commit() before the wait, or wait without a session, if that may see "
    "the row",
    Reason.VARYING_CONDITION: "compare with a value, or say how often it is asked with interval=",
    Reason.NOT_DECLARED: "add the columns to @watched(columns=…) and install the triggers anew",
}
"""What to do about each reason, as a clause."""

OF_THE_CONNECTION: Final = frozenset(
    {
        Reason.UNSUPPORTED,
        Reason.IN_RECOVERY,
        Reason.NOT_DELIVERED,
        Reason.CONNECTION_LOST,
        Reason.CANNOT_LISTEN,
        Reason.NOT_PERMITTED,
        Reason.NOT_INSTALLED,
        Reason.SCHEMA_OUTDATED,
        Reason.SCHEMA_NEWER,
    }
)
"""The reasons that concern all waits of a watcher."""


FOR_GOOD: Final = frozenset({Reason.UNSUPPORTED, Reason.SCHEMA_NEWER})
"""The reasons for which connecting is not tried again."""


def explain(reason: Reason, seen: str) -> str:
    """What was seen, and the remedy, as one clause."""
    remedy = REMEDIES.get(reason)
    return f"{seen}; {remedy}" if remedy else seen
