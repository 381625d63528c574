"""The faults and their repairs: one function for each fault.

Each function breaks something, waits for some time, and repairs it. It returns whether waits could
not be expected to notice changes during that time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

import rowbell
from tables import MODELS, WAITER, rights, stamping

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from plan import Fault
    from relays import Fleet
    from servers import Servers

PATIENCE: Final = 30.0
"""For how many seconds a repair is tried before the run fails."""

REGISTER: Final = "rowbell.register(oid[], bytea[], text[], oid[], bigint[], text[], bigint)"


@dataclass(frozen=True, slots=True)
class Scene:
    """The things that faults can affect.

    Attributes:
        servers: The servers.
        fleet: The relays and NATS.
        waiters: The process IDs of the processes that wait.
    """

    servers: Servers
    fleet: Fleet
    waiters: tuple[int, ...]


Breaking: TypeAlias = "Callable[[Scene, Fault], Awaitable[bool]]"
"""Causes and repairs a fault; returns whether something was broken all the time."""


@asynccontextmanager
async def connected(scene: Scene) -> AsyncGenerator[asyncpg.Connection[Any]]:
    """A superuser's connection to the primary."""
    connection = await asyncpg.connect(
        user="postgres",
        database="postgres",
        host=str(scene.servers.root / "current"),
        timeout=10,
        server_settings={"application_name": "agent", "lock_timeout": "5s"},
    )
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def transaction(scene: Scene) -> AsyncGenerator[AsyncConnection]:
    """A superuser's transaction, for rowbell's functions."""
    engine = create_async_engine(
        scene.servers.url(),
        poolclass=NullPool,
        connect_args={"server_settings": {"application_name": "agent", "lock_timeout": "5s"}},
    )
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def insist(mend: Callable[[], Awaitable[None]]) -> None:
    """Repair, and try again while locks prevent it."""
    begun = time.monotonic()
    while True:
        try:
            await mend()
        except Exception:  # any error: an unrepaired fault would spoil the run
            if time.monotonic() > begun + PATIENCE:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def execute(scene: Scene, *statements: str) -> None:
    """Execute the statements, and repeat them until they succeed."""

    async def once() -> None:
        async with connected(scene) as connection, connection.transaction():
            for statement in statements:
                await connection.execute(statement)

    await insist(once)


async def install(scene: Scene) -> None:
    """Install the triggers of all tables, and repair the schema."""

    async def once() -> None:
        async with transaction(scene) as connection:
            await connection.run_sync(rowbell.install_triggers, *MODELS.values())

    await insist(once)


# -- processes and connections


async def _backends(scene: Scene, like: str) -> list[int]:
    async with connected(scene) as connection:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND application_name LIKE $1 AND application_name <> 'agent' ORDER BY pid",
            like,
        )
    return [row["pid"] for row in rows]


async def _terminate_listeners(scene: Scene, fault: Fault) -> bool:
    pids = await _backends(scene, "rowbell%")
    some = pids if fault.choice < 0.5 else pids[:1]
    await execute(scene, f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{some}::int[]) AS pid")
    return False


async def _terminate_backends(scene: Scene, fault: Fault) -> bool:
    pids = await _backends(scene, "%")
    some = [pid for i, pid in enumerate(pids) if (i + int(100 * fault.choice)) % 3 == 0]
    await execute(scene, f"SELECT pg_terminate_backend(pid) FROM unnest(ARRAY{some}::int[]) AS pid")
    return False


async def _stop(pid: int, seconds: float) -> None:
    with suppress(ProcessLookupError):  # it has already ended
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


async def _stop_listener(scene: Scene, fault: Fault) -> bool:
    pids = await _backends(scene, "rowbell%")
    if pids:
        await _stop(pids[int(fault.choice * len(pids))], fault.stretch)
    return True


async def _stop_waiter(scene: Scene, fault: Fault) -> bool:
    await _stop(scene.waiters[int(fault.choice * len(scene.waiters))], fault.stretch)
    return True


# -- servers


async def _restart(scene: Scene, _: Fault) -> bool:
    await asyncio.to_thread(scene.servers.restart)
    return True


async def _crash(scene: Scene, fault: Fault) -> bool:
    await asyncio.to_thread(scene.servers.crash)
    await asyncio.sleep(fault.stretch / 2)
    await asyncio.to_thread(scene.servers.start)
    return True


async def _promote(scene: Scene, _: Fault) -> bool:
    await asyncio.to_thread(scene.servers.promote)
    return True


# -- triggers and tables


async def _reinstall(scene: Scene, fault: Fault) -> bool:
    async def remove() -> None:
        async with transaction(scene) as connection:
            await connection.run_sync(rowbell.remove_triggers, MODELS[fault.table])

    await insist(remove)
    await asyncio.sleep(fault.stretch)
    await install(scene)
    return True


async def _disable(scene: Scene, fault: Fault) -> bool:
    trigger = "rowbell_update" if fault.choice < 0.5 else "rowbell_delete"
    await execute(scene, f"ALTER TABLE {fault.table} DISABLE TRIGGER {trigger}")
    await asyncio.sleep(fault.stretch)
    await execute(scene, f"ALTER TABLE {fault.table} ENABLE TRIGGER {trigger}")
    return True


async def _swap(scene: Scene, _: Fault) -> bool:
    statements = [
        "LOCK TABLE parcels IN ACCESS EXCLUSIVE MODE",
        "CREATE TABLE parcels_next (LIKE parcels INCLUDING ALL)",
        "INSERT INTO parcels_next SELECT * FROM parcels",
        stamping("parcels_next", "parcels"),
        *rights("parcels_next"),
        "ALTER TABLE parcels RENAME TO parcels_former",
        "ALTER TABLE parcels_next RENAME TO parcels",
    ]

    async def once() -> None:
        async with transaction(scene) as connection:
            for statement in statements:
                await connection.execute(text(statement))
            await connection.run_sync(rowbell.install_triggers, MODELS["parcels"])
            await connection.execute(text("DROP TABLE parcels_former"))

    await insist(once)
    return False


async def _lock(scene: Scene, fault: Fault) -> bool:
    ours = "registration" if fault.choice < 0.6 else "listener"
    async with connected(scene) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE rowbell.{ours} IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(fault.stretch)
    return True


async def _forget(scene: Scene, fault: Fault) -> bool:
    statements = (
        "DELETE FROM rowbell.registration",
        "DELETE FROM rowbell.registration WHERE key_hash % 2 = 0",
        "TRUNCATE rowbell.registration",
        "DELETE FROM rowbell.listener",
        "TRUNCATE rowbell.registration, rowbell.listener",
    )
    await execute(scene, statements[int(fault.choice * len(statements))])
    return False


async def _rights_on_functions(scene: Scene, fault: Fault) -> bool:
    statements = (
        f"REVOKE EXECUTE ON FUNCTION {REGISTER} FROM PUBLIC",
        "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA rowbell FROM PUBLIC",
        "REVOKE SELECT ON ALL TABLES IN SCHEMA rowbell FROM PUBLIC",
        "REVOKE USAGE ON SCHEMA rowbell FROM PUBLIC",
    )
    await execute(scene, statements[int(fault.choice * len(statements))])
    await asyncio.sleep(fault.stretch)
    await execute(scene, f"GRANT EXECUTE ON FUNCTION {REGISTER} TO PUBLIC")
    await install(scene)
    return True


async def _rights_on_table(scene: Scene, fault: Fault) -> bool:
    await execute(scene, f"REVOKE SELECT ON {fault.table} FROM {WAITER}")
    await asyncio.sleep(fault.stretch / 2)
    await execute(scene, *rights(fault.table))
    return True


async def _alter(scene: Scene, fault: Fault) -> bool:
    await execute(scene, f"ALTER TABLE {fault.table} ALTER COLUMN spare TYPE numeric")
    await asyncio.sleep(fault.stretch)
    await execute(scene, f"ALTER TABLE {fault.table} ALTER COLUMN spare TYPE bigint")
    return False


async def _old_transaction(scene: Scene, fault: Fault) -> bool:
    async with connected(scene) as connection, connection.transaction(isolation="repeatable_read"):
        await connection.execute("SELECT pg_current_xact_id()")
        await asyncio.sleep(2 * fault.stretch)
    return False


FAULTS: Final[dict[str, Breaking]] = {
    "terminate listeners": _terminate_listeners,
    "terminate backends": _terminate_backends,
    "stop a listener": _stop_listener,
    "stop a waiter": _stop_waiter,
    "restart": _restart,
    "crash": _crash,
    "promote": _promote,
    "reinstall": _reinstall,
    "disable": _disable,
    "swap": _swap,
    "lock": _lock,
    "forget": _forget,
    "rights on functions": _rights_on_functions,
    "rights on a table": _rights_on_table,
    "alter": _alter,
    "old transaction": _old_transaction,
}
"""The faults, by their names in the plan."""
