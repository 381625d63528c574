"""An engine on psycopg 3 is woken, and where it cannot be, it is polled and says why."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from psycopg import AsyncConnection
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from rowbell import InvalidArgumentError, ListenError, Reason, RowWatcher, WatcherState
from support.observed import execute, kill_listener, listeners, none_left
from support.orders import CHANGE
from support.tls import tls_in_front_of
from support.waits import IMPATIENT, armed_wait, polled_because


@pytest.fixture
def psycopg_url(database: URL) -> URL:
    return database.set(drivername="postgresql+psycopg")


def _dsn(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def woken(engine: AsyncEngine, **arguments: Any) -> None:
    """A wait on that engine is armed, and a notification ends it."""
    async with RowWatcher(
        engine, mode="listen", recheck=None, timing=IMPATIENT, **arguments
    ) as watcher:
        wait = await armed_wait(watcher)
        async with engine.begin() as connection:
            await connection.exec_driver_sql(CHANGE)
        await wait
    await engine.dispose()


@pytest.mark.parametrize("drivername", ["postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
async def test_each_form_of_a_url_is_woken(
    orders: AsyncEngine, database: URL, drivername: str
) -> None:
    """``postgresql://`` means psycopg from SQLAlchemy 2.1 on."""
    url = database.set(drivername=drivername)
    if url.get_dialect().driver == "psycopg2":
        pytest.skip("SQLAlchemy 2.0 has no asyncio driver for postgresql://")
    await woken(create_async_engine(url))


@pytest.mark.parametrize(
    "drivername",
    ["postgresql", "postgresql+psycopg", "postgresql+psycopg_async", "postgresql+asyncpg"],
)
async def test_each_form_of_a_listen_url_is_woken(
    orders: AsyncEngine, database: URL, drivername: str
) -> None:
    await woken(create_async_engine(database), listen_url=database.set(drivername=drivername))


async def test_connect_args_and_a_conninfo_make_the_listen_connection(
    orders: AsyncEngine, database: URL
) -> None:
    conninfo = f"host={database.query['host']} dbname={database.database} user=postgres"
    arguments = {"application_name": "shop", "keepalives": 1, "prepare_threshold": 3}
    engine = create_async_engine("postgresql+psycopg://", connect_args=arguments)

    def connect_there(_: object, __: object, arguments: list[str], ___: object) -> None:
        arguments[:] = [conninfo]

    event.listen(engine.sync_engine, "do_connect", connect_there)
    async with RowWatcher(engine, mode="listen"):
        [listener] = await listeners(orders)
    assert listener.application_name == "rowbell shop"
    await engine.dispose()


async def test_a_service_makes_the_listen_connection(
    orders: AsyncEngine, database: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "services"
    file.write_text(
        f"[shop]\nhost={database.query['host']}\ndbname={database.database}\nuser=postgres\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    await woken(create_async_engine("postgresql+psycopg://?service=shop"))


async def test_hooks_are_asked_for_each_connection_also_those_added_later(
    orders: AsyncEngine, psycopg_url: URL
) -> None:
    """As hooks that rotate a password are; what they do last counts."""
    engine = create_async_engine(psycopg_url, poolclass=NullPool)
    asked: list[str] = []

    def hook(name: str) -> Any:
        def rotate(_dialect: Any, _record: Any, _arguments: Any, parameters: Any) -> None:
            asked.append(name)
            parameters["application_name"] = name

        return rotate

    event.listen(engine.sync_engine, "do_connect", hook("first"))
    async with RowWatcher(engine, mode="listen", timing=IMPATIENT) as watcher:
        [listener] = await listeners(orders)
        assert listener.application_name == "rowbell first"
        event.listen(engine.sync_engine, "do_connect", hook("later"))
        await kill_listener(orders)
        while "later" not in asked:
            await asyncio.sleep(0.01)  # the hook is synchronous: nobody to wait for
        await watcher.reached(lambda now: now.state is WatcherState.LISTENING)
        [listener] = await listeners(orders)
        assert listener.application_name == "rowbell later"
    await engine.dispose()


async def test_the_application_connects_meanwhile(orders: AsyncEngine, psycopg_url: URL) -> None:
    """Another task is inside of a hook that awaits, while the watcher asks the hooks."""
    engine = create_async_engine(psycopg_url, poolclass=NullPool)
    inside, leave = asyncio.Event(), asyncio.Event()
    waited: list[bool] = []

    def hook(*_: object) -> None:
        if not waited:
            waited.append(True)
            inside.set()
            await_only(leave.wait())

    event.listen(engine.sync_engine, "do_connect", hook)
    connecting = asyncio.create_task(_one(engine))
    await inside.wait()
    async with RowWatcher(engine, mode="listen"):
        leave.set()
        assert await connecting == 1
    await engine.dispose()


async def test_a_hook_may_connect_elsewhere(orders: AsyncEngine, psycopg_url: URL) -> None:
    """As one that reads a password from another database, itself or in a task that goes on."""
    engine = create_async_engine(psycopg_url, poolclass=NullPool)
    another = create_async_engine(psycopg_url.set(database="postgres"), poolclass=NullPool)
    found: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    async def refresh() -> None:
        await asyncio.sleep(0)
        found.append(await _one(another))

    def hook(*_: object) -> None:
        tasks.append(asyncio.create_task(refresh()))
        found.append(await_only(_one(another)))

    async with RowWatcher(another):
        event.listen(engine.sync_engine, "do_connect", hook)
        await woken(engine)
        await asyncio.gather(*tasks)
        assert set(found) == {1}
    await another.dispose()


async def _one(engine: AsyncEngine) -> Any:
    async with engine.connect() as connection:
        return (await connection.exec_driver_sql("SELECT 1")).scalar()


def _made_by_hook(url: URL) -> AsyncEngine:
    engine = create_async_engine(url)
    driver: Any = engine.dialect.loaded_dbapi
    event.listen(
        engine.sync_engine,
        "do_connect",
        lambda _dialect, _record, arguments, parameters: driver.connect(*arguments, **parameters),
    )
    return engine


def _made_by_creator(url: URL) -> AsyncEngine:
    host, name = url.query["host"], url.database
    return create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: AsyncConnection.connect(f"host={host} dbname={name} user=postgres"),
    )


@pytest.mark.parametrize("made", [_made_by_hook, _made_by_creator])
async def test_connections_that_only_the_application_can_make_are_polled_and_left_to_it(
    orders: AsyncEngine, psycopg_url: URL, made: Any
) -> None:
    engine = made(psycopg_url)
    async with RowWatcher(engine, timing=IMPATIENT) as watcher:
        now = watcher.statistics()
        assert now.reason is Reason.UNSUPPORTED
        assert "async_creator" in now.detail
        wait = await polled_because(watcher, Reason.UNSUPPORTED, interval=0.02)
        await watcher.reached(lambda now: now.queries > 2)
        await execute(orders, CHANGE)
        await wait
    await engine.dispose()
    await none_left(orders)


@pytest.mark.parametrize("arguments", [{"channel_binding": "require"}, {"require_auth": "none"}])
async def test_a_parameter_that_asyncpg_lacks_is_named_with_the_remedy(
    psycopg_url: URL, arguments: dict[str, str]
) -> None:
    engine = create_async_engine(psycopg_url, connect_args=arguments)
    [name] = arguments
    with pytest.raises(ListenError, match=f"{name} is refused.*listen_connect"):
        await RowWatcher(engine, mode="listen").__aenter__()
    await engine.dispose()


async def test_listen_connect_makes_the_connection_and_the_watcher_closes_it(
    orders: AsyncEngine, database: URL, psycopg_url: URL
) -> None:
    made: list[Any] = []

    async def connect() -> asyncpg.Connection[Any]:
        connection = await asyncpg.connect(_dsn(database))
        made.append(connection)
        return connection

    engine = create_async_engine(psycopg_url, connect_args={"channel_binding": "prefer"})
    await woken(engine, listen_connect=connect)
    [connection] = made
    assert connection.is_closed()


def _same(made: Any) -> Any:
    return made


async def test_what_listen_connect_returns_is_checked(orders: AsyncEngine, database: URL) -> None:
    """A connection of a pool is not the watcher's to close."""
    async with asyncpg.create_pool(_dsn(database), min_size=1) as pool, pool.acquire() as lent:
        wrong: list[Any] = [lent, None]
        for made in wrong:
            watcher = RowWatcher(orders, mode="listen", listen_connect=partial(_same, made))
            with pytest.raises(ListenError, match=type(made).__name__):
                await watcher.__aenter__()
        assert await lent.fetchval("SELECT 1") == 1


@pytest.mark.parametrize(
    "arguments", [{"listen_connect": "a"}, {"listen_connect": print, "listen_url": "postgresql://"}]
)
def test_a_listen_connect_that_cannot_be_used_is_refused_at_the_call(
    arguments: dict[str, Any],
) -> None:
    engine = create_async_engine("postgresql+psycopg://nowhere/none")
    with pytest.raises(InvalidArgumentError, match="listen_connect"):
        RowWatcher(engine, **arguments)


async def test_a_listen_connection_to_another_database_is_found_out(
    orders: AsyncEngine, psycopg_url: URL
) -> None:
    """The notification that proves delivery is sent on a connection of the engine."""
    engine = create_async_engine(psycopg_url)
    elsewhere = psycopg_url.set(database="postgres")
    async with RowWatcher(engine, listen_url=elsewhere, timing=IMPATIENT) as watcher:
        assert watcher.statistics().reason in {Reason.NOT_DELIVERED, Reason.NOT_INSTALLED}
    await engine.dispose()


async def test_certificates_are_checked_as_psycopg_checks_them(
    orders: AsyncEngine, psycopg_url: URL, tmp_path: Path
) -> None:
    authority = trustme.CA()
    for name, trusted in (("trusted", authority), ("stranger", trustme.CA())):
        trusted.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    certificate = authority.issue_cert("client", common_name="me")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "key.pem").chmod(0o600)
    async with tls_in_front_of(psycopg_url, authority) as server:
        query = {
            "sslmode": "verify-full",
            "sslrootcert": str(tmp_path / "trusted.pem"),
            "sslcert": str(tmp_path / "cert.pem"),
            "sslkey": str(tmp_path / "key.pem"),
        }
        await woken(create_async_engine(server.url.update_query_dict(query)))
        assert server.encrypted >= 2
        assert server.peers == ["me"] * server.encrypted
        strange = server.url.update_query_dict(
            query | {"sslrootcert": str(tmp_path / "stranger.pem")}
        )
        engine = create_async_engine(psycopg_url)
        with pytest.raises(ListenError, match="certificate"):
            await RowWatcher(engine, mode="listen", listen_url=strange).__aenter__()
        await engine.dispose()
