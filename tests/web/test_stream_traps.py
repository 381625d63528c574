"""Traps of streams and long polls: what an attack on them has found."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from sqlalchemy import Column, Integer, Table, Text, update
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column, registry
from sqlalchemy.pool import NullPool

import rowbell.fastapi.events
from rowbell import InvalidArgumentError, RowWatcher
from rowbell.fastapi import (
    EventStream,
    WatcherDep,
    add_exception_handlers,
    event_stream,
    lifespan,
    long_poll,
    run_while_connected,
)
from rowbell.fastapi.representation import Representation
from support.events import listening, status
from support.lists import created, listed
from support.models import Animal, Order
from support.observed import execute
from support.proxy import Proxy
from support.stream_app import app_of
from support.waits import IMPATIENT
from support.web import serve

ROW = update(Order).where(Order.id == 1)


class OrderOut(BaseModel):
    id: int
    n: int


# -- what leaves


mapping = registry()


@dataclass
class Imperative:
    """A dataclass that is mapped to a table."""

    id: int
    secret: str


mapping.map_imperatively(
    Imperative,
    Table(
        "imperative",
        mapping.metadata,
        Column("id", Integer, primary_key=True),
        Column("secret", Text),
    ),
)


class DataBase(MappedAsDataclass, DeclarativeBase):
    pass


class Declared(DataBase):
    __tablename__ = "declared"
    id: Mapped[int] = mapped_column(primary_key=True)
    secret: Mapped[str]


class Loose(BaseModel):
    row: Any


class WithSet(BaseModel):
    tags: set[str]


class WithMap(BaseModel):
    meta: dict[str, int]


@pytest.mark.parametrize("model", [Imperative, list[Imperative], Imperative | None, Declared])
def test_a_mapped_class_is_no_model_though_pydantic_would_take_it(model: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="not the mapped class"):
        Representation(model)


@pytest.mark.parametrize("value", [Imperative(1, "classified"), Declared(1, "classified")])
def test_an_instance_in_a_field_of_any_type_never_leaves(value: Any) -> None:
    for model, given in ((Any, value), (list[Any], [value]), (Loose, {"row": value})):
        with pytest.raises(InvalidArgumentError, match="not Any") as raised:
            Representation(model).of(given)
        assert "classified" not in str(raised.value)


def test_a_set_is_refused_because_its_order_differs_between_processes() -> None:
    with pytest.raises(InvalidArgumentError, match="declare lists"):
        Representation(WithSet).of({"tags": {"a", "b"}})


def test_neither_values_nor_the_keys_of_a_dictionary_are_in_the_message() -> None:
    with pytest.raises(InvalidArgumentError, match=r"meta \(int_parsing\)") as raised:
        Representation(WithMap).of({"meta": {"classified": "secret"}})
    assert "classified" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_what_cannot_be_written_as_json_is_refused() -> None:
    class Binary(BaseModel):
        data: bytes

    with pytest.raises(InvalidArgumentError, match="as JSON"):
        Representation(Binary).of({"data": b"\xff"})


async def test_a_check_must_say_true_or_false(orders: AsyncEngine) -> None:
    """An SQL expression, of the class instead of the instance, is truthy."""
    raised: list[BaseException] = []

    async def begin(request: Request, watcher: RowWatcher) -> Any:
        check: Any = lambda _: Order.status != "new"  # noqa: E731
        try:
            await event_stream(request, watcher.follow(Order, 1), OrderOut, check=check)
        except InvalidArgumentError as error:
            raised.append(error)
            raise

    async with serve(app_of(orders, begin), lifespan=True) as url:
        assert await status(url) == 500
    assert "True or False, not a BinaryExpression" in str(raised[0])


async def test_a_key_that_cannot_be_one_is_404(orders: AsyncEngine) -> None:
    app = FastAPI(lifespan=lifespan(orders))
    add_exception_handlers(app)

    @app.get("/{key}")
    async def poll(key: int, request: Request, watcher: WatcherDep) -> Any:
        return await long_poll(request, watcher.follow(Order, key), OrderOut)

    async with serve(app, lifespan=True) as url, httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/99999999999")).status_code == 404


# -- the beginning


async def test_a_slow_check_that_says_no_is_403(
    orders: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowbell.fastapi.events, "FIRST_WITHIN", 0.05)

    async def check(_: Order) -> bool:
        await asyncio.sleep(0.3)  # longer than the row may take
        return False

    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(request, watcher.follow(Order, 1), OrderOut, check=check)

    async with serve(app_of(orders, begin), lifespan=True) as url:
        assert await status(url) in {403, 200}
        monkeypatch.setattr(rowbell.fastapi.events, "FIRST_WITHIN", 5.0)
        assert await status(url) == 403


async def test_no_rows_at_all_are_a_stream_that_waits_for_them(orders: AsyncEngine) -> None:
    follows: list[Any] = []

    def begin(request: Request, watcher: RowWatcher) -> Any:
        follows.append(watcher.follow_many(Order, []))
        return event_stream(request, follows[0], OrderOut)

    async with serve(app_of(orders, begin), lifespan=True) as url, listening(url) as client:
        assert client.status == 200
        follows[0].add(1)
        assert (await anext(client)).data == {"id": 1, "n": 0}


# -- loads that fail


async def test_a_load_that_fails_for_a_reason_that_passes_is_repeated(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream goes on; a new one is 503."""
    monkeypatch.setattr(rowbell.fastapi.events, "seconds", lambda: 0.01)
    model = await created(engine, listed())
    failing = 0

    async def load() -> list[Any]:
        nonlocal failing
        if failing:
            failing -= 1
            raise PoolTimeoutError("QueuePool limit")
        return [{"id": 1, "n": failures - failing}]

    def begin(request: Request, watcher: RowWatcher) -> Any:
        changes = watcher.changes(model, interval=0.05)
        return event_stream(request, changes, list[OrderOut], load=load)

    failures = 0
    async with serve(app_of(engine, begin), lifespan=True) as url, listening(url) as client:
        await anext(client)
        failing = failures = 3
        await execute(engine, "UPDATE entries SET n = 1")
        assert (await anext(client)).data == [{"id": 1, "n": 3}]
        logged = [record for record in caplog.records if "cannot load its state" in record.message]
        assert len(logged) == 1
        failing = 1_000_000  # the stream that is open loads, too
        assert await status(url) == 503


# -- the end


async def test_follows_of_a_class_with_subclasses_end_while_the_database_is_down(
    engine: AsyncEngine, proxy: Proxy
) -> None:
    proxied, proxy.refusing = create_async_engine(proxy.url, poolclass=NullPool), True
    async with RowWatcher(proxied, mode="poll", timing=IMPATIENT) as watcher:
        follows: list[Any] = [watcher.follow(Animal, 1), watcher.follow_many(Animal, [1])]
        waiting = [asyncio.create_task(anext(follow)) for follow in follows]
        await proxy.has_accepted(4)  # the queries of the class have failed, and are repeated
        watcher.close_streams()
        async with asyncio.timeout(2):
            for wait in waiting:
                with pytest.raises(StopAsyncIteration):
                    await wait
        assert [follow.ended for follow in follows] == ["closed", "closed"]
    await proxied.dispose()


async def test_a_body_that_never_arrives_does_not_hold_up_the_end(orders: AsyncEngine) -> None:
    app = FastAPI(lifespan=lifespan(orders))

    @app.post("/")
    async def post(request: Request, watcher: WatcherDep) -> None:
        app.state.watcher = watcher
        await run_while_connected(request, watcher.wait_for_change(Order, 1))

    async with serve(app, lifespan=True) as url:
        host, port = url.removeprefix("http://").split(":")
        reading, writing = await asyncio.open_connection(host, int(port))
        writing.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
        async with asyncio.timeout(20):
            while not hasattr(app.state, "watcher"):
                await asyncio.sleep(0.01)
            app.state.watcher.close_streams()
            assert b" 503 " in await reading.readline()
        writing.close()
        await writing.wait_closed()


async def test_sigquit_means_the_end_only_to_gunicorn(orders: AsyncEngine) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGQUIT, lambda number, _: got.append(number))
    try:
        async with lifespan(orders)(FastAPI()) as state:
            os.kill(os.getpid(), signal.SIGQUIT)
            await asyncio.sleep(0)
            [watcher] = state["rowbell_watchers"].values()
            assert not watcher.streams_closing.is_set()
        assert got == [signal.SIGQUIT]
    finally:
        signal.signal(signal.SIGQUIT, before)


async def test_lifespans_that_end_in_another_order_leave_no_handler(orders: AsyncEngine) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, handler := lambda _number, _frame: None)
    try:
        other = orders.execution_options()
        first, second = lifespan(orders)(FastAPI()), lifespan(other, mode="poll")(FastAPI())
        await first.__aenter__()
        await first.__aexit__(None, None, None)
        await second.__aenter__()
        await second.__aexit__(None, None, None)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, mine)


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.mark.parametrize("error", [anyio.BrokenResourceError, asyncio.CancelledError])
async def test_the_log_keeps_tracebacks_until_the_process_is_to_end(
    orders: AsyncEngine, error: type[BaseException]
) -> None:
    logger, kept = logging.getLogger("uvicorn.error"), Kept()
    logger.addHandler(kept)  # a server that has run in this process has cut its propagation
    async with lifespan(orders)(FastAPI()) as state:
        for is_ending in (False, True):
            kept.records.clear()
            logger.error("Exception in ASGI application\n", exc_info=error())
            [record] = kept.records
            assert (record.exc_info is None) == is_ending
            [watcher] = state["rowbell_watchers"].values()
            watcher.close_streams()
    logger.removeHandler(kept)


async def test_a_client_that_is_cut_while_its_stream_sends_leaves_nothing(
    orders: AsyncEngine,
) -> None:
    """Without the garbage collector."""

    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(request, watcher.follow(Order, 1), OrderOut)

    app = app_of(orders, begin)

    async def opened(request: Request, watcher: WatcherDep) -> EventStream:
        app.state.watcher = watcher
        return await begin(request, watcher)  # type: ignore[no-any-return]

    @app.get("/large", response_class=EventSourceResponse)
    async def large(
        stream: Annotated[EventStream, Depends(opened)],
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in stream:
            for _ in range(10_000):
                yield ServerSentEvent(raw_data="x" * 10_000)
            yield event

    gc.disable()
    try:
        async with serve(app, lifespan=True) as url:
            host, port = url.removeprefix("http://").split(":")
            reading, writing = await asyncio.open_connection(host, int(port))
            writing.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reading.readuntil(b"data: x")
            writing.transport.abort()
            watcher: RowWatcher = app.state.watcher
            async with asyncio.timeout(20):
                await watcher.reached(lambda _: len(watcher._board.watches) == 0)
    finally:
        gc.enable()


async def test_of_two_headers_with_tags_both_count(orders: AsyncEngine) -> None:
    app = FastAPI(lifespan=lifespan(orders))

    @app.get("/")
    async def poll(request: Request, watcher: WatcherDep) -> Any:
        return await long_poll(request, watcher.follow(Order, 1), OrderOut, timeout=0.1)

    async with serve(app, lifespan=True) as url, httpx.AsyncClient() as http:
        tag = (await http.get(url)).headers["ETag"]
        headers = [("If-None-Match", '"other"'), ("If-None-Match", tag)]
        assert (await http.get(url, headers=headers)).status_code == 304


async def test_an_error_of_the_check_is_not_the_end_of_the_source(orders: AsyncEngine) -> None:
    def check(order: Order) -> bool:
        if order.n:
            raise HTTPException(503)
        return True

    def begin(request: Request, watcher: RowWatcher) -> Any:
        return event_stream(request, watcher.follow(Order, 1), OrderOut, check=check)

    async with serve(app_of(orders, begin), lifespan=True) as url, listening(url) as client:
        await anext(client)
        await execute(orders, ROW.values(n=1))
        [end] = await client.rest()
        assert end.data == {"reason": "closed"}  # it may come back
