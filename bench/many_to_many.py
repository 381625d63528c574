"""What it takes to relate 100,000 rows to one: m2m_add, m2m_set and m2m_remove beside the ORM.

Run it with ``.venv/bin/python bench/many_to_many.py``. Each round does all the ways in random
turn in a transaction that is rolled back; the table shows medians, with least and most.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from statistics import median

from sqlalchemy import Column, ForeignKey, Table, insert, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import rowbell
from rowbell.embedded import server_url

ROWS = 100_000
ROUNDS = 5


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


Way = Callable[[AsyncSession, Owner, list[Item]], Awaitable[None]]


async def add(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_add(session, owner, Owner.items, *items)


async def add_by_the_orm(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await session.refresh(owner, ["items"])
    owner.items.extend(items)
    await session.flush()


async def set_the_same(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_set(session, owner, Owner.items, *items)


async def set_half(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_set(session, owner, Owner.items, *items[ROWS // 2 :])


async def set_half_by_the_orm(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await session.refresh(owner, ["items"])
    owner.items = items[ROWS // 2 :]
    await session.flush()


async def set_half_by_replacing(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await session.execute(links.delete().where(links.c.owner_id == owner.id))
    rows = [{"owner_id": owner.id, "item_id": item.id} for item in items[ROWS // 2 :]]
    await session.execute(insert(links), rows)


async def remove(session: AsyncSession, owner: Owner, items: list[Item]) -> None:
    await rowbell.m2m_remove(session, owner, Owner.items, *items)


WAYS: dict[Way, bool] = {  # and whether the rows are related already
    add: False,
    add_by_the_orm: False,
    set_the_same: True,
    set_half: True,
    set_half_by_replacing: True,
    set_half_by_the_orm: True,
    remove: True,
}


async def measure(url: str) -> None:
    """Print the table."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(
            text("INSERT INTO items SELECT i FROM generate_series(1, :n) AS i"), {"n": ROWS}
        )
        await connection.execute(text("INSERT INTO owners VALUES (1)"))
        await connection.execute(text("ANALYZE"))
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    for number in range(ROUNDS):
        for way in random.sample(list(WAYS), len(WAYS)):
            print(f"round {number + 1} of {ROUNDS}: {way.__name__}", end="\033[K\r", flush=True)
            seconds[way].append(await once(AsyncSession(engine), way, related=WAYS[way]))
    print(f"{ROWS:,} rows, seconds: median [least..most] of {ROUNDS} rounds\033[K")
    for way, taken in seconds.items():
        span = f"[{min(taken):.2f}..{max(taken):.2f}]"
        print(f"  {way.__name__.replace('_', ' '):24} {median(taken):6.2f} {span}")
    async with engine.connect() as connection:
        values = [{"owner_id": 1, "item_id": number} for number in range(1, ROWS + 1)]
        try:
            await connection.execute(insert(links).values(values))
        except (DBAPIError, InterfaceError) as error:
            print(f"  one INSERT of all VALUES: {str(error.orig)[:90]}")
    await engine.dispose()


async def once(session: AsyncSession, way: Way, *, related: bool) -> float:
    """The seconds that one way takes; what it did is rolled back."""
    async with session:
        owner = await session.get_one(Owner, 1)
        items = list(await session.scalars(select(Item).order_by(Item.id)))
        if related:
            await session.execute(text("INSERT INTO links SELECT 1, id FROM items"))
        begun = time.perf_counter()
        await way(session, owner, items)
        taken = time.perf_counter() - begun
        await session.rollback()
    return taken


if __name__ == "__main__":
    with server_url({"shared_buffers": "512MB"}) as server:
        asyncio.run(measure(server.render_as_string(hide_password=False)))
