"""The faults that the tests break for real, by number, and how late a change was seen in each.

A test that is marked ``fault("B2")`` belongs to an entry. It says when a change could be seen
(``due``: committed, and nothing in its way any more) and waits for it with ``seen``; the time
between is what ``make faults`` shows, the worst of all tests of an entry.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

FAULTS: Final = {
    "B1": "the server restarts or crashes, the listener's process is killed",
    "B2": "a half-open connection: nothing is forwarded, nothing is closed",
    "B3": "the heartbeat hangs, fails, or is cancelled",
    "B4": "two hundred reconnects, and set-ups that fail half-way",
    "B5": "the server refuses, resets, ends in the middle, does not know the name, is starting up",
    "B6": "an outage, in which nothing may be tried or logged too often",
    "B7": "the change comes at any step between the connect and the first read",
    "B8": "a storm of notifications while waits come and go, and during LISTEN itself",
    "B9": "a pool of one connection, which the application uses",
    "B10": "a server that kills what is idle in a transaction",
    "B11": "two event loops, one after the other and at once",
    "B12": "the password is changed under the listener",
    "B13": "PgBouncer in transaction mode: LISTEN is accepted, nothing arrives",
    "B14": "a pooler gives the session to another server process after the proof",
    "B15": "a standby as listener, a standby that is promoted, a failover",
    "B16": "reads are answered by a standby that lags behind",
    "B17": "nobody waits any more: what a wait opened for itself is closed",
    "B18": "a server without LISTEN",
    "B19": "installing and removing triggers while others read and write",
    "B20": "keys beyond a notification's 8,000 bytes",
    "B21": "the notification queue is full",
    "B22": "many writers commit at once",
    "B23": "writes that change nothing",
    "B24": "keys move, rows are deleted and come back, tables are truncated, partitions change",
    "B25": "keys and names of every kind",
    "B26": "two-phase commit, with notifications off",
    "B27": "changes that arrive by logical replication",
    "B28": "writers without any right on what is ours, forged notifications",
    "B29": "triggers are dropped, disabled, or were never there",
    "B30": "migrations up and down; autogenerate",
    "B31": "the change comes before the call; the caller's snapshot is frozen",
    "B32": "timeouts below the interval, slow reads, a loop that is held up",
    "B33": "rolled back, uncommitted, and the caller's own writes",
    "B34": "a thousand waits beside a pool of two",
    "B35": "thousands of waits read again after a lost connection",
    "B36": "hundreds of thousands of notifications of one row",
    "B37": "waits are cancelled at every step",
    "B38": "the process stops while requests wait",
    "B39": "a change at once after a wait is said to be armed",
    "B40": "several processes, one of which is killed",
    "B41": "databases are dropped under listeners that reconnect",
    "B42": "a change there and back between two reads",
    "B43": "values that compare oddly: NaN, JSON, deferred, generated",
    "B44": "settings of the caller's session: row-level security, translated schemas",
    "B45": "the caller has the row already, with changes pending",
    "B46": "the schema is dropped and comes back, of another version",
    "B47": "psycopg as the listener",
}
"""What is broken, by the entry's number."""

ELSEWHERE: Final = {
    "B22": "measured in the [benchmarks](benchmarks.md)",
    "B47": "does not apply: asyncpg alone listens",
}
"""Entries without a test, and why."""


def table(measured: Iterable[tuple[str, float | None, str]]) -> str:
    """The catalogue as a Markdown table.

    Args:
        measured: For each test and entry, its number, the worst delay in seconds, the test's id.
    """
    tests: dict[str, set[str]] = {number: set() for number in FAULTS}
    delays: dict[str, list[float]] = {number: [] for number in FAULTS}
    for number, delay, test in measured:
        tests[number].add(test.partition("[")[0])
        if delay is not None:
            delays[number].append(delay)
    lines = ["| | broken, for real | tests | worst delay |", "|---|---|---|---|"]
    for number, fault in FAULTS.items():
        if number in ELSEWHERE:
            lines.append(f"| {number} | {fault} | | {ELSEWHERE[number]} |")
            continue
        worst = f"{max(delays[number]):.2f} s" if delays[number] else ""
        lines.append(f"| {number} | {fault} | {len(tests[number])} | {worst} |")
    return "\n".join(lines)


def write(page: Path, table: str) -> None:
    """Put the table in the page's place for it."""
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


_BEGIN: Final = "<!-- catalogue: written by `make faults` -->"
_END: Final = "<!-- end of the catalogue -->"


@dataclass
class _Test:
    """What the running test has measured."""

    since: float = 0.0
    delays: list[float] = field(default_factory=list)


_running = _Test()


def begin() -> list[float]:
    """A test begins; returns the list that its delays go to."""
    global _running  # noqa: PLW0603  # one test runs at a time in a process
    _running = _Test()
    return _running.delays


def due() -> None:
    """A change is committed, and nothing is in its way any more."""
    _running.since = time.monotonic()


async def seen(wait: Awaitable[T]) -> T:
    """The wait's result; what is measured is the time since ``due``."""
    result = await wait
    if _running.since:
        _running.delays.append(time.monotonic() - _running.since)
    return result
