"""The tables: the watched tables, and the journal of committed changes.

A trigger gives each row version a unique number, while the row is locked. It writes the number to
the journal in the same transaction. So the numbers of a row increase with its versions. After the
run the journal contains exactly the committed changes, whatever answers clients received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, ForeignKey, text
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

import rowbell
from plan import ITEMS, ROWS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class Base(DeclarativeBase):
    type_annotation_map = {int: BigInteger}  # noqa: RUF012  # SQLAlchemy's declaration


class Stamped(Base):
    """The columns of all tables.

    Attributes:
        id: The key.
        version: The number of this version of the row.
        mark: The number of the last version that changed this column.
        n: Counts the versions since the row was inserted.
        token: The transaction that wrote it.
        spare: Not used; its type is changed sometimes.
        state: A word that the writer sets.
    """

    __abstract__ = True

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(server_default=text("0"))
    mark: Mapped[int] = mapped_column(server_default=text("0"))
    n: Mapped[int] = mapped_column(server_default=text("0"))
    token: Mapped[str] = mapped_column(server_default=text("''"))
    spare: Mapped[int] = mapped_column(server_default=text("0"))
    state: Mapped[str] = mapped_column(server_default=text("''"))


@rowbell.watched
class Parcel(Stamped):
    """Is sometimes replaced by a copy."""

    __tablename__ = "parcels"


@rowbell.watched(columns=["mark"])
class Job(Stamped):
    """Has declared columns, and a deferred trigger that writes to another table."""

    __tablename__ = "jobs"


@rowbell.watched
class Reading(Stamped):
    """Partitioned by its key. Rows that are away have negative keys."""

    __tablename__ = "readings"
    __table_args__ = {"postgresql_partition_by": "RANGE (id)"}  # noqa: RUF012  # the same


@rowbell.watched
class Owner(Stamped):
    __tablename__ = "owners"
    code: Mapped[int] = mapped_column(unique=True)


@rowbell.watched
class Item(Stamped):
    """Is updated and deleted along with its owner, by a foreign key."""

    __tablename__ = "items"

    @declared_attr
    @classmethod
    def code(cls) -> Mapped[int]:
        return mapped_column(
            ForeignKey("owners.code", onupdate="CASCADE", ondelete="CASCADE"), index=True
        )


@rowbell.watched
class Shadow(Stamped):
    """Is also written by a deferred trigger."""

    __tablename__ = "shadows"


MODELS: Final[dict[str, type[Stamped]]] = {
    "parcels": Parcel,
    "jobs": Job,
    "readings": Reading,
    "owners": Owner,
    "items": Item,
    "shadows": Shadow,
}
"""The models, by table."""

WAITER: Final = "soak_waiter"
"""The role of the processes that wait. It may read."""

WRITER: Final = "soak_writer"
"""The role of the processes that write. It has no rights on rowbell's objects."""

RELAY: Final = "soak_relay"
"""The role of the relays. It has no rights on tables."""

TIMES: Final = {
    "heartbeat": 1.0,
    "answer": 2.0,
    "connect": 3.0,
    "proof": 1.0,
    "backoff": 0.1,
    "backoff_limit": 1.0,
    "healthy": 5.0,
    "linger": 3.0,
}
"""The timing of the watchers and relays."""

SETUP: Final = "setup"
"""The token of the transaction that fills the tables."""

_BEFORE = (
    "CREATE SEQUENCE soak_number",
    """
    CREATE TABLE journal (
      token text, tbl text, key bigint, number bigint, present boolean, mark bigint, n bigint
    )
    """,
    "CREATE INDEX journal_token ON journal (token)",
    """
    CREATE FUNCTION soak_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
      writer CONSTANT text := coalesce(current_setting('soak.token', true), '');
    BEGIN
      IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND OLD.id IS DISTINCT FROM NEW.id THEN
        INSERT INTO journal
        VALUES (writer, TG_ARGV[0], OLD.id, nextval('soak_number'), false, 0, 0);
        IF TG_OP = 'DELETE' THEN
          RETURN OLD;
        END IF;
      END IF;
      NEW.version := nextval('soak_number');
      NEW.token := writer;
      IF TG_OP = 'INSERT' THEN
        NEW.n := 0;
        NEW.mark := NEW.version;
      ELSE
        NEW.n := OLD.n + 1;
        NEW.mark := CASE WHEN NEW.mark = OLD.mark AND NEW.id = OLD.id
                    THEN OLD.mark ELSE NEW.version END;
      END IF;
      INSERT INTO journal
      VALUES (writer, TG_ARGV[0], NEW.id, NEW.version, true, NEW.mark, NEW.n);
      RETURN NEW;
    END $$
    """,
    """
    CREATE FUNCTION soak_shadow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      UPDATE shadows SET mark = mark + 1 WHERE id = NEW.id / 3 + 1;
      RETURN NULL;
    END $$
    """,
)
_AFTER = (
    "CREATE TABLE readings_here PARTITION OF readings FOR VALUES FROM (0) TO (1000000)",
    "CREATE TABLE readings_away PARTITION OF readings FOR VALUES FROM (-1000000) TO (0)",
    """
    CREATE CONSTRAINT TRIGGER shadow AFTER UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.state = 'deferred') EXECUTE FUNCTION soak_shadow()
    """,
    f"SET LOCAL soak.token = '{SETUP}'",
)


def stamping(table: str, name: str) -> str:
    """The statement that creates the table's trigger. ``name`` is its name in the journal."""
    return (
        f"CREATE TRIGGER stamp BEFORE INSERT OR UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION soak_stamp('{name}')"
    )


def rights(table: str) -> list[str]:
    """The statements that grant both roles their rights on a table."""
    return [
        f"GRANT SELECT ON {table} TO {WAITER}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {WRITER}",
    ]


async def create(connection: AsyncConnection) -> None:
    """Create and fill everything, in the caller's transaction."""
    statements = [
        *_AFTER,
        *(stamping(table, table) for table in MODELS),
        *(f"CREATE ROLE {role} LOGIN" for role in (WAITER, WRITER, RELAY)),
        f"GRANT EXECUTE ON FUNCTION rowbell.lead(text), rowbell.admit(text[]) TO {RELAY}",
        *(grant for table in MODELS for grant in rights(table)),
        f"GRANT SELECT, INSERT ON journal TO {WRITER}",
        f"GRANT USAGE ON SEQUENCE soak_number TO {WRITER}",
        *(
            f"INSERT INTO {table} (id) SELECT generate_series(1, {count})"
            for table, count in ROWS.items()
            if table not in {"owners", "items"}
        ),
        f"""
        INSERT INTO owners (id, code)
        SELECT i, nextval('soak_number') FROM generate_series(1, {ROWS["owners"]}) AS i
        """,
        f"""
        INSERT INTO items (id, code) SELECT (o.id - 1) * {ITEMS} + i, o.code
        FROM owners AS o, generate_series(1, {ITEMS}) AS i
        """,
    ]
    for statement in _BEFORE:
        await connection.execute(text(statement))
    await connection.run_sync(Base.metadata.create_all)
    for statement in statements:
        await connection.execute(text(statement))
