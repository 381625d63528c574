"""The time to relate many rows to one: ``m2m_add``, ``m2m_set`` and ``m2m_remove`` and the ORM.

Each round measures all ways in random order. Each way has a transaction that is rolled back.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypedDict

from sqlalchemy import URL, Column, ForeignKey, Table, insert, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import rowbell
from part import Part
from section import Section
from spread import Spread, cell, extremes
from turns import turns


class Base(DeclarativeBase):
    pass


links = Table(
    "links",
    Base.metadata,
    Column("owner_id", ForeignKey("owners.id"), primary_key=True),
    Column("item_id", ForeignKey("items.id"), primary_key=True),
)


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)


class Owner(Base):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)
    items: Mapped[list[Item]] = relationship(secondary=links)


async def add(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_add(session, owner, Owner.items, *items)


async def extend(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await session.refresh(owner, ["items"])
    owner.items.extend(items)
    await session.flush()


async def set_all(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_set(session, owner, Owner.items, *items)


async def set_half(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_set(session, owner, Owner.items, *items[len(items) // 2 :])


async def assign_half(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await session.refresh(owner, ["items"])
    owner.items = items[len(items) // 2 :]
    await session.flush()


async def replace_by_half(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await session.execute(links.delete().where(links.c.owner_id == owner.id))
    rows = [{"owner_id": owner.id, "item_id": item.id} for item in items[len(items) // 2 :]]
    await session.execute(insert(links), rows)


async def remove(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_remove(session, owner, Owner.items, *items)


@dataclass(frozen=True)
class Way:
    """One way to do a task, and whether the rows are related at the start."""

    task: str
    name: str
    run: Callable[[AsyncSession, Owner, list[Item]], Awaitable[None]]
    related: bool = True

    def __str__(self) -> str:
        return f"{self.task}, {self.name}"


WAYS = [
    Way("relate all", "m2m_add", add, related=False),
    Way("relate all", "the ORM: load the collection and extend it", extend, related=False),
    Way("keep half", "m2m_set", set_half),
    Way("keep half", "the ORM: load the collection and assign it", assign_half),
    Way("keep half", "delete all and insert half: all rows are new", replace_by_half),
    Way("keep all", "m2m_set: one SELECT", set_all),
    Way("relate none", "m2m_remove", remove),
]


class Taken(TypedDict):
    task: str
    way: str
    seconds: Spread


class ManyToMany(TypedDict):
    rounds: int
    rows: int
    ways: list[Taken]
    one_insert: str  # the error of one INSERT of all values


async def create(engine: AsyncEngine, rows: int) -> None:
    """Create the tables, with one owner and that many items."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(
            text("INSERT INTO items SELECT i FROM generate_series(1, :n) AS i"), {"n": rows}
        )
        await connection.execute(text("INSERT INTO owners VALUES (1)"))
        await connection.execute(text("ANALYZE"))


async def once(session: AsyncSession, way: Way) -> float:
    """The time of one way in seconds. Its changes are rolled back."""
    async with session:
        owner = await session.get_one(Owner, 1)
        items = list(await session.scalars(select(Item).order_by(Item.id)))
        if way.related:
            await session.execute(text("INSERT INTO links SELECT 1, id FROM items"))
        begun = time.perf_counter()
        await way.run(session, owner, items)
        taken = time.perf_counter() - begun
        await session.rollback()
    return taken


async def one_insert(engine: AsyncEngine, rows: int) -> str:
    """The error of one INSERT of that many values."""
    values = [{"owner_id": 1, "item_id": number} for number in range(1, rows + 1)]
    async with engine.connect() as connection:
        try:
            await connection.execute(insert(links).values(values))
        except (DBAPIError, InterfaceError) as error:
            return str(error.orig).partition("\n")[0].rpartition(">: ")[2]
    return ""


async def measure(url: URL, *, quick: bool) -> ManyToMany:
    """Measure the ways in random order."""
    rounds, rows = (2, 20_000) if quick else (5, 100_000)
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    engine = create_async_engine(url)
    await create(engine, rows)
    for _, way in turns("many_to_many", WAYS, rounds):
        seconds[way].append(await once(AsyncSession(engine), way))
    error = await one_insert(engine, rows)
    await engine.dispose()
    return ManyToMany(
        rounds=rounds,
        rows=rows,
        ways=[
            Taken(task=way.task, way=way.name, seconds=extremes(taken))
            for way, taken in seconds.items()
        ],
        one_insert=error,
    )


def section(found: ManyToMany) -> Section:
    """The section of the page."""
    error = found["one_insert"]
    return Section(
        f"{found['rows']:,} related rows",
        "The instances are loaded before; each way in random order within a round, and rolled back;"
        f" {found['rounds']} rounds, seconds: median [least..most].",
        ["task", "way", "seconds"],
        [[taken["task"], taken["way"], cell(taken["seconds"])] for taken in found["ways"]],
        notes=f"One INSERT of all values fails: {error}." if error else "",
    )


MANY_TO_MANY = Part("many_to_many", measure, section)
