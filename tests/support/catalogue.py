"""The faults that the tests cause, by number, and the delay after which a change was seen.

A test with the mark ``fault("B2")`` belongs to an entry. It calls ``due`` when a change can be
seen: it is committed, and nothing delays it any more. It waits for the change with ``seen``.
``make faults`` shows the time between the two, the worst of all tests of an entry.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

FAULTS: Final = {
    "B1": "the server restarts or crashes; the listener's backend is killed",
    "B2": "a half-open connection: no data arrives, and it is not closed",
    "B3": "the heartbeat hangs, fails or is canceled",
    "B4": "two hundred reconnects; connection setups that fail in the middle",
    "B5": "a connect is refused, reset or cut off; the host is unknown; the server is starting up",
    "B6": "an outage: connects and log lines must not be too frequent",
    "B7": "the row changes at any step between the connect and the first read",
    "B8": "many notifications while waits begin and end, and during LISTEN itself",
    "B9": "a pool of one connection, which the application also uses",
    "B10": "the server terminates sessions that are idle in a transaction",
    "B11": "two event loops, one after the other and at the same time",
    "B12": "the password changes while the listener runs",
    "B13": "PgBouncer in transaction mode: LISTEN succeeds, but nothing arrives",
    "B14": "a pooler moves the session to another backend after the check of LISTEN",
    "B15": "LISTEN on a standby; promotion of a standby; a failover",
    "B16": "a standby that lags behind answers the reads",
    "B17": "the last wait ends: the connections that waits opened are closed",
    "B18": "a server without LISTEN",
    "B19": "triggers are installed and removed while other sessions read and write",
    "B20": "keys longer than the 8,000 bytes of a notification",
    "B21": "the notification queue is full",
    "B22": "many writers commit at the same time",
    "B23": "writes that change nothing",
    "B24": "keys change, rows are deleted and come back, tables are truncated, partitions change",
    "B25": "keys and identifiers of every kind",
    "B26": "two-phase commit, with notifications disabled",
    "B27": "changes that arrive by logical replication",
    "B28": "writers without rights on rowbell's objects; forged notifications",
    "B29": "triggers are dropped, disabled or missing from the start",
    "B30": "Alembic migrations: upgrade, downgrade, autogenerate",
    "B31": "the row changes before the call; the caller's snapshot is older than the change",
    "B32": "timeouts shorter than the interval; slow reads; a blocked event loop",
    "B33": "writes that are rolled back, uncommitted or the caller's own",
    "B34": "a thousand waits and a pool of two connections",
    "B35": "thousands of waits are read again after a lost connection",
    "B36": "hundreds of thousands of notifications for one row",
    "B37": "waits are canceled at every step",
    "B38": "the process shuts down while requests wait",
    "B39": "the row changes right after a wait is reported as armed",
    "B40": "several processes wait, and one is killed",
    "B41": "databases are dropped while listeners reconnect",
    "B42": "a value changes and changes back between two reads",
    "B43": "values that are hard to compare: NaN, JSON, deferred and generated columns",
    "B44": "settings of the caller's session: row-level security, schema_translate_map",
    "B45": "the caller has loaded the row and has pending changes",
    "B46": "the schema is dropped and created again, in another version",
    "B47": "psycopg as the listener",
}
"""The fault of each entry, by its number."""

ELSEWHERE: Final = {
    "B22": "measured in the [benchmarks](benchmarks.md)",
    "B47": "does not apply: LISTEN always uses asyncpg",
}
"""Entries without a test, and the reason."""


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
    lines = ["| | fault | tests | worst delay |", "|---|---|---|---|"]
    for number, fault in FAULTS.items():
        if number in ELSEWHERE:
            lines.append(f"| {number} | {fault} | | {ELSEWHERE[number]} |")
            continue
        worst = f"{max(delays[number]):.2f} s" if delays[number] else ""
        lines.append(f"| {number} | {fault} | {len(tests[number])} | {worst} |")
    return "\n".join(lines)


def write(page: Path, table: str) -> None:
    """Write the table between its two markers in the page."""
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


_BEGIN: Final = "<!-- catalogue: written by `make faults` -->"
_END: Final = "<!-- end of the catalogue -->"


@dataclass
class _Test:
    """The measurements of the running test."""

    since: float = 0.0
    delays: list[float] = field(default_factory=list)


_running = _Test()


def begin() -> list[float]:
    """Begin a test, and return the list of its delays."""
    global _running  # noqa: PLW0603  # one test runs at a time in a process
    _running = _Test()
    return _running.delays


def due() -> None:
    """Record that a change can be seen from now on."""
    _running.since = time.monotonic()


async def seen(wait: Awaitable[T]) -> T:
    """Return the wait's result, and measure the time since ``due``."""
    result = await wait
    if _running.since:
        _running.delays.append(time.monotonic() - _running.since)
    return result
