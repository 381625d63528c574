"""``rowbell.fastapi``: the dependencies, the error handlers, and long polls."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from rowbell import (
    LockTimeoutError,
    NotFoundError,
    RowWatcher,
    SessionStateError,
    WaitTimeoutError,
    lock_tables,
    wait_for_row_change,
)
from rowbell.fastapi import SessionDep, add_exception_handlers, add_sessions, run_while_connected
from support.models import Plain
from support.observed import execute
from support.requests import OwnSession, client, count, in_use
from support.web import serve


async def test_a_parameter_of_type_session_dep_is_all_an_endpoint_needs(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    app = FastAPI()
    add_sessions(app, maker)  # type: ignore[arg-type]

    @app.post("/{key}")
    async def create(key: int, session: SessionDep) -> None:
        session.add(Plain(id=key))

    @app.post("/deferred/")
    async def deferred(session: SessionDep) -> None:
        await session.execute(text("INSERT INTO checked VALUES (1, 77)"))

    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/1")).status_code == 200
        assert await count(engine) == 1
        assert (await http.post("/deferred/")).status_code == 500


async def test_an_app_without_sessions_says_what_to_call() -> None:
    app = FastAPI()

    @app.get("/")
    async def endpoint(session: SessionDep) -> None:
        pass

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as http:
        with pytest.raises(SessionStateError, match=r"add_sessions\(app, session_maker\)"):
            await http.get("/")


async def test_errors_are_answered_and_only_the_log_says_more(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession], caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    add_sessions(app, maker)  # type: ignore[arg-type]
    add_exception_handlers(app)

    @app.get("/missing")
    async def missing(session: SessionDep) -> None:
        raise NotFoundError(Plain, {"id": "secret"})

    @app.get("/locked")
    async def locked(session: SessionDep) -> None:
        async with lock_tables(session, [Plain], timeout="10ms"):
            pass

    async with client(app) as http:
        answer = await http.get("/missing")
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
        async with AsyncSession(engine) as other, lock_tables(other, [Plain]):
            answer = await http.get("/locked")
        assert (answer.status_code, answer.json()) == (409, {"detail": "Conflict"})
        assert answer.headers["retry-after"] == "1"
        async with engine.connect(), engine.connect():
            answer = await http.get("/locked")
        assert (answer.status_code, answer.json()) == (503, {"detail": "Service Unavailable"})
        assert answer.headers["retry-after"] == "1"
    warnings = [record.getMessage() for record in caplog.records if record.name == "rowbell"]
    assert len(warnings) == 2
    assert warnings[0].startswith('GET /locked: no SHARE UPDATE EXCLUSIVE lock on "plain"')
    assert "pool_size 2" in warnings[1]
    assert "secret" not in caplog.text


async def test_a_handler_of_the_apps_own_takes_over(maker: async_sessionmaker[OwnSession]) -> None:
    app = FastAPI()
    add_exception_handlers(app)

    @app.exception_handler(LockTimeoutError)
    async def busy(request: Any, error: LockTimeoutError) -> JSONResponse:
        return JSONResponse({"objects": error.objects}, 423)

    @app.get("/")
    async def endpoint() -> None:
        raise LockTimeoutError(["a"], "SHARE", "5s")

    async with client(app) as http:
        answer = await http.get("/")
    assert (answer.status_code, answer.json()) == (423, {"objects": ["a"]})


def polling(engine: AsyncEngine, ended: asyncio.Event) -> FastAPI:
    """The endpoint of the README."""
    app, new_session = FastAPI(), async_sessionmaker(engine)
    add_exception_handlers(app)

    @app.get("/{key}", response_model=str)
    async def poll(key: int, request: Request, seconds: float = 60) -> str | Response:
        try:
            async with new_session() as session:
                wait = wait_for_row_change(session, Plain, key, timeout=seconds)
                try:
                    await run_while_connected(request, wait)
                except WaitTimeoutError:
                    return Response(status_code=204)
                return "changed"
        finally:
            ended.set()

    return app


async def test_a_long_poll_ends_when_its_client_leaves(engine: AsyncEngine) -> None:
    """It ends before its timeout, and leaves nothing behind."""
    async with AsyncSession(engine) as session:
        session.add(Plain(id=1))
        await session.commit()
    ended = asyncio.Event()
    async with RowWatcher(engine) as watcher, serve(polling(engine, ended)) as url:
        async with httpx.AsyncClient() as http:
            leaving = asyncio.create_task(http.get(f"{url}/1"))
            await watcher.reached(lambda now: now.armed + now.polled == 1)
            leaving.cancel()
            await asyncio.wait({leaving})
        await asyncio.wait_for(ended.wait(), 20)
        await watcher.reached(lambda now: now.armed + now.polled == 0)
    assert in_use(engine) == 0


async def test_a_long_poll_answers_what_has_happened(engine: AsyncEngine) -> None:
    """No change, a change, a missing row, a shutdown."""
    async with AsyncSession(engine) as session:
        session.add(Plain(id=1))
        await session.commit()
    app = polling(engine, asyncio.Event())
    async with RowWatcher(engine) as watcher, serve(app) as url, httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/1", params={"seconds": 0.05})).status_code == 204
        assert (await http.get(f"{url}/2")).status_code == 404
        before = watcher.statistics().rereads
        asked = asyncio.create_task(http.get(f"{url}/1"))
        await watcher.reached(
            lambda now: now.rereads > before
        )  # the row was read before the change
        await execute(engine, update(Plain).values(n=Plain.n + 1))
        assert (await asked).json() == "changed"
        asked = asyncio.create_task(http.get(f"{url}/1"))
        await watcher.reached(lambda now: now.armed + now.polled == 1)
        await watcher.aclose()
        assert (await asked).status_code == 503
