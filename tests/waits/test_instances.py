"""Instances that are made from values are equal to those that the ORM loads."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    DateTime,
    ForeignKey,
    Numeric,
    String,
    TypeDecorator,
    event,
    func,
    insert,
    inspect,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from rowbell import RowWatcher, watched
from rowbell._watch.rows.instances import Instances
from support.models import Animal, Colour, Odd, Sealed, SealedType
from support.observed import everything_sent, execute
from support.waits import armed_wait


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)


@watched
class Rich(Base):
    """A model with a column of each kind of type that SQLAlchemy converts."""

    __tablename__ = "rich"
    part: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column("No", primary_key=True)
    n: Mapped[int] = mapped_column(default=0)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    rounded: Mapped[float | None] = mapped_column(Numeric(10, 2, asdecimal=False))
    ratio: Mapped[float | None]
    colour: Mapped[Colour | None]
    secret: Mapped[Sealed | None] = mapped_column(SealedType)
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    token: Mapped[UUID | None]
    owner: Mapped[Owner | None] = relationship()


@pytest.fixture
async def rich(engine: AsyncEngine) -> AsyncEngine:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Owner).values(id=3))
        await connection.execute(
            insert(Rich).values(
                part="a",
                number=1,
                owner_id=3,
                price=Decimal("1.50"),
                rounded=2.5,
                ratio=0.1,
                colour=Colour.RED,
                secret=Sealed("x"),
                data={"a": [1, None]},
                at=datetime(2026, 1, 2, tzinfo=UTC),
                token=UUID(int=7),
            )
        )
    return engine


async def test_an_instance_made_of_values_is_as_the_orm_would_have_loaded_it(
    rich: AsyncEngine,
) -> None:
    async with RowWatcher(rich, mode="listen", recheck=None) as watcher:
        wait = await armed_wait(watcher, Rich, ("a", 1), columns=["n"])
        with everything_sent(rich) as sent:
            await execute(rich, update(Rich).values(n=1))
            made = await wait
        # The read that compares also brings the values for the instance.
        kinds = [statement.split()[0] for statement in sent if "rich" in statement]
        assert kinds == ["UPDATE", "SELECT"]
    async with AsyncSession(rich) as session:
        loaded = await session.get_one(Rich, ("a", 1))
        for attribute in inspect(Rich).column_attrs.keys():  # noqa: SIM118  # not a dict
            ours, theirs = getattr(made, attribute), getattr(loaded, attribute)
            assert type(ours) is type(theirs)
            assert attribute == "secret" or ours == theirs
        assert made.secret is not None
        assert made.secret.text == "x"
        assert inspect(made).detached
        assert inspect(made).identity == ("a", 1)
        assert not inspect(made).modified
        session.expunge_all()
        session.add(made)
        assert not session.dirty
        owner = await session.run_sync(lambda _: made.owner)
        assert owner is not None
        assert owner.id == 3
        made.n = 5
        await session.commit()
    async with AsyncSession(rich) as session:
        assert (await session.get_one(Rich, ("a", 1))).n == 5


async def test_a_listener_of_load_events_is_called(rich: AsyncEngine) -> None:
    """From the moment a class has a load listener, the ORM loads its instances."""
    assert Instances.can_make(inspect(Rich))
    assert not Instances.can_make(inspect(Animal))
    assert not Instances.can_make(inspect(Odd))
    heard: list[Any] = []

    def load(instance: Any, _: object) -> None:
        heard.append(instance)

    async with RowWatcher(rich, mode="poll") as watcher:
        await watcher.wait_for_change(Owner, 3, until=Owner.id == 3)
        event.listen(Owner, "load", load)
        try:
            owner = await watcher.wait_for_change(Owner, 3, until=Owner.id == 3)
        finally:
            event.remove(Owner, "load", load)
        assert heard == [owner]
        await watcher.wait_for_change(Owner, 3, until=Owner.id == 3)
        assert heard == [owner]


class Shouted(TypeDecorator[str]):
    """A type that is selected through an expression, like an encrypted column."""

    impl = String
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return func.upper(column)


def test_a_type_that_is_selected_through_an_expression_is_loaded_by_the_orm() -> None:
    class Own(DeclarativeBase):
        pass

    class Crier(Own):
        __tablename__ = "criers"
        id: Mapped[int] = mapped_column(primary_key=True)
        cry: Mapped[str] = mapped_column(Shouted)

    assert not Instances.can_make(inspect(Crier))
