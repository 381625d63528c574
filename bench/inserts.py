"""The cost of INSERTs into a table whose model declares inserts."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Final, TypedDict

from sqlalchemy import URL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell
from part import Part
from pgbench import Pgbench
from section import Section
from spread import Spread, cell, extremes, middle_half, ratios
from table import connected, execute, prepared
from triggers import (
    NONE,
    NOTHING,
    OF_INSERT,
    PG_NOTIFY,
    ROW_FORM,
    ROWBELL,
    TABLE,
    by_hand,
    by_rowbell,
    dropped,
    registered,
    taken_off,
)
from turns import turns
from writers import SETTLE, named, throughput

ROWS: Final = 100_000
CLIENTS: Final = (1, 16)
FIRST_WATCHED: Final = 1_000_000_000
"""The first key that is watched. No row with such a key is inserted."""

NOBODY, OTHERS, LIST = "nothing watched", "10,000 other rows watched", "the whole table watched"
CASES: Final = [
    (NONE, NOBODY),
    (NOTHING, NOBODY),
    (ROWBELL, NOBODY),
    (ROWBELL, OTHERS),
    (ROWBELL, LIST),
    (ROW_FORM, NOBODY),
    (ROW_FORM, OTHERS),
    (ROW_FORM, LIST),
    (PG_NOTIFY, NOBODY),
]
"""The trigger, and what is registered."""


class Statements(DeclarativeBase):
    pass


class Rows(DeclarativeBase):
    pass


@rowbell.watched(inserts=True)
class ByStatement(Statements):
    """The table, with inserts declared."""

    __tablename__ = TABLE
    id: Mapped[int] = mapped_column(primary_key=True)


@rowbell.watched(inserts=True, for_each="row")
class RowByRow(Rows):
    """The same, in the row form."""

    __tablename__ = TABLE
    id: Mapped[int] = mapped_column(primary_key=True)


class Case(TypedDict):
    """Throughput without the trigger as 1, by clients, and the time of one large INSERT."""

    trigger: str
    watched: str
    ratio: dict[str, Spread]
    bulk: Spread


class Inserts(TypedDict):
    rounds: int
    bulk_rounds: int
    cases: list[Case]


async def installed(url: URL) -> dict[str, list[str]]:
    """Install each trigger and drop it again. Return the statements that create it."""
    await dropped(url)
    found: dict[str, list[str]] = {NONE: []}
    nothing = "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"
    await by_hand(url, "does_nothing", "RETURN NULL;", nothing, "INSERT")
    found[NOTHING] = await taken_off(url, OF_INSERT)
    for name, mapped in ((ROWBELL, ByStatement), (ROW_FORM, RowByRow)):
        await by_rowbell(url, mapped)
        found[name] = await taken_off(url, OF_INSERT)
    body = f"PERFORM pg_notify('{TABLE}', NEW.id::text); RETURN NULL;"
    await by_hand(url, "notify", body, "FOR EACH ROW", "INSERT")
    found[PG_NOTIFY] = await taken_off(url, OF_INSERT)
    return found


async def watched(url: URL, what: str) -> None:
    """Register nothing, other rows, or the whole table. Nobody listens or unregisters."""
    await registered(url, FIRST_WATCHED, 10_000 if what == OTHERS else 0)
    if what == LIST:
        oid = f"'{TABLE}'::regclass::oid"
        await execute(
            url,
            [
                f"INSERT INTO rowbell.registration VALUES ({oid}, {-(2**63)}, 1, NULL)",
                f"SELECT setval('rowbell.table_flags', rowbell.table_flag({oid}))",
                "VACUUM ANALYZE rowbell.registration",
            ],
        )


async def one_by_one(
    url: URL, triggers: dict[str, list[str]], rounds: int
) -> dict[tuple[str, str], dict[str, Spread]]:
    """INSERTs of one row each: throughput as a ratio to that without a trigger."""
    found: dict[tuple[str, str], dict[str, Spread]] = {case: {} for case in CASES}
    with tempfile.TemporaryDirectory() as work:
        script = Path(work) / "insert.sql"
        script.write_text(f"INSERT INTO {TABLE} (n) VALUES (1);\n")
        async with connected(url) as observer:
            for clients in CLIENTS:
                rates: dict[tuple[str, str], list[float]] = {case: [] for case in CASES}
                with Pgbench(url, clients, script) as writers:
                    await asyncio.sleep(4 * SETTLE)
                    part = f"inserts: {named(str(clients))}"
                    for _, (name, what) in turns(part, CASES, rounds):
                        await dropped(url)
                        await watched(url, what)
                        rate = await throughput(url, triggers[name], writers, observer)
                        rates[name, what].append(rate)
                for case, taken in rates.items():
                    compared = middle_half(ratios(taken, rates[NONE, NOBODY]))
                    found[case][str(clients)] = compared
                await dropped(url)
                await observer.execute(f"TRUNCATE {TABLE}")
    return found


async def many_at_once(
    url: URL, triggers: dict[str, list[str]], rounds: int
) -> dict[tuple[str, str], Spread]:
    """One INSERT of many rows: its time as a ratio to that without a trigger."""
    taken: dict[tuple[str, str], list[float]] = {case: [] for case in CASES}
    async with connected(url) as observer:
        for _, (name, what) in turns("inserts: many rows", CASES, rounds):
            await dropped(url)
            await watched(url, what)
            for statement in [f"TRUNCATE {TABLE}", *triggers[name], "CHECKPOINT"]:
                await observer.execute(statement)
            async with connected(url) as writer:
                begun = time.perf_counter()
                await writer.execute(
                    f"INSERT INTO {TABLE} (id) SELECT generate_series(1, {ROWS})", timeout=600
                )
                taken[name, what].append(time.perf_counter() - begun)
    await dropped(url)
    none = taken[NONE, NOBODY]
    return {case: extremes(ratios(seconds, none)) for case, seconds in taken.items()}


async def measure(url: URL, *, quick: bool) -> Inserts:
    """Measure single rows, then many at once."""
    rounds, bulk_rounds = (2, 2) if quick else (5, 5)
    async with prepared(url, TABLE, 0):
        pass
    triggers = await installed(url)
    single = await one_by_one(url, triggers, rounds)
    bulk = await many_at_once(url, triggers, bulk_rounds)
    return Inserts(
        rounds=rounds,
        bulk_rounds=bulk_rounds,
        cases=[
            Case(trigger=name, watched=what, ratio=single[name, what], bulk=bulk[name, what])
            for name, what in CASES
            if (name, what) != (NONE, NOBODY)
        ],
    )


def section(inserts: Inserts) -> Section:
    """The section of the page."""
    clients = list(inserts["cases"][0]["ratio"])
    found = Section(
        "What inserts pay",
        "For a model that declares `@watched(inserts=True)`; other tables have no trigger for"
        " inserts. pgbench inserts one row per transaction while the table's trigger is changed, as"
        " for UPDATEs above: throughput as a ratio to that without a trigger in the same round,"
        f" {inserts['rounds']} rounds, median [the middle half]. Then one INSERT of {ROWS:,} rows:"
        " its time as a ratio to that without a trigger, median [least..most] of"
        f" {inserts['bulk_rounds']}. *The whole table watched* is registered all the time, so each"
        " transaction notifies. A list that `changes()` keeps fresh is registered until the first"
        " notification of an interval; INSERTs after that pay what *other rows* pay. `pg_notify`"
        " notifies for each row.",
        ["trigger", "watched", *map(named, clients), f"time of {ROWS:,} rows"],
    )
    for case in inserts["cases"]:
        throughputs = [cell(case["ratio"][each]) for each in clients]
        found.rows.append([case["trigger"], case["watched"], *throughputs, cell(case["bulk"])])
    return found


INSERTS = Part("inserts", measure, section)
