"""The benchmark: runs all of its parts and writes docs/benchmarks.md. ``make bench`` runs it."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sqlalchemy import URL

from churn import churn
from crowd import crowd, notifications, polled, thousand
from rowbell.embedded import EmbeddedServer
from section import Section
from table import connect
from wake import loops, wake
from writers import bulk, writers

Part = Callable[..., Coroutine[Any, Any, Section]]

PARTS: dict[str, Part] = {
    "wake": wake,
    "loops": loops,
    "thousand": thousand,
    "crowd": crowd,
    "polled": polled,
    "notifications": notifications,
    "writers": writers,
    "bulk": bulk,
    "churn": churn,
}
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
DOCS = Path(__file__).parent.parent / "docs"
FOUND = Path(__file__).parent / "found"
"""The sections as they were found last, so that a part can be measured again alone."""

SETTINGS = {"max_connections": 300, "shared_buffers": "256MB"}

INTRODUCTION = """# Benchmarks

Written by `make bench`; the parts are in [bench/](../bench). All compare within one run, because
absolute times say more of a machine than of a library. The goals and what stops us short of one are
in [scaling.md](scaling.md) and in [decisions/](decisions).

{machine}
"""


async def machine(url: URL) -> str:
    """What it was measured on."""
    connection = await connect(url)
    server = await connection.fetchval("SELECT split_part(version(), ' on ', 1)")
    await connection.close()
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.machine(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores ({cpu}), {platform.system()}"
        f" {platform.release()}; {server} on a unix socket, fsync on, "
        + ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
        + f"; Python {platform.python_version()}, {packages}."
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def main() -> None:
    """Run the parts asked for; the page is put together of what was found last for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--quick", action="store_true", help="too short to quote")
    given = parser.parse_args()
    FOUND.mkdir(exist_ok=True)
    for name in given.parts or PARTS:
        begun = time.monotonic()
        with EmbeddedServer(SETTINGS) as server:
            section = asyncio.run(PARTS[name](server.url, quick=given.quick))
            where = asyncio.run(machine(server.url))
        print(f"{section.markdown()}\033[K\n({time.monotonic() - begun:.0f} s)\n", flush=True)
        if not given.quick:
            keep(name, section)
            (DOCS / "benchmarks.md").write_text(page(where))


def keep(name: str, section: Section) -> None:
    """Keep a part's text for the page, and draw its plot."""
    (FOUND / f"{name}.md").write_text(section.markdown())
    if section.draw:
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        axes = figure.subplots()
        section.draw(axes)
        axes.set_title(section.title)
        (DOCS / "plots").mkdir(exist_ok=True)
        figure.savefig(DOCS / "plots" / f"{section.slug}.svg", metadata={"Date": None})


def page(where: str) -> str:
    """The page: of each part what was found last."""
    found = [FOUND / f"{name}.md" for name in PARTS]
    texts = [path.read_text() for path in found if path.exists()]
    return "\n".join([INTRODUCTION.format(machine=where), *texts]).rstrip() + "\n"


if __name__ == "__main__":
    main()
