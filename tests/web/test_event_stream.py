"""Server-sent events: what a browser gets, and what never leaves."""

import asyncio
import hashlib
import json
from typing import Any

import pytest
from fastapi import HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import selectinload
from sqlalchemy.pool import QueuePool

import rowbell.fastapi.events
from rowbell import InvalidArgumentError, RowWatcher
from rowbell.fastapi import event_stream
from support.events import listening, status
from support.lists import created, listed
from support.models import Item, Order
from support.observed import execute
from support.stream_app import Begin, app_of
from support.web import serve

ROW = update(Order).where(Order.id == 1)


class OrderOut(BaseModel):
    id: int
    n: int


class ItemOut(BaseModel):
    name: str


class WithItems(BaseModel):
    items: list[ItemOut]


def one_row(**more: Any) -> Begin:
    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(request, watcher.follow(Order, 1), OrderOut, **more)

    return begin


async def test_each_state_is_an_event_whose_id_is_a_hash_of_what_was_sent(
    orders: AsyncEngine,
) -> None:
    async with serve(app_of(orders, one_row()), lifespan=True) as url, listening(url) as client:
        assert client.status == 200
        for n in range(3):
            event = await anext(client)
            assert (event.name, event.data) == (None, {"id": 1, "n": n})
            text = json.dumps(event.data, separators=(",", ":"))
            assert event.id == hashlib.sha256(text.encode()).hexdigest()[:32]
            await execute(orders, ROW.values(n=n + 1))


async def test_a_column_that_the_model_does_not_list_never_leaves(orders: AsyncEngine) -> None:
    """Nor does its change show, in an event or an id."""
    await execute(orders, ROW.values(note="classified"))
    async with serve(app_of(orders, one_row()), lifespan=True) as url, listening(url) as client:
        first = await anext(client)
        for secret in ("classified, 2", "classified, 3"):
            await execute(orders, ROW.values(note=secret))
        await execute(orders, ROW.values(n=1))
        second = await anext(client)
        assert (first.data, second.data) == ({"id": 1, "n": 0}, {"id": 1, "n": 1})
        await execute(orders, ROW.values(n=0))
        assert (await anext(client)).id == first.id
        assert "classified" not in "".join(client.raw)


async def test_a_client_that_comes_back_gets_only_what_it_has_not_seen(
    orders: AsyncEngine,
) -> None:
    async with serve(app_of(orders, one_row()), lifespan=True) as url:
        async with listening(url) as client:
            seen = (await anext(client)).id
        async with listening(url, seen) as client:
            await execute(orders, ROW.values(n=1))
            assert (await anext(client)).data["n"] == 1
        for n in (2, 3, 4):
            await execute(orders, ROW.values(n=n))
        async with listening(url, seen) as client:
            assert (await anext(client)).data["n"] == 4  # the states in between are not sent


@pytest.mark.parametrize("last", ["", "0", "x" * 5000, "%00", '"; DROP TABLE orders', "é".encode()])
async def test_an_unusable_last_event_id_is_none(orders: AsyncEngine, last: Any) -> None:
    async with serve(app_of(orders, one_row()), lifespan=True) as url:
        async with listening(url, last) as client:
            assert client.status == 200
            assert (await anext(client)).data == {"id": 1, "n": 0}


async def test_a_row_that_does_not_exist_is_404_before_the_stream(orders: AsyncEngine) -> None:
    await execute(orders, delete(Order).where(Order.id == 1))
    async with serve(app_of(orders, one_row()), lifespan=True) as url:
        assert await status(url) == 404


async def test_what_is_not_allowed_is_403_before_the_stream(orders: AsyncEngine) -> None:
    async def no(order: Order) -> bool:
        return order.n > 0

    async with serve(app_of(orders, one_row(check=no)), lifespan=True) as url:
        assert await status(url) == 403
        await execute(orders, ROW.values(n=1))
        assert await status(url) == 200


async def test_a_relationship_that_is_not_loaded_is_500_with_a_hint(orders: AsyncEngine) -> None:
    """Neither the client nor the message gets a value."""
    await execute(orders, ROW.values(note="classified"))
    raised: list[InvalidArgumentError] = []

    async def begin(request: Request, watcher: RowWatcher) -> Any:
        try:
            return await event_stream(request, watcher.follow(Order, 1), WithItems)
        except InvalidArgumentError as error:
            raised.append(error)
            raise

    async with serve(app_of(orders, begin), lifespan=True) as url:
        assert await status(url) == 500
    [error] = raised
    assert "items (get_attribute_error)" in str(error)
    assert "options=[selectinload(...)]" in str(error)
    assert "classified" not in str(error)
    assert error.__context__ is None or error.__suppress_context__


async def test_a_relationship_that_is_loaded_is_sent(orders: AsyncEngine) -> None:
    await execute(orders, insert(Item).values(id=1, order_id=1, name="a book"))

    async def begin(request: Request, watcher: RowWatcher) -> Any:
        follow = watcher.follow(Order, 1, options=[selectinload(Order.items)])
        return await event_stream(request, follow, WithItems)

    async with serve(app_of(orders, begin), lifespan=True) as url, listening(url) as client:
        assert (await anext(client)).data == {"items": [{"name": "a book"}]}


async def test_the_check_is_asked_for_each_state(orders: AsyncEngine) -> None:
    """The stream ends with the reason; coming back is refused."""
    stream = one_row(check=lambda order: order.status == "new")
    async with serve(app_of(orders, stream), lifespan=True) as url:
        async with listening(url) as client:
            await anext(client)
            await execute(orders, ROW.values(status="secret"))
            [end] = await client.rest()
            assert (end.name, end.data, end.retry) == ("end", {"reason": "refused"}, None)
        assert await status(url) == 403


async def test_an_exception_of_the_check_counts_as_refused(orders: AsyncEngine) -> None:
    def check(order: Order) -> bool:
        if order.n:
            raise HTTPException(401)
        return True

    async with serve(app_of(orders, one_row(check=check)), lifespan=True) as url:
        async with listening(url) as client:
            await anext(client)
            await execute(orders, ROW.values(n=1))
            [end] = await client.rest()
            assert end.data == {"reason": "refused"}
        assert await status(url) == 401


async def test_an_old_stream_ends_and_the_client_comes_back(orders: AsyncEngine) -> None:
    async with serve(app_of(orders, one_row(max_age=0.3)), lifespan=True) as url:
        async with listening(url) as client:
            first, end = await client.rest()
            assert end.data == {"reason": "max_age"}
            assert end.retry is not None
            assert 1000 <= end.retry <= 5000
        async with listening(url, first.id) as client:
            assert [event.data for event in await client.rest()] == [{"reason": "max_age"}]


async def test_a_final_state_is_sent_once_and_coming_back_is_204(orders: AsyncEngine) -> None:
    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(request, watcher.follow(Order, 1, until=Order.n == 2), OrderOut)

    async with serve(app_of(orders, begin), lifespan=True) as url:
        async with listening(url) as client:
            seen = (await anext(client)).id
            await execute(orders, ROW.values(n=2))
            last, end = await client.rest()
            assert (last.data["n"], end.data, end.retry) == (2, {"reason": "until"}, None)
        async with listening(url, seen) as client:
            last, end = await client.rest()
            assert (last.data["n"], end.data) == (2, {"reason": "until"})
        assert await status(url, last.id) == 204


async def test_a_deletion_ends_the_stream_and_coming_back_is_404(orders: AsyncEngine) -> None:
    async with serve(app_of(orders, one_row()), lifespan=True) as url:
        async with listening(url) as client:
            seen = (await anext(client)).id
            await execute(orders, delete(Order).where(Order.id == 1))
            [end] = await client.rest()
            assert (end.data, end.retry) == ({"reason": "deleted"}, None)
        assert await status(url, seen) == 404


async def test_many_rows_are_one_stream_and_those_that_do_not_exist_are_gone(
    orders: AsyncEngine,
) -> None:
    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(request, watcher.follow_many(Order, [1, 2, 999]), OrderOut)

    async with serve(app_of(orders, begin), lifespan=True) as url:
        async with listening(url) as client:
            first = [await anext(client) for _ in range(3)]
            assert [event.data for event in first if event.name is None] == [
                {"id": 1, "n": 0},
                {"id": 2, "n": 0},
            ]
            assert [event.data for event in first if event.name == "gone"] == [{"key": 999}]
            await execute(orders, delete(Order).where(Order.id == 2))
            gone = await anext(client)
            assert (gone.name, gone.data) == ("gone", {"key": 2})
        async with listening(url, gone.id) as client:
            await execute(orders, ROW.values(n=1))
            assert (await anext(client)).data == {"id": 1, "n": 1}
        async with listening(url, gone.id) as client:  # not the last id
            assert len([await anext(client) for _ in range(3)]) == 3


async def test_many_rows_that_are_all_final_are_204_to_who_has_seen_them(
    orders: AsyncEngine,
) -> None:
    def begin(request: Request, watcher: RowWatcher) -> Any:
        follow = watcher.follow_many(Order, [1, 2], until=Order.n > 0)
        return event_stream(request, follow, OrderOut)

    async with serve(app_of(orders, begin), lifespan=True) as url:
        async with listening(url) as client:
            await asyncio.gather(anext(client))
            await anext(client)
            await execute(orders, update(Order).values(n=1))
            *_, last, end = await client.rest()
            assert end.data == {"reason": "until"}
        assert await status(url, last.id) == 204


async def test_one_row_of_many_that_is_not_allowed_is_403(orders: AsyncEngine) -> None:
    def begin(request: Request, watcher: RowWatcher) -> Any:
        follow = watcher.follow_many(Order, [1, 2])
        return event_stream(request, follow, OrderOut, check=lambda order: order.id == 1)

    async with serve(app_of(orders, begin), lifespan=True) as url:
        assert await status(url) == 403


async def test_a_list_is_loaded_again_and_sent_if_it_looks_different(engine: AsyncEngine) -> None:
    model = await created(engine, listed())

    async def load() -> Any:
        async with AsyncSession(engine) as session:
            return (await session.scalars(select(model).order_by(model.id))).all()

    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(
            request, watcher.changes(model, interval=0.05), list[OrderOut], load=load
        )

    async with serve(app_of(engine, begin), lifespan=True) as url:
        async with listening(url) as client:
            assert [each["id"] for each in (await anext(client)).data] == [1, 2]
            await execute(engine, "UPDATE entries SET n = n", "INSERT INTO entries VALUES (3, 5)")
            event = await anext(client)
            assert event.data[-1] == {"id": 3, "n": 5}
        async with listening(url, event.id) as client:
            await execute(engine, "DELETE FROM entries WHERE id < 3")
            assert (await anext(client)).data == [{"id": 3, "n": 5}]


async def test_without_a_model_a_list_only_says_that_it_has_changed(engine: AsyncEngine) -> None:
    model = await created(engine, listed())

    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(request, watcher.changes(model, interval=0.05))

    async with serve(app_of(engine, begin), lifespan=True) as url, listening(url) as client:
        first = await anext(client)
        assert (first.name, first.data, first.id) == ("resync", {"reason": "start"}, None)
        await execute(engine, "INSERT INTO entries VALUES (3, 5)")
        assert (await anext(client)).data["reason"] in {"changed", "gap", "polled"}


async def test_a_row_that_is_waited_for_begins_a_stream_without_a_state(
    orders: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowbell.fastapi.events, "FIRST_WITHIN", 0.1)

    def begin(request: Request, watcher: RowWatcher) -> Any:
        follow = watcher.follow(Order, 999, missing="wait", interval=0.05)
        return event_stream(request, follow, OrderOut)

    async with serve(app_of(orders, begin), lifespan=True) as url, listening(url) as client:
        assert client.status == 200
        await execute(orders, insert(Order).values(id=999))
        assert (await anext(client)).data == {"id": 999, "n": 0}


async def test_nothing_is_left_when_clients_leave(orders: AsyncEngine) -> None:
    app = app_of(orders, one_row())
    async with serve(app, lifespan=True) as url:
        for _ in range(3):
            async with listening(url) as client:
                await anext(client)
        watcher: RowWatcher = app.state.watcher
        await watcher.reached(lambda now: now.armed + now.polled == 0)
        await watcher.reached(lambda _: len(watcher._board.watches) == 0)


@pytest.mark.parametrize("name", ["check", "load"])
async def test_a_stream_that_asks_the_application_ends_at_once_too(
    engine: AsyncEngine, name: str
) -> None:
    """When the process is to end, however long the application's check or load takes."""
    model = await created(engine, listed())
    asked = asyncio.Event()

    async def check(_: Any) -> bool:
        if asks:
            asked.set()
            await asyncio.sleep(3600)
        return True

    async def load() -> Any:
        await check(None)
        return []

    def begin(request: Request, watcher: RowWatcher) -> Any:
        if name == "load":
            changes = watcher.changes(model, interval=0.05)
            return event_stream(request, changes, list[OrderOut], load=load)
        return event_stream(request, watcher.follow(model, 1), OrderOut, check=check)

    app, asks = app_of(engine, begin), False
    async with serve(app, lifespan=True) as url, listening(url) as client:
        await anext(client)
        asks = True
        await execute(engine, "UPDATE entries SET n = 1 WHERE id = 1")
        await asked.wait()
        app.state.watcher.close_streams()
        [end] = await client.rest()
        assert end.data == {"reason": "closed"}


async def test_a_thousand_streams_are_armed_and_hold_no_pooled_connection(
    orders: AsyncEngine,
) -> None:
    """And each of them gets a change, with a pool of five."""
    pool = orders.pool
    assert isinstance(pool, QueuePool)
    app = app_of(orders, one_row())

    async def one(url: str, told: list[int]) -> None:
        host, port = url.removeprefix("http://").split(":")
        reading, writing = await asyncio.open_connection(host, int(port))
        writing.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b'"n":1' not in await reading.readline():
            pass
        told.append(1)
        writing.close()

    async with serve(app, lifespan=True) as url:
        told: list[int] = []
        clients = [asyncio.create_task(one(url, told)) for _ in range(1000)]
        async with listening(url) as client:
            await anext(client)
            watcher: RowWatcher = app.state.watcher
            await watcher.reached(lambda now: now.armed == 1001)
            assert pool.checkedout() == 0
            await execute(orders, ROW.values(n=1))
            await asyncio.gather(*clients)
        assert len(told) == 1000


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "source": ({"source": 7}, "source must be what watcher.follow"),
    "model": ({"model": None}, "model must be a pydantic model"),
    "mapped class": ({"model": Order}, "not the mapped class"),
    "check": ({"check": "admins"}, "check must be a function"),
    "load": ({"load": print}, "load must be a coroutine function"),
    "max_age": ({"max_age": -1}, "max_age must be"),
    "max_age, text": ({"max_age": "1h"}, "max_age must be"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_a_bad_argument_is_refused_at_the_call(orders: AsyncEngine, name: str) -> None:
    given, message = INVALID[name]
    request = Request({"type": "http", "headers": []})
    async with RowWatcher(orders) as watcher:
        source = given.pop("source", None) or watcher.follow(Order, 1)
        model = given.pop("model", OrderOut)
        with pytest.raises(InvalidArgumentError, match=message):
            await event_stream(request, source, model, **given)


async def test_a_list_needs_load_with_a_model(orders: AsyncEngine) -> None:
    request = Request({"type": "http", "headers": []})
    async with RowWatcher(orders) as watcher:
        with pytest.raises(InvalidArgumentError, match="load must be the function"):
            await event_stream(request, watcher.changes(Order), list[OrderOut])
