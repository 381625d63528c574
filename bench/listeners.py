"""What writers pay for sessions that listen: many of them, or one relay for all."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

import plot
from part import Part
from pgbench import Pgbench
from processes import Processes
from relayed import relay
from rowbell._watch.database.calls import Calls
from rowbell._watch.rows.mapped_rows import MappedRows
from rowbell.embedded import EmbeddedServer
from section import Section
from spread import Spread, cell, extremes
from table import connected, model, prepared
from turns import turns
from ways import install

TABLE = "heard"
WATCHERS = (1, 10, 100, 300, 1_000)
HOSTS = 4
"""The watchers are in as many processes."""

CLIENTS, ROWS = 16, 1_000
UPDATE = f"\\set id random(1, {ROWS})\nUPDATE {TABLE} SET n = n + 1 WHERE id = :id;\n"
SETTINGS = {"max_connections": 2_300, "shared_buffers": "256MB"}
HOUR = 3_600
SETTLE, SAMPLE = 2.0, 5.0

DIRECT = "each watcher listens"
RELAYED = "rowbell relay"

HASHES = f"SELECT array_agg(hash_record_extended(ROW(i), 0)) FROM generate_series(1, {ROWS}) AS i"


class Listeners(TypedDict):
    rounds: int
    rates: dict[str, dict[str, Spread]]  # transactions a second, by way and watchers


@asynccontextmanager
async def told(url: URL) -> AsyncGenerator[list[str]]:
    """A session that is notified of all changes; its notifications."""
    notifications: list[str] = []
    async with connected(url) as session:
        await session.execute("SELECT rowbell.open_listener()")
        channel = await session.fetchval("SELECT rowbell.own_channel()")
        await session.add_listener(channel, lambda *event: notifications.append(str(event[3])))
        oid = await session.fetchval("SELECT $1::regclass::oid::bigint", TABLE)
        hashes = await session.fetchval(HASHES)
        [table] = MappedRows.of(model(TABLE), create_async_engine(url).dialect, None).watched_tables
        rows = [((oid, key_hash), None) for key_hash in hashes]
        await Calls(session, 10).register({oid: (table, None)}, rows)
        yield notifications


async def throughput(url: URL, script: Path) -> float:
    """The transactions a second of writers. Each of their transactions notifies."""
    query = "SELECT pg_current_xact_id()::text::bigint"
    async with told(url) as notifications, connected(url) as observer:
        with Pgbench(url, CLIENTS, script) as writers:
            await asyncio.sleep(SETTLE)
            before, begun = await observer.fetchval(query), time.perf_counter()
            await asyncio.sleep(SAMPLE)
            after, ended = await observer.fetchval(query), time.perf_counter()
            writers.check()
            if not notifications:
                raise RuntimeError("the writers notify nobody")
    return float(after - before) / (ended - begun)


async def with_watchers(url: URL, script: Path, way: str, listeners: int) -> float:
    """The throughput while that many watchers wait for other rows, which do not change."""
    hosts = min(HOSTS, max(1, listeners // 10))
    given: dict[str, Any] = {"url": url.render_as_string(), "table": TABLE, "interval": HOUR}
    given |= {"watchers": listeners // hosts, "waits": 1, "after": ROWS}
    async with AsyncExitStack() as stack:
        through = ""
        if way == RELAYED:
            through = f"{stack.enter_context(tempfile.TemporaryDirectory())}/relay"
            await stack.enter_async_context(relay(url, through))
        processes = Processes("watching_process.py", hosts, through=through, **given)
        await stack.enter_async_context(processes)
        await processes.reached(lambda: processes.total("armed") == listeners)
        return await throughput(url, script)


async def measure(url: URL, *, quick: bool) -> Listeners:
    """Measure each way with each number of watchers, on a server with room for them."""
    del url
    rounds = 1 if quick else 3
    cases = [(way, number) for number in WATCHERS for way in (DIRECT, RELAYED)]
    rates: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as work, EmbeddedServer(SETTINGS) as server:
        script = Path(work) / "update.sql"
        script.write_text(UPDATE)
        async with prepared(server.url, TABLE, ROWS + max(WATCHERS)) as engine:
            await install(engine, TABLE)
        for _, (way, number) in turns("listeners", cases, rounds):
            rate = await with_watchers(server.url, script, way, number)
            rates[way, number].append(rate)
    found: dict[str, dict[str, Spread]] = {DIRECT: {}, RELAYED: {}}
    for (way, number), measured in rates.items():
        found[way][str(number)] = extremes(measured)
    return Listeners(rounds=rounds, rates=found)


def section(listeners: Listeners) -> Section:
    """The section of the page."""
    numbers = list(listeners["rates"][DIRECT])
    found = Section(
        "Writers beside many listeners",
        f"pgbench with {CLIENTS} clients updates {ROWS:,} rows, of which one session is notified,"
        " while that many watchers wait for other rows: each with a connection that listens, or all"
        " through one relay on a unix socket. PostgreSQL before 19 wakes all that listen in the"
        f" database. On a server of its own, {SETTINGS['max_connections']:,} connections at most;"
        f" {listeners['rounds']} rounds in random order; transactions a second: median"
        " [least..most].",
        ["watchers", DIRECT, f"{RELAYED}, one connection", "relay / direct"],
        plot="listeners.svg",
    )
    for number in numbers:
        direct, relayed = (listeners["rates"][way][number] for way in (DIRECT, RELAYED))
        ratio = f"{relayed['median'] / direct['median']:.1f}"
        found.rows.append([f"{int(number):,}", cell(direct, 0), cell(relayed, 0), ratio])
    return found


def draw(figure: Any, listeners: Listeners) -> None:
    """Draw both curves."""
    axes = figure.subplots()
    plot.bare(axes, "y")
    for way, curve in listeners["rates"].items():
        numbers = [int(number) for number in curve]
        rates = [spread["median"] for spread in curve.values()]
        axes.plot(numbers, rates, color=plot.color(way), linewidth=2, marker="o", markersize=4)
        plot.beside(axes, numbers[-1], rates[-1], way, 0, **plot.label(way))
    axes.set_xscale("log")
    axes.set_xticks(WATCHERS, [f"{number:,}" for number in WATCHERS])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("watchers")
    explanation = "Transactions a second, each of which notifies one session. More is better."
    plot.title(figure, "Writers beside many listeners", explanation)
    figure.subplots_adjust(left=0.08, right=0.8, top=0.84, bottom=0.14)


LISTENERS = Part("listeners", measure, section, draw)
