"""The benchmark: measures its parts, and writes the page on them. ``make bench`` runs it."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import URL

import plot
import record
from parts import PARTS, written
from record import Run
from rowbell.embedded import EmbeddedServer
from table import connected

DOCS = Path(__file__).parent.parent / "docs"
SETTINGS = {"max_connections": 300, "shared_buffers": "256MB"}
PACKAGES = (
    "sqlalchemy",
    "asyncpg",
    "uvloop",
    "fastapi-toolsets",
    "sqlnotify",
    "pg-sse",
    "psycopg",
    "asyncpg-listen",
)


async def this_run(url: URL, date: str) -> Run:
    """The date, the machine and the versions."""
    async with connected(url) as connection:
        server = await connection.fetchval("SELECT split_part(version(), ' on ', 1)")
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return Run(
        date=date,
        machine=f"{os.cpu_count()} cores ({cpu()}), {platform.system()} {platform.release()}",
        server=f"{server} on a unix socket, fsync on, {settings}",
        packages=f"Python {platform.python_version()}, {packages}",
    )


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":")[1].strip() for line in lines if "model name" in line)
    return next(names, platform.machine())


def measure(name: str, date: str, *, quick: bool) -> None:
    """Measure a part and print its section. Save its numbers unless ``quick``."""
    part, begun = PARTS[name], time.monotonic()
    with EmbeddedServer(SETTINGS) as server:
        numbers = asyncio.run(part.measure(server.url, quick=quick))
        run = asyncio.run(this_run(server.url, date))
    print(
        f"{part.section(numbers).markdown()}\033[K\n({time.monotonic() - begun:.0f} s)\n",
        flush=True,
    )
    if not quick:
        record.save(name, {"run": run, "numbers": numbers})
        redraw([name])


def redraw(names: Iterable[str]) -> None:
    """Draw the plots of these parts, and write the page, from the saved numbers."""
    for name in names:
        part, kept = PARTS[name], record.load(name)
        if kept is not None and part.draw is not None:
            plot.save(part.draw, kept["numbers"], DOCS / "plots" / f"{name}.svg")
    (DOCS / "explanation" / "benchmarks.md").write_text(written())


def main() -> None:
    """Measure the parts, or only write the page again from saved numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="too short to quote; nothing is written")
    how.add_argument(
        "--redraw", action="store_true", help="only write the page and the plots again"
    )
    given = parser.parse_args()
    names = given.parts or list(PARTS)
    if given.redraw:
        redraw(names)
        return
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    for name in names:
        measure(name, date, quick=given.quick)


if __name__ == "__main__":
    main()
