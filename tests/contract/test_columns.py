"""Which columns are watched, and when two values are distinct, for every type."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert, inspect, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from rowbell import InvalidColumnError, WaitTimeoutError, wait_for_row_change
from support.ground import BRIEF, ODD, Ground
from support.models import Colour, Item, Odd, Order, Sealed


@pytest.mark.fault("B23", "B43")
@pytest.mark.parametrize("column", ["status", Order.status])
async def test_only_the_named_columns_count(
    ground: Ground, session: AsyncSession, column: str | InstrumentedAttribute[str]
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1, columns=[column]) as wait:
        await ground.execute("UPDATE orders SET n = n + 1")
        await ground.still_waiting(wait)
        assert ground.notifications == 0
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert (await wait).status == "paid"


async def test_a_wait_for_more_columns_than_another_on_the_same_row_is_served(
    ground: Ground, session: AsyncSession
) -> None:
    wait_for = ground.watcher.wait_for_change
    async with (
        ground.begun(wait_for, Order, 1, columns=["status"]) as narrow,
        ground.begun(wait_for, Order, 1, columns=["n"]) as other,
    ):
        await ground.execute("UPDATE orders SET n = 1")
        assert (await other).n == 1
        await ground.still_waiting(narrow)
        await ground.execute("UPDATE orders SET status = 'paid'")
        assert (await narrow).status == "paid"


async def test_an_unknown_column_is_refused_at_the_call(
    ground: Ground, session: AsyncSession
) -> None:
    with pytest.raises(ValueError, match="'statu' is not a mapped column of Order: did you mean"):
        await wait_for_row_change(session, Order, 1, columns=["statu"])
    with pytest.raises(InvalidColumnError, match=r"Item\.name"):
        await wait_for_row_change(session, Order, 1, columns=[Item.name])


CHANGES = [
    ("data", {"a": [1, None]}, {"a": [1, 2]}),
    ("data", {"a": True}, {"a": 1}),
    ("binary", {"a": {"b": []}}, {"a": {"b": [0]}}),
    ("tags", ["a"], ["a", "b"]),
    ("tags", None, []),
    ("amount", Decimal("1.0"), Decimal("1.01")),
    ("amount", Decimal("NaN"), Decimal(0)),
    ("ratio", float("nan"), 1.0),
    ("colour", Colour.RED, Colour.BLUE),
    ("at", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)),
    ("secret", Sealed("a"), Sealed("b")),
    ("big", "a", "b"),
    ("blob", b"\0", b"\1"),
    ("sum", Decimal(1), Decimal(2)),
]


@pytest.mark.fault("B43")
@pytest.mark.parametrize("watched", [True, False], ids=["named", "all"])
@pytest.mark.parametrize(("column", "before", "after"), CHANGES)
async def test_a_changed_value_of_any_type_is_a_change(
    ground: Ground, session: AsyncSession, column: str, before: Any, after: Any, *, watched: bool
) -> None:
    """The columns are renamed, deferred, unhashable or without equality. The names need quotes."""
    await ground.execute(insert(Odd).values({"id": ODD, column: before}))
    columns = [column] if watched else None
    async with ground.begun(wait_for_row_change, session, Odd, ODD, columns=columns) as wait:
        await ground.execute(update(Odd).values({column: after}))
        await wait


@pytest.mark.fault("B43")
@pytest.mark.parametrize(("column", "before", "after"), CHANGES)
async def test_an_unchanged_value_of_any_type_is_no_change(
    ground: Ground, column: str, before: Any, after: Any
) -> None:
    await ground.execute(insert(Odd).values({"id": ODD, column: before}))
    with pytest.raises(WaitTimeoutError):
        await ground.watcher.wait_for_change(
            Odd, ODD, columns=[column], interval=0.01, timeout=BRIEF
        )
    await ground.execute(update(Odd).values({column: before, "id": ODD}))
    with pytest.raises(WaitTimeoutError):
        await ground.watcher.wait_for_change(
            Odd, ODD, interval=0.01, timeout=BRIEF, since={column: before}
        )
    del after


@pytest.mark.fault("B43")
async def test_json_is_compared_by_value(ground: Ground) -> None:
    await ground.execute(insert(Odd).values(id=ODD, data={"a": 1, "b": 2}))
    async with ground.begun(ground.watcher.wait_for_change, Odd, ODD, columns=["data"]) as wait:
        await ground.execute("""UPDATE "Select"."Odd table" SET "user" = '{"b":2,  "a":1}'""")
        await ground.still_waiting(wait)


async def test_a_writer_that_shows_few_digits_changes_as_much(ground: Ground) -> None:
    await ground.execute(insert(Odd).values(id=ODD, ratio=0.3))
    async with ground.begun(ground.watcher.wait_for_change, Odd, ODD, columns=["ratio"]) as wait:
        await ground.execute(
            "SET LOCAL extra_float_digits = -5",
            """UPDATE "Select"."Odd table" SET ratio = 0.1::float8 + 0.2::float8""",
        )
        assert (await wait).ratio == 0.1 + 0.2


async def test_a_generated_column_can_be_watched(ground: Ground) -> None:
    await ground.execute(insert(Odd).values(id=ODD, amount=1))
    async with ground.begun(ground.watcher.wait_for_change, Odd, ODD, columns=["doubled"]) as wait:
        await ground.execute(update(Odd).values(amount=2))
        assert (await wait).doubled == 4


async def test_what_is_deferred_is_not_loaded(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Odd).values(id=ODD, big="a", blob=b"a"))
    async with ground.begun(wait_for_row_change, session, Odd, ODD) as wait:
        await ground.execute(update(Odd).values(big="b"))
        odd = await wait
    assert {"big", "blob"} <= inspect(odd).unloaded


@pytest.mark.parametrize(("column", "before", "after"), CHANGES)
async def test_a_value_given_by_since_may_be_of_any_type(
    ground: Ground, column: str, before: Any, after: Any
) -> None:
    await ground.execute(insert(Odd).values({"id": ODD, column: after}))
    odd = await ground.watcher.wait_for_change(Odd, ODD, since={column: before}, timeout=0)
    assert odd.id == ODD
