"""Sessions of requests and workers: when they commit, and what is left when they do not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import anyio
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import URL, ForeignKey, func, select, text, update
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import QueuePool

from rowbell import (
    LockTimeoutError,
    NotFoundError,
    PoolExhaustedError,
    RowWatcher,
    SessionStateError,
    UnsupportedEngineError,
    WaitTimeoutError,
    create_db_context,
    create_db_dependency,
    get_transaction,
    lock_tables,
    wait_for_row_change,
)
from rowbell.fastapi import (
    SessionDep,
    StreamingSessionDep,
    add_exception_handlers,
    add_sessions,
    while_connected,
)
from support.models import Plain
from support.observed import execute
from support.web import serve


class Base(DeclarativeBase):
    pass


class Checked(Base):
    """A row that only its commit can refuse."""

    __tablename__ = "checked"
    id: Mapped[int] = mapped_column(primary_key=True)
    plain_id: Mapped[int] = mapped_column(
        ForeignKey("plain.id", deferrable=True, initially="DEFERRED")
    )


class OwnSession(AsyncSession):
    """A subclass, as applications have them."""


@pytest.fixture
async def engine(database: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database, pool_size=2, max_overflow=0, pool_timeout=0.2)
    await execute(
        engine,
        "CREATE TABLE checked (id int PRIMARY KEY, "
        "plain_id int REFERENCES plain DEFERRABLE INITIALLY DEFERRED)",
    )
    yield engine
    assert in_use(engine) == 0
    await engine.dispose()


@pytest.fixture
def maker(engine: AsyncEngine) -> async_sessionmaker[OwnSession]:
    return async_sessionmaker(engine, class_=OwnSession)


def in_use(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(select(func.count()).select_from(Plain)) or 0)


def client(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def app_of(maker: async_sessionmaker[OwnSession], scope: Any) -> FastAPI:
    """An app with the dependency in one of its scopes."""
    app = FastAPI()
    get_db = create_db_dependency(maker)

    @app.post("/plain/{key}")
    async def create(key: int, session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> str:
        session.add(Plain(id=key))
        return type(session).__name__

    @app.post("/failing/{key}")
    async def failing(
        key: int, session: Annotated[OwnSession, Depends(get_db, scope=scope)]
    ) -> None:
        session.add(Plain(id=key))
        await session.flush()
        raise HTTPException(418)

    @app.post("/deferred")
    async def deferred(session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> str:
        await session.execute(text("INSERT INTO checked VALUES (1, 77)"))
        return "created"

    @app.post("/nothing")
    async def nothing() -> None:
        pass

    @app.get("/connected")
    async def connected(session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> bool:
        return session.in_transaction() and in_use_by(session) == 1

    return app


def in_use_by(session: AsyncSession) -> int:
    pool = session.get_bind().engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


SCOPES = pytest.mark.parametrize("scope", ["function", None])


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
    """Over a real socket: what the client has received cannot be taken back."""
    async with serve(app_of(maker, "function")) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/deferred")).status_code == 500
        assert (await http.post("/plain/1")).status_code == 200
    assert await count(engine) == 1


async def test_without_the_scope_the_200_is_sent_before_the_commit(
    maker: async_sessionmaker[OwnSession],
) -> None:
    """Why the docs tell to use scope="function"."""
    async with serve(app_of(maker, None)) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/deferred")).status_code == 200


async def test_what_was_answered_is_committed(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """A client that asks somebody else right after its answer finds what it created."""
    async with serve(app_of(maker, "function")) as url, httpx.AsyncClient(base_url=url) as http:
        for key in range(30):
            await http.post(f"/plain/{key}")
            assert await count(engine) == key + 1


@SCOPES
async def test_an_exhausted_pool_fails_before_the_endpoint_runs(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession], scope: Any
) -> None:
    app, ran = app_of(maker, scope), []
    get_db = create_db_dependency(maker)

    @app.get("/ran")
    async def endpoint(session: Annotated[OwnSession, Depends(get_db, scope=scope)]) -> None:
        ran.append(session)

    async with engine.connect(), engine.connect(), client(app) as http:
        assert (await http.get("/ran")).status_code == 500
    assert not ran


async def test_pool_exhaustion_is_one_error_that_says_what_was_exhausted(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    db = create_db_context(maker)
    async with engine.connect(), engine.connect():
        with pytest.raises(PoolExhaustedError) as caught:
            async with db():
                pass
    error = caught.value
    assert isinstance(error, PoolTimeoutError | SQLAlchemyError)
    assert isinstance(error, TimeoutError)
    assert (error.size, error.overflow, error.waited) == (2, 0, 0.2)
    for part in ("0.2s", "pool_size 2", "all 2 ", "max_overflow 0"):
        assert part in str(error)
    with pytest.raises(PoolExhaustedError):
        async with db() as session:
            await session.commit()
            async with engine.connect(), engine.connect():
                await session.execute(text("SELECT 1"))


async def test_the_error_of_a_session_inside_another_stays_as_it_is(
    maker: async_sessionmaker[OwnSession],
) -> None:
    db = create_db_context(maker)
    with pytest.raises(PoolExhaustedError) as caught:
        async with db(), db(), db():
            pass
    assert isinstance(caught.value.__cause__, PoolTimeoutError)
    assert not isinstance(caught.value.__cause__, PoolExhaustedError)


async def test_the_exhaustion_of_another_pool_is_told_with_its_own_numbers(
    maker: async_sessionmaker[OwnSession], database: Any
) -> None:
    elsewhere = create_async_engine(database, pool_size=1, max_overflow=1, pool_timeout=0.01)
    async with elsewhere.connect(), elsewhere.connect():
        with pytest.raises(PoolExhaustedError) as caught:
            async with create_db_context(maker)():
                await (await elsewhere.connect()).close()
    assert (caught.value.size, caught.value.overflow, caught.value.waited) == (1, 1, 0.01)
    await elsewhere.dispose()


async def test_nested_dependencies_share_one_session(
    maker: async_sessionmaker[OwnSession],
) -> None:
    """And so one connection, and one transaction."""
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
                await asyncio.sleep(0.01)  # a pool tells nobody what returns to it
    assert await count(engine) == 0


async def test_cancelled_at_any_moment_a_session_gives_its_connection_back(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """Before anything else runs: no clean-up goes on behind the cancelled task's back."""
    db = create_db_context(maker)
    for number in range(60):
        with anyio.move_on_after(number / 3_000):
            async with db() as session:
                session.add(Plain(id=1))
                await session.flush()
                await session.execute(text("SELECT pg_sleep(0.002)"))
                await anyio.sleep_forever()
        assert in_use(engine) == 0
    assert await count(engine) == 0


async def test_cancelled_again_while_it_ends_a_session_leaves_its_connection_whole(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """By Task.cancel(), which no shield keeps out: the next user finds a connection that works."""
    db = create_db_context(maker)

    async def work() -> None:
        async with db() as session:
            session.add(Plain(id=1))
            await session.flush()
            inside.set()
            await anyio.sleep_forever()

    for steps in range(15):
        inside = asyncio.Event()
        task = asyncio.create_task(work())
        await inside.wait()
        for _ in range(steps):
            task.cancel()
            await asyncio.sleep(0)  # another step of its clean-up each time
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert in_use(engine) == 0
        assert await count(engine) == 0


async def test_a_session_that_is_bound_per_model_gets_its_connections_as_it_needs_them(
    engine: AsyncEngine,
) -> None:
    maker = async_sessionmaker(binds={Plain: engine})
    async with create_db_context(maker)() as session:
        session.add(Plain(id=1))
    assert await count(engine) == 1


async def test_the_endpoint_may_commit_and_roll_back_itself(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    async with create_db_context(maker)() as session:
        session.add(Plain(id=1))
        await session.commit()
        session.add(Plain(id=2))
        await session.flush()
        await session.rollback()
    assert await count(engine) == 1


async def test_a_failed_statement_whose_error_was_caught_is_not_taken_for_success(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """PostgreSQL rolls such a transaction back when it is told to commit, and reports no error."""
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


# -- get_transaction


async def test_outside_a_transaction_the_block_is_one(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    async with maker() as session:
        async with get_transaction(session) as same:
            assert same is session
            session.add(Plain(id=1))
        assert not session.in_transaction()
        with pytest.raises(LookupError):
            async with get_transaction(session):
                session.add(Plain(id=2))
                await session.flush()
                raise LookupError
        assert not session.in_transaction()
    assert await count(engine) == 1


async def test_inside_a_transaction_only_the_block_is_undone(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    async with maker() as session:
        session.add(Plain(id=1))
        await session.flush()
        with pytest.raises(DBAPIError):
            async with get_transaction(session):
                await session.execute(text("INSERT INTO plain VALUES (1, 0)"))
        async with get_transaction(session), get_transaction(session):
            session.add(Plain(id=3))
        assert session.in_transaction()
        await session.commit()
    assert await count(engine) == 2


async def test_a_cancelled_block_is_undone_and_the_transaction_around_it_goes_on(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """Anyio cancels every await in the scope again, that of the rollback too."""
    async with maker() as session:
        session.add(Plain(id=1))
        await session.flush()
        with anyio.move_on_after(0.05):
            async with get_transaction(session):
                session.add(Plain(id=2))
                await session.flush()
                await anyio.sleep_forever()
        session.add(Plain(id=3))
        await session.commit()
    async with engine.connect() as connection:
        assert set(await connection.scalars(select(Plain.id))) == {1, 3}


# -- rowbell.fastapi


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


async def test_the_servers_connection_is_lost_in_a_request_and_the_next_one_works(
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


# -- what outlives its request, and what its client outlives


async def test_a_background_task_cannot_go_on_with_a_session_that_has_ended(
    engine: AsyncEngine, maker: async_sessionmaker[OwnSession]
) -> None:
    """An error, not a write that nobody commits on a connection that nobody returns."""
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


async def test_a_session_maker_may_say_that_its_sessions_can_be_used_again(
    engine: AsyncEngine,
) -> None:
    maker = async_sessionmaker(engine, close_resets_only=True)
    async with create_db_context(maker)() as session:
        pass
    assert await session.scalar(text("SELECT 1")) == 1
    await session.close()


async def test_a_session_that_begins_nothing_by_itself_is_left_to_its_user(
    engine: AsyncEngine,
) -> None:
    maker = async_sessionmaker(engine, autobegin=False)
    async with create_db_context(maker)() as session:
        assert not session.in_transaction()
        async with session.begin():
            session.add(Plain(id=1))
    assert await count(engine) == 1


async def test_an_argument_of_libpq_is_named_with_asyncpgs(database: URL) -> None:
    engine = create_async_engine(database.update_query_dict({"sslmode": "require"}))
    with pytest.raises(UnsupportedEngineError, match=r"\?ssl=require"):
        async with create_db_context(async_sessionmaker(engine))():
            pass
    with pytest.raises(UnsupportedEngineError, match=r"\?ssl=require"):
        RowWatcher(engine)
    await engine.dispose()


def polling(engine: AsyncEngine, ended: asyncio.Event) -> FastAPI:
    """The README's endpoint."""
    app, new_session = FastAPI(), async_sessionmaker(engine)
    add_exception_handlers(app)

    @app.get("/{key}", response_model=str)
    async def poll(key: int, request: Request, seconds: float = 60) -> str | Response:
        try:
            async with while_connected(request), new_session() as session:
                try:
                    await wait_for_row_change(session, Plain, key, timeout=seconds)
                except WaitTimeoutError:
                    return Response(status_code=204)
                return "changed"
        finally:
            ended.set()

    return app


async def test_a_long_poll_ends_when_its_client_leaves(engine: AsyncEngine) -> None:
    """Not at its timeout; and nothing is left of it."""
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
    """Nothing new, a change, no such row, a shutdown."""
    async with AsyncSession(engine) as session:
        session.add(Plain(id=1))
        await session.commit()
    app = polling(engine, asyncio.Event())
    async with RowWatcher(engine) as watcher, serve(app) as url, httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/1", params={"seconds": 0.05})).status_code == 204
        assert (await http.get(f"{url}/2")).status_code == 404
        asked = asyncio.create_task(http.get(f"{url}/1"))
        await watcher.reached(lambda now: now.armed + now.polled == 1)
        await execute(engine, update(Plain).values(n=Plain.n + 1))
        assert (await asked).json() == "changed"
        asked = asyncio.create_task(http.get(f"{url}/1"))
        await watcher.reached(lambda now: now.armed + now.polled == 1)
        await watcher.aclose()
        assert (await asked).status_code == 503


async def test_what_an_endpoint_raises_while_connected_stays_what_it_is() -> None:
    app = FastAPI()

    @app.get("/")
    async def get(request: Request) -> None:
        async with while_connected(request):
            raise HTTPException(418)

    async with client(app) as http:
        assert (await http.get("/")).status_code == 418
