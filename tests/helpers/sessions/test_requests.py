"""The session of a request: when it commits, and what happens if it does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import anyio
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from rowbell import SessionStateError, create_db_dependency, get_transaction
from rowbell.fastapi import SessionDep, StreamingSessionDep, add_sessions
from support.models import Plain
from support.requests import SCOPES, OwnSession, app_of, client, count, in_use, in_use_by
from support.web import serve


@SCOPES
async def test_a_request_commits_and_an_exception_rolls_back(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession], scope: Any
) -> None:
    async with client(app_of(maker, scope)) as http:
        answer = await http.post("/plain/1")
        assert (answer.status_code, answer.json()) == (200, "OwnSession")
        assert (await http.post("/failing/2")).status_code == 418
        await http.post("/plain/1")
        assert (await http.get("/connected")).json() is True
    assert await count(engine) == 1
    assert in_use(engine) == 0


async def test_a_commit_that_fails_is_a_500_and_never_a_200(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """Tested over a real socket: a response that the client has received is final."""
    async with serve(app_of(maker, "function")) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/deferred")).status_code == 500
        assert (await http.post("/plain/1")).status_code == 200
    assert await count(engine) == 1


async def test_without_the_scope_the_200_is_sent_before_the_commit(
    maker: async_sessionmaker[OwnSession],
) -> None:
    """For this reason the docs say ``scope="function"``."""
    async with serve(app_of(maker, None)) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/deferred")).status_code == 200


async def test_what_was_answered_is_committed(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """After the response, the client finds the new row through any other process."""
    async with serve(app_of(maker, "function")) as url, httpx.AsyncClient(base_url=url) as http:
        for key in range(30):
            await http.post(f"/plain/{key}")
            assert await count(engine) == key + 1


async def test_nested_dependencies_share_one_session(
    maker: async_sessionmaker[OwnSession],
) -> None:
    """So they also share one connection and one transaction."""
    app = FastAPI()
    get_db = create_db_dependency(maker)

    async def current_user(
        session: Annotated[OwnSession, Depends(get_db, scope="function")],
    ) -> int:
        session.add(Plain(id=1))
        return id(session)

    async def permission(
        session: Annotated[OwnSession, Depends(get_db, scope="function")],
        user: Annotated[int, Depends(current_user, scope="function")],
    ) -> int:
        assert await session.get(Plain, 1) is not None
        return user

    @app.post("/")
    async def endpoint(
        session: Annotated[OwnSession, Depends(get_db, scope="function")],
        user: Annotated[int, Depends(permission, scope="function")],
    ) -> bool:
        return user == id(session) and in_use_by(session) == 1

    async with client(app) as http:
        assert (await http.post("/")).json() is True


async def test_a_streaming_response_may_go_on_using_the_session(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    app = FastAPI()
    add_sessions(app, maker)  # type: ignore[arg-type]

    @app.get("/")
    async def stream(session: StreamingSessionDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for key in range(3):
                session.add(Plain(id=key))
                await session.flush()
                yield f"{await session.scalar(select(func.count()).select_from(Plain))}\n"

        return StreamingResponse(lines())

    async with client(app) as http:
        assert (await http.get("/")).text == "1\n2\n3\n"
    assert await count(engine) == 3


async def test_a_client_that_leaves_rolls_back_and_gives_the_connection_back(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    app, ended = FastAPI(), asyncio.Event()
    add_sessions(app, maker)  # type: ignore[arg-type]

    @app.get("/")
    async def stream(session: StreamingSessionDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            session.add(Plain(id=1))
            await session.flush()
            try:
                while True:
                    await session.execute(text("SELECT pg_sleep(0.01)"))
                    yield "line\n" * 1_000
            finally:
                ended.set()

        return StreamingResponse(lines())

    async with serve(app) as url, httpx.AsyncClient() as http:
        async with http.stream("GET", url) as response:
            assert await anext(response.aiter_text())
            assert in_use(engine) == 1
        await asyncio.wait_for(ended.wait(), 20)
        with anyio.fail_after(20):
            while in_use(engine):
                await asyncio.sleep(0.01)  # a pool does not announce a returned connection
    assert await count(engine) == 0


async def test_a_failed_statement_whose_error_was_caught_is_not_taken_for_success(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """PostgreSQL rolls back such a transaction at COMMIT, and reports no error."""
    app = FastAPI()
    add_sessions(app, maker)  # type: ignore[arg-type]
    twice = text("INSERT INTO plain SELECT 1, 0 FROM generate_series(1, 2)")

    @app.post("/caught")
    async def caught(session: SessionDep) -> str:
        session.add(Plain(id=7))
        await session.flush()
        with suppress(DBAPIError):
            await session.execute(twice)
        return "created"

    @app.post("/undone")
    async def undone(session: SessionDep) -> str:
        session.add(Plain(id=8))
        with suppress(DBAPIError):
            async with get_transaction(session):
                await session.execute(twice)
        return "created"

    async with client(app) as http:
        assert (await http.post("/caught")).status_code == 500
        assert await count(engine) == 0
        assert (await http.post("/undone")).status_code == 200
        assert await count(engine) == 1
    async with maker() as session:
        with pytest.raises(SessionStateError, match="a commit would store nothing"):
            async with get_transaction(session):
                with pytest.raises(DBAPIError):
                    await session.execute(twice)
        assert not session.in_transaction()


async def test_a_request_works_after_the_connection_was_lost_in_another(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    app = FastAPI()
    add_sessions(app, maker)  # type: ignore[arg-type]

    @app.get("/")
    async def endpoint(session: SessionDep, *, die: bool = False) -> int:
        if die:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return int(await session.scalar(text("SELECT 1")) or 0)

    async with client(app) as http:
        assert (await http.get("/", params={"die": True})).status_code == 500
        assert (await http.get("/")).status_code == 200


async def test_a_background_task_cannot_go_on_with_a_session_that_has_ended(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """It gets an error. Otherwise its write would be lost, and its connection not returned."""
    app, raised = FastAPI(), list[str]()
    add_sessions(app, maker)  # type: ignore[arg-type]

    @app.post("/")
    async def post(session: SessionDep, background: BackgroundTasks) -> None:
        async def work() -> None:
            try:
                session.add(Plain(id=2))
                await session.flush()
            except InvalidRequestError as error:
                raised.append(str(error))

        session.add(Plain(id=1))
        background.add_task(work)

    async with client(app) as http:
        await http.post("/")
    assert "permanently closed" in raised[0]
    assert await count(engine) == 1
    assert in_use(engine) == 0
