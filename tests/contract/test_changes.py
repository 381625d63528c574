"""A change of the row ends the wait. Nothing else ends it."""

from __future__ import annotations

import pytest
from sqlalchemy import URL, delete, insert, update
from sqlalchemy.ext.asyncio import AsyncSession

from rowbell import NotFoundError, wait_for_row_change
from support.ground import Ground
from support.models import Item, Order
from support.observed import execute


async def test_the_refreshed_instance_is_returned(ground: Ground, session: AsyncSession) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(update(Order).where(Order.id == 1).values(status="paid"))
        order = await wait
    assert (order.status, order in session) == ("paid", True)


async def test_a_change_of_another_row_ends_no_wait(ground: Ground, session: AsyncSession) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(update(Order).where(Order.id == 2).values(status="paid"))
        await ground.still_waiting(wait)


async def test_a_row_that_does_not_exist_is_not_found(
    ground: Ground, session: AsyncSession
) -> None:
    with pytest.raises(NotFoundError, match=r"Order\(id=99\) not found") as caught:
        await wait_for_row_change(session, Order, 99, interval=ground.interval)
    assert (caught.value.key, caught.value.deleted) == ({"id": 99}, False)


@pytest.mark.fault("B24")
@pytest.mark.parametrize(
    "statement", ["DELETE FROM orders WHERE id = 1", "TRUNCATE orders CASCADE"]
)
async def test_a_deleted_or_truncated_row_is_reported_as_deleted(
    ground: Ground, session: AsyncSession, statement: str
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(statement)
        with pytest.raises(NotFoundError, match=r"Order\(id=1\) was deleted"):
            await wait


@pytest.mark.fault("B24")
async def test_a_cascading_delete_is_a_delete(ground: Ground, session: AsyncSession) -> None:
    await ground.execute(insert(Item).values(id=1, order_id=1))
    async with ground.begun(wait_for_row_change, session, Item, 1) as wait:
        await ground.execute(delete(Order).where(Order.id == 1))
        with pytest.raises(NotFoundError, match="was deleted"):
            await wait


@pytest.mark.parametrize(
    "statement",
    [
        (
            "INSERT INTO orders (id, status, n) VALUES (1, '', 0) "
            "ON CONFLICT (id) DO UPDATE SET status = 'paid'"
        ),
        (
            "MERGE INTO orders o USING (SELECT 1 AS id) s ON o.id = s.id "
            "WHEN MATCHED THEN UPDATE SET status = 'paid'"
        ),
        (
            "WITH one AS (UPDATE orders SET n = 5 WHERE id = 2 RETURNING id) "
            "UPDATE orders SET status = 'paid' WHERE id = 1"
        ),
        "WITH one AS (UPDATE orders SET status = 'paid' WHERE id = 1) SELECT 1",
    ],
)
async def test_every_kind_of_update_counts(
    ground: Ground, session: AsyncSession, statement: str
) -> None:
    async with ground.engine.connect() as connection:
        version = connection.dialect.server_version_info
    if statement.startswith("MERGE") and version is not None and version < (15,):
        pytest.skip("PostgreSQL has MERGE since 15")
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(statement)
        assert (await wait).status == "paid"


@pytest.mark.fault("B24")
async def test_a_row_whose_key_changes_is_reported_as_deleted(
    ground: Ground, session: AsyncSession
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET id = 1001 WHERE id = 1")
        with pytest.raises(NotFoundError, match="was deleted"):
            await wait


@pytest.mark.fault("B24")
async def test_swapped_keys_are_changes(
    ground: Ground, session: AsyncSession, database: URL
) -> None:
    await execute(
        database,
        "ALTER TABLE items DROP CONSTRAINT items_order_id_fkey",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
        "ALTER TABLE orders ADD PRIMARY KEY (id) DEFERRABLE",
        "UPDATE orders SET note = 'second' WHERE id = 2",
    )
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET id = 3 - id")
        assert (await wait).note == "second"


@pytest.mark.fault("B24")
async def test_deleted_and_inserted_again_in_one_transaction_is_no_deletion(
    ground: Ground, session: AsyncSession
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute(
            delete(Order).where(Order.id == 1), insert(Order).values(id=1, status="again")
        )
        assert (await wait).status == "again"


@pytest.mark.fault("B23")
async def test_an_update_that_changes_nothing_is_no_change(
    ground: Ground, session: AsyncSession
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET status = status", "UPDATE orders SET n = n + 0")
        await ground.still_waiting(wait)
        assert ground.notifications == 0


@pytest.mark.fault("B33")
async def test_what_is_rolled_back_is_no_change(ground: Ground, session: AsyncSession) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        async with ground.engine.connect() as connection:
            await connection.execute(update(Order).values(status="paid"))
            await connection.rollback()
        async with ground.engine.begin() as connection:
            nested = await connection.begin_nested()
            await connection.execute(update(Order).values(status="paid"))
            await nested.rollback()
        await ground.still_waiting(wait)


@pytest.mark.fault("B42")
async def test_there_and_back_within_a_transaction_is_no_change(
    ground: Ground, session: AsyncSession
) -> None:
    async with ground.begun(wait_for_row_change, session, Order, 1) as wait:
        await ground.execute("UPDATE orders SET n = 1", "UPDATE orders SET n = 0")
        await ground.still_waiting(wait)
