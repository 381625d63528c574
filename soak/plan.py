"""The operations of each actor, drawn only from the seed.

The k-th operation of an actor is a function of the seed, the actor's name and k. It depends on no
time and no result.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NameT = TypeVar("NameT", bound=str)

ROWS: Final = {
    "parcels": 1200,
    "jobs": 600,
    "readings": 600,
    "owners": 200,
    "items": 600,
    "shadows": 200,
}
"""The tables and their numbers of rows. The keys are 1 to that number."""

ITEMS: Final = ROWS["items"] // ROWS["owners"]
"""The number of items of each owner."""

ALONE: Final = "alone"
"""Actors with such names have no watcher, so they wait with sessions."""

RELAYED: Final = "relayed"
"""Actors with such names have a watcher that listens through a relay."""

Aim: TypeAlias = Literal[
    "plain",
    "columns",
    "since mapping",
    "since instance",
    "until expression",
    "until predicate",
    "third expression",
    "third predicate",
]
Manner: TypeAlias = Literal["cancel", "asyncio.timeout", "move_on_after"]

AIMS: Final[dict[Aim, int]] = {
    "plain": 18,
    "columns": 14,
    "since mapping": 24,
    "since instance": 16,
    "until expression": 5,
    "until predicate": 8,
    "third expression": 9,
    "third predicate": 6,
}
MANNERS: Final[tuple[Manner, ...]] = ("cancel", "asyncio.timeout", "move_on_after")


@dataclass(frozen=True, slots=True)
class Wait:
    """A planned wait.

    Attributes:
        table: The table.
        key: The key of the row.
        aim: What is waited for.
        with_session: Whether ``wait_for_row_change`` is called, or else the watcher.
        fresh: Whether the row is read just before; otherwise the last known state is used.
        timeout: The wait's timeout, in seconds.
        interval: Its polling interval, in seconds.
        manner: How it is canceled; ``None`` if it is not.
        stop: When it is canceled, in seconds after its begin.
        pause: How long the actor pauses before it, in seconds.
    """

    table: str
    key: int
    aim: Aim
    with_session: bool
    fresh: bool
    timeout: float | None
    interval: float
    manner: Manner | None
    stop: float
    pause: float


@dataclass(frozen=True, slots=True)
class Write:
    """A planned write, in one or two transactions.

    Attributes:
        how: The kind of writer.
        table: The table.
        keys: The keys of the rows, in ascending order.
        isolation: The isolation level.
        marks: Whether the column ``mark`` changes too.
        linger: How long the transaction stays open after its statements, in seconds. Waits that
            begin during this time must not miss its commit.
        between: The pause between the two transactions of one write, in seconds.
        pause: How long the actor pauses before it, in seconds.
    """

    how: str
    table: str
    keys: tuple[int, ...]
    isolation: str
    marks: bool
    linger: float
    between: float
    pause: float


@dataclass(frozen=True, slots=True)
class Fault:
    """A planned fault and its repair.

    Attributes:
        how: The kind of fault.
        table: The table, for faults that concern one.
        choice: A number in [0, 1) for other choices.
        stretch: How long the fault lasts, in seconds.
        calm: The pause until the next fault, in seconds.
    """

    how: str
    table: str
    choice: float
    stretch: float
    calm: float


EVERYWHERE: Final = ("parcels", "jobs", "readings", "owners", "items", "shadows")
LOOSE: Final = ("parcels", "jobs", "readings")
"""Tables without foreign keys. Their rows are inserted and deleted."""

WRITERS: Final[dict[str, tuple[float, tuple[str, ...]]]] = {
    "unit of work": (5, EVERYWHERE),
    "update": (30, EVERYWHERE),
    "autocommit": (10, EVERYWHERE),
    "copy": (3, LOOSE),
    "upsert": (8, LOOSE),
    "merge": (5, LOOSE),
    "cte": (5, LOOSE),
    "bulk": (1, ("parcels", "readings", "items")),
    "away and back": (3, LOOSE),
    "exchange": (3, LOOSE),
    "cascaded update": (4, ("owners",)),
    "cascaded delete": (1, ("owners",)),
    "delete, insert": (3, LOOSE),
    "replace": (4, LOOSE),
    "savepoint": (4, EVERYWHERE),
    "rollback": (3, EVERYWHERE),
    "prepared": (0.02, EVERYWHERE),
    "deferred": (5, ("jobs",)),
    "muted": (0.02, EVERYWHERE),
}
"""The kinds of writers, with their frequency and tables. Muted writers are rare: after one, all
waits are read again, which would hide other lost changes."""

FAULTS: Final = (
    "terminate listeners",
    "terminate backends",
    "stop a listener",
    "stop a waiter",
    "restart",
    "crash",
    "promote",
    "reinstall",
    "disable",
    "swap",
    "lock",
    "forget",
    "rights on functions",
    "rights on a table",
    "alter",
    "old transaction",
    "kill a relay",
    "end a relay",
    "freeze a relay",
    "slow relay",
    "cut a relay off",
    "kill NATS",
    "freeze NATS",
    "slow NATS",
    "cut NATS off",
)


def waits(seed: int, actor: str) -> Iterator[Wait]:
    """The endless sequence of waits of an actor."""
    draw = random.Random(f"{seed}:{actor}")
    table, key = "", 0
    while True:
        place = draw.choice(("parcels", *EVERYWHERE))
        number = draw.randint(1, ROWS[place])
        if draw.random() < 0.6 or not table:  # otherwise it stays with the same row
            table, key = place, number
        # All are drawn each time, so the next operation does not depend on what this one uses.
        aim = _weighted(draw, AIMS)
        with_session, fresh = draw.random() < 0.4, draw.random() < 0.35
        limited, timeout = draw.random() < 0.6, 0.2 * 150 ** draw.random()
        interval = draw.choice((60.0,) * 7 + (2.0, 2.0, 0.3))
        stopped, manner = draw.random() < 0.25, draw.choice(MANNERS)
        stop = draw.expovariate(1.0) if draw.random() < 0.5 else draw.uniform(0, 15)
        pause = draw.expovariate(2.0)
        if table == "jobs" and aim == "third expression":  # it would watch no declared column
            aim = "until expression"
        if table == "jobs" and aim == "third predicate":
            aim = "until predicate"
        yield Wait(
            table=table,
            key=key,
            aim=aim,
            with_session=with_session or actor.startswith(ALONE),
            fresh=fresh,
            timeout=timeout if limited else None,
            interval=interval,
            manner=manner if stopped else None,
            stop=stop,
            pause=pause,
        )


def writes(seed: int, actor: str) -> Iterator[Write]:
    """The endless sequence of writes of an actor."""
    draw = random.Random(f"{seed}:{actor}")
    weights = {how: weight for how, (weight, _) in WRITERS.items()}
    while True:
        how = _weighted(draw, weights)
        table = draw.choice(WRITERS[how][1])
        first, few = draw.randint(1, ROWS[table]), draw.choice((1, 1, 1, 2, 3))
        many = draw.randint(20, 150)
        some = sorted({first, *(draw.randint(1, ROWS[table]) for _ in range(3))})
        keys: Sequence[int] = some[:few]
        if how == "bulk":
            keys = range(first, min(first + many, ROWS[table] + 1))
        elif how in {"exchange", "copy", "merge"}:
            keys = some
        elif how in {"away and back", "cascaded update", "cascaded delete"}:
            keys = some[:1]
        yield Write(
            how=how,
            table=table,
            keys=tuple(keys),
            isolation=draw.choice(("READ COMMITTED",) * 8 + ("REPEATABLE READ", "SERIALIZABLE")),
            marks=draw.random() < 0.6,
            linger=draw.expovariate(3.0) if draw.random() < 0.4 else 0.0,
            between=draw.expovariate(3.0),
            pause=draw.expovariate(8.0),
        )


def faults(seed: int, kinds: Sequence[str] = FAULTS) -> Iterator[Fault]:
    """The endless sequence of faults: all kinds in random order, then again in another order."""
    draw = random.Random(f"{seed}:agent")
    while True:
        for how in draw.sample(kinds, len(kinds)):
            yield Fault(
                how=how,
                table=draw.choice(EVERYWHERE),
                choice=draw.random(),
                stretch=draw.uniform(1, 4) if draw.random() < 0.8 else draw.uniform(4, 6),
                # Each fault causes a read of all rows. A lost change shows only in a long pause.
                calm=draw.uniform(1, 4) if draw.random() < 0.75 else draw.uniform(12, 18),
            )


def _weighted(draw: random.Random, weights: Mapping[NameT, float]) -> NameT:
    return draw.choices(list(weights), list(weights.values()))[0]
