"""``rowbell.fastapi.lifespan``: an application's watchers, and the signals that end them."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell import InvalidArgumentError, RowWatcher, UnsupportedEngineError, WatcherStateError
from rowbell.fastapi import WatcherDep, lifespan, watcher_of
from support.models import Order
from support.web import serve


def app_with(*, on: Any) -> FastAPI:
    """An app, one of whose endpoints says which watcher it has."""
    app = FastAPI(lifespan=on)

    @app.get("/")
    async def which(watcher: WatcherDep) -> str:
        return repr(watcher)

    return app


async def test_an_endpoint_gets_the_watcher_which_is_open_as_long_as_the_app(
    orders: AsyncEngine,
) -> None:
    app = FastAPI(lifespan=lifespan(orders))
    seen: list[RowWatcher] = []

    @app.get("/{key}")
    async def status(key: int, watcher: WatcherDep) -> str:
        seen.append(watcher)
        return (await watcher.wait_for_change(Order, key, since={"status": "old"})).status

    for _ in range(2):  # an app may be started again
        async with serve(app, lifespan=True) as url, httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/1")).json() == "new"
            assert repr(seen[-1]).endswith(("listening>", "connecting>"))
        assert repr(seen[-1]).endswith("closed>")
    assert seen[0] is not seen[1]


async def test_it_may_stand_in_a_lifespan_of_your_own(orders: AsyncEngine) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        async with lifespan(orders)(app) as state:
            yield {**state, "own": 1}
        ended.append("own")

    async with serve(app_with(on=own), lifespan=True) as url, httpx.AsyncClient() as http:
        assert (await http.get(url)).status_code == 200
    assert ended == ["own"]


async def test_lifespans_of_an_app_and_its_routers_share_one_watcher(orders: AsyncEngine) -> None:
    router = APIRouter(lifespan=lifespan(orders))

    @router.get("/routed")
    async def routed(watcher: WatcherDep) -> int:
        return id(watcher)

    app = FastAPI(lifespan=lifespan(orders))
    app.include_router(router)

    @app.get("/")
    async def own(watcher: WatcherDep) -> int:
        return id(watcher)

    async with serve(app, lifespan=True) as url, httpx.AsyncClient() as http:
        assert (await http.get(url)).json() == (await http.get(f"{url}/routed")).json()


async def test_a_mounted_app_has_the_watcher_of_the_app_that_it_is_mounted_on(
    orders: AsyncEngine,
) -> None:
    app = FastAPI(lifespan=lifespan(orders))
    app.mount("/mounted", app_with(on=None))
    async with serve(app, lifespan=True) as url, httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/mounted/")).status_code == 200


async def test_arguments_are_given_to_the_first_lifespan_only(orders: AsyncEngine) -> None:
    app = FastAPI()
    async with lifespan(orders, mode="poll")(app):
        with pytest.raises(WatcherStateError, match=r"give the arguments \['recheck'\]"):
            async with lifespan(orders, recheck=5)(app):
                pass


async def test_two_databases_have_two_watchers(orders: AsyncEngine, database: URL) -> None:
    other = create_async_engine(database)

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        async with lifespan(orders)(app), lifespan(other, mode="poll")(app) as state:
            yield state

    app = app_with(on=both)

    @app.get("/other")
    async def named(watcher: Annotated[RowWatcher, Depends(watcher_of(other))]) -> str:
        return repr(watcher)

    async with serve(app, lifespan=True) as url, httpx.AsyncClient() as http:
        assert "polling" in (await http.get(f"{url}/other")).json()
        assert (await http.get(url)).status_code == 500
    with pytest.raises(WatcherStateError, match=r"2 watchers: name the engine"):
        async with both(app):
            await _get(app)
    await other.dispose()


async def test_without_a_lifespan_the_error_says_what_to_write() -> None:
    with pytest.raises(WatcherStateError, match=r"FastAPI\(lifespan=rowbell.fastapi.lifespan"):
        await _get(app_with(on=None))


async def test_no_watcher_of_that_engine_says_what_to_write(orders: AsyncEngine) -> None:
    app = FastAPI()

    @app.get("/")
    async def named(watcher: Annotated[RowWatcher, Depends(watcher_of(orders))]) -> None: ...

    with pytest.raises(WatcherStateError, match="no open watcher of the engine"):
        await _get(app)


async def _get(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        await http.get("/")


async def test_the_app_starts_while_the_database_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    engine = create_async_engine(f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none")
    async with serve(app_with(on=lifespan(engine)), lifespan=True) as url:
        async with httpx.AsyncClient() as http:
            assert (await http.get(url)).status_code == 200
    await engine.dispose()


async def test_a_bad_argument_is_refused_at_the_call(orders: AsyncEngine) -> None:
    with pytest.raises(InvalidArgumentError, match="mode must be"):
        lifespan(orders, mode="sometimes")
    with pytest.raises(UnsupportedEngineError):
        lifespan(orders.sync_engine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- signals


@pytest.fixture
def before() -> Iterator[list[int]]:
    """Handlers that were there before; the signals that they got."""
    got: list[int] = []
    kept = {
        number: signal.signal(number, lambda number, _: got.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    yield got
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_the_streams_and_reaches_who_had_it_before(
    orders: AsyncEngine, before: list[int], number: signal.Signals
) -> None:
    mine = signal.getsignal(number)
    async with lifespan(orders)(FastAPI()) as state:
        [watcher] = state["rowbell_watchers"].values()
        follow = watcher.follow(Order, 1)
        await anext(follow)
        waiting = asyncio.create_task(anext(follow))
        os.kill(os.getpid(), number)
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert (follow.ended, before) == ("closed", [number])
    assert signal.getsignal(number) is mine


async def test_a_handler_that_was_set_later_is_kept(orders: AsyncEngine, before: list[int]) -> None:
    def later(number: int, frame: Any) -> None: ...

    async with lifespan(orders)(FastAPI()):
        signal.signal(signal.SIGTERM, later)
    assert signal.getsignal(signal.SIGTERM) is later


async def test_a_signal_that_nobody_handles_is_left_alone(
    orders: AsyncEngine, before: list[int]
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    async with lifespan(orders)(FastAPI()):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_nested_lifespans_put_the_handlers_back_in_order(
    orders: AsyncEngine, database: URL, before: list[int]
) -> None:
    mine, other = signal.getsignal(signal.SIGTERM), create_async_engine(database)
    app = FastAPI()
    async with lifespan(orders)(app), lifespan(other)(app) as state:
        os.kill(os.getpid(), signal.SIGTERM)
        for watcher in state["rowbell_watchers"].values():
            await watcher.streams_closing.wait()
    assert before == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is mine
    await other.dispose()


def test_outside_of_the_main_thread_no_signal_is_touched(database: URL) -> None:
    mine, seen = signal.getsignal(signal.SIGTERM), []

    async def run() -> None:
        engine = create_async_engine(database)
        async with lifespan(engine, mode="poll")(FastAPI()):
            seen.append(signal.getsignal(signal.SIGTERM))
        await engine.dispose()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()
    assert seen == [mine]
