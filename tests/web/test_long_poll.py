"""Long polls: the answer, the client that leaves, and the process that is to end."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import ClientDisconnect

from rowbell import InvalidArgumentError, RowWatcher
from rowbell.fastapi import (
    WatcherDep,
    add_exception_handlers,
    lifespan,
    long_poll,
    run_while_connected,
)
from support.models import Order
from support.observed import execute
from support.requests import client
from support.waits import QUICK
from support.web import serve

ROW = update(Order).where(Order.id == 1)


class OrderOut(BaseModel):
    id: int
    n: int


class Outcome:
    """How an endpoint has ended."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.ended = asyncio.Event()


def waiting(engine: AsyncEngine, outcome: Outcome, *, middleware: bool = False) -> FastAPI:
    """Endpoints that wait until order 1 has n = 1."""
    app = FastAPI(lifespan=lifespan(engine, recheck=None, timing=QUICK))
    add_exception_handlers(app)

    async def wait(request: Request, watcher: RowWatcher) -> int:
        app.state.watcher = watcher
        try:
            wait = watcher.wait_for_change(Order, 1, until=Order.n == 1)
            return (await run_while_connected(request, wait)).n
        except BaseException as error:
            outcome.error = error
            raise
        finally:
            outcome.ended.set()

    @app.get("/")
    async def get(request: Request, watcher: WatcherDep) -> int:
        return await wait(request, watcher)

    @app.post("/read")
    async def post(request: Request, watcher: WatcherDep, body: dict[str, int]) -> int:
        return await wait(request, watcher) + body["n"]

    @app.post("/unread")
    async def unread(request: Request, watcher: WatcherDep) -> int:
        return await wait(request, watcher) + int((await request.json())["n"])

    @app.post("/form")
    async def form(request: Request, watcher: WatcherDep) -> int:
        n = (await request.form())["n"]
        return await wait(request, watcher) + int(str(n))

    if middleware:

        @app.middleware("http")
        async def add_header(request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["X-Seen"] = "1"
            return response

    return app


REQUESTS: dict[str, dict[str, Any]] = {
    "GET": {"method": "GET", "url": "/"},
    "POST": {"method": "POST", "url": "/read", "json": {"n": 1}},
    "POST, body not read": {"method": "POST", "url": "/unread", "json": {"n": 1}},
    "POST, a form": {
        "method": "POST",
        "url": "/form",
        "content": "n=1",
        "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    },
}


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_wait_ends_when_its_client_leaves(
    orders: AsyncEngine, name: str, middleware: bool
) -> None:
    outcome = Outcome()
    app = waiting(orders, outcome, middleware=middleware)
    async with serve(app, lifespan=True) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            leaving = asyncio.create_task(http.request(**REQUESTS[name]))
            async with asyncio.timeout(20):
                while not hasattr(app.state, "watcher"):
                    await asyncio.sleep(0.01)
            await app.state.watcher.reached(lambda now: now.armed == 1)
            leaving.cancel()
            await asyncio.wait({leaving})
        await asyncio.wait_for(outcome.ended.wait(), 20)
        assert isinstance(outcome.error, ClientDisconnect)
        await app.state.watcher.reached(lambda now: now.armed + now.polled == 0)


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_client_that_stays_gets_its_answer(
    orders: AsyncEngine, name: str, middleware: bool
) -> None:
    app = waiting(orders, Outcome(), middleware=middleware)
    await execute(orders, ROW.values(n=1))
    async with (
        serve(app, lifespan=True) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        answer = await http.request(**REQUESTS[name])
        assert answer.json() == (1 if name == "GET" else 2)
        assert ("X-Seen" in answer.headers) == middleware


async def test_a_wait_is_503_when_the_process_is_to_end(orders: AsyncEngine) -> None:
    app = waiting(orders, Outcome())
    async with serve(app, lifespan=True) as url, httpx.AsyncClient(base_url=url) as http:
        asked = asyncio.create_task(http.get("/"))
        async with asyncio.timeout(20):
            while not hasattr(app.state, "watcher"):
                await asyncio.sleep(0.01)
        await app.state.watcher.reached(lambda now: now.armed == 1)
        app.state.watcher.close_streams()
        answer = await asked
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 5


async def test_an_error_stays_what_it_is() -> None:
    app = FastAPI()

    async def refuse() -> None:
        raise HTTPException(418)

    @app.get("/")
    async def get(request: Request) -> None:
        await run_while_connected(request, refuse())

    async with client(app) as http:
        assert (await http.get("/")).status_code == 418


async def test_a_client_that_has_left_before_leaves_no_coroutine_behind() -> None:
    async def left() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def never() -> None:
        raise AssertionError

    scope = {"type": "http", "headers": [], "method": "GET", "app": FastAPI()}
    request = Request(scope, receive=left)
    with pytest.raises(ClientDisconnect):
        await run_while_connected(request, never())


def polled(engine: AsyncEngine, **more: Any) -> FastAPI:
    """The endpoint of the docs."""
    app = FastAPI(lifespan=lifespan(engine, recheck=None, timing=QUICK))
    add_exception_handlers(app)

    @app.get("/{key}")
    async def poll(
        key: int, request: Request, watcher: WatcherDep, seconds: float = 25
    ) -> Response:
        app.state.watcher = watcher
        follow = watcher.follow(Order, key)
        return await long_poll(request, follow, OrderOut, timeout=seconds, **more)

    return app


async def test_a_poll_answers_with_the_next_state_that_the_client_has_not_seen(
    orders: AsyncEngine,
) -> None:
    app = polled(orders)
    async with serve(app, lifespan=True) as url, httpx.AsyncClient(base_url=url) as http:
        first = await http.get("/1")
        assert (first.status_code, first.json()) == (200, {"id": 1, "n": 0})
        assert first.headers["Content-Type"] == "application/json"
        known = {"If-None-Match": first.headers["ETag"]}
        asked = asyncio.create_task(http.get("/1", headers=known))
        await app.state.watcher.reached(lambda now: now.armed == 1)
        await execute(orders, ROW.values(note="not in the model"))
        await execute(orders, ROW.values(n=1))
        second = await asked
        assert second.json() == {"id": 1, "n": 1}
        assert second.headers["ETag"] != first.headers["ETag"]
        again = await http.get("/1", headers=known)
        assert again.json() == {"id": 1, "n": 1}
        await app.state.watcher.reached(lambda now: now.armed + now.polled == 0)


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '"other",W/{}'])
async def test_nothing_new_is_304(orders: AsyncEngine, form: str) -> None:
    async with serve(polled(orders), lifespan=True) as url, httpx.AsyncClient(base_url=url) as http:
        tag = (await http.get("/1")).headers["ETag"]
        known = {"If-None-Match": form.format(tag)}
        answer = await http.get("/1", params={"seconds": 1}, headers=known)
        assert (answer.status_code, answer.headers["ETag"], answer.content) == (304, tag, b"")


@pytest.mark.parametrize("known", ["", "*", "x", '"', '"none"'])
async def test_an_unusable_tag_is_none(orders: AsyncEngine, known: str) -> None:
    async with serve(polled(orders), lifespan=True) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/1", headers={"If-None-Match": known})).status_code == 200


async def test_a_missing_or_deleted_row_is_404(orders: AsyncEngine) -> None:
    app = polled(orders)
    async with serve(app, lifespan=True) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/999")).status_code == 404
        known = {"If-None-Match": (await http.get("/1")).headers["ETag"]}
        asked = asyncio.create_task(http.get("/1", headers=known))
        await app.state.watcher.reached(lambda now: now.armed == 1)
        await execute(orders, delete(Order).where(Order.id == 1))
        assert (await asked).status_code == 404


async def test_the_check_is_asked_for_each_state_of_a_poll(orders: AsyncEngine) -> None:
    app = polled(orders, check=lambda order: order.n == 0)
    async with serve(app, lifespan=True) as url, httpx.AsyncClient(base_url=url) as http:
        known = {"If-None-Match": (await http.get("/1")).headers["ETag"]}
        asked = asyncio.create_task(http.get("/1", headers=known))
        await app.state.watcher.reached(lambda now: now.armed == 1)
        await execute(orders, ROW.values(n=1))
        assert (await asked).status_code == 403


async def test_a_poll_is_503_when_the_process_is_to_end(orders: AsyncEngine) -> None:
    app = polled(orders)
    async with serve(app, lifespan=True) as url, httpx.AsyncClient(base_url=url) as http:
        known = {"If-None-Match": (await http.get("/1")).headers["ETag"]}
        asked = asyncio.create_task(http.get("/1", headers=known))
        await app.state.watcher.reached(lambda now: now.armed == 1)
        app.state.watcher.close_streams()
        assert (await asked).status_code == 503
        assert (await http.get("/1")).status_code == 503


async def test_a_bad_argument_of_a_poll_is_refused_at_the_call(orders: AsyncEngine) -> None:
    request = Request({"type": "http", "headers": []})
    async with RowWatcher(orders) as watcher:
        with pytest.raises(InvalidArgumentError, match="timeout must be"):
            await long_poll(request, watcher.follow(Order, 1), OrderOut, timeout=-1)
        many: Any = watcher.follow_many(Order, [1])
        with pytest.raises(InvalidArgumentError, match=r"source must be what watcher.follow\(\)"):
            await long_poll(request, many, OrderOut)
        with pytest.raises(InvalidArgumentError, match="model must be"):
            await long_poll(request, watcher.follow(Order, 1), None)
