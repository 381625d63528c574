"""The listener task. It is the only user of the LISTEN connection.

A connection that is lost is thrown away, every watch is unarmed at once, and after a while it all
begins anew. ``listening`` is one such life.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import anyio
from sqlalchemy.exc import DBAPIError

from rowbell._sqlstate import (
    INSUFFICIENT_PRIVILEGE,
    INVALID_SCHEMA_NAME,
    INVALID_SQL_STATEMENT_NAME,
    READ_ONLY_TRANSACTION,
    UNDEFINED_FUNCTION,
    UNDEFINED_TABLE,
    sqlstate_of,
)
from rowbell._watch.database.calls import Calls
from rowbell._watch.failures import UnreachableError, is_passing
from rowbell._watch.notifiers.listening import CannotListenError, Listening
from rowbell._watch.state import Reason, StateLog, WatcherState
from rowbell._watch.timing import Backoff

if TYPE_CHECKING:
    from rowbell._watch.board.board import Board
    from rowbell._watch.connections import Connections
    from rowbell._watch.timing import Timing

_REASONS: Final = {
    READ_ONLY_TRANSACTION: Reason.IN_RECOVERY,  # what a standby answers to LISTEN and NOTIFY
    INSUFFICIENT_PRIVILEGE: Reason.NOT_PERMITTED,
    # A pooler has given the session to another server process.
    INVALID_SQL_STATEMENT_NAME: Reason.NOT_DELIVERED,
    # Parts of the schema are gone.
    UNDEFINED_FUNCTION: Reason.SCHEMA_OUTDATED,
    UNDEFINED_TABLE: Reason.SCHEMA_OUTDATED,
    INVALID_SCHEMA_NAME: Reason.SCHEMA_OUTDATED,
}
_FOR_GOOD = (Reason.UNSUPPORTED, Reason.SCHEMA_NEWER)
_EARLIEST = 0.1  # of the time between two heartbeats: how soon one may follow another


def _reason(error: Exception) -> Reason:
    """What an error on the way to LISTENING, or while it lasts, says."""
    if isinstance(error, UnreachableError):
        return Reason.CONNECTION_LOST if error.passes else Reason.CANNOT_LISTEN
    passes = Reason.CONNECTION_LOST if is_passing(error) else Reason.CANNOT_LISTEN
    return _REASONS.get(sqlstate_of(error), passes)


def _described(error: Exception) -> str:
    """The driver's own error, from behind SQLAlchemy's."""
    cause: BaseException = error.reason if isinstance(error, UnreachableError) else error
    if isinstance(cause, DBAPIError) and cause.orig:
        cause = cause.orig.__cause__ or cause.orig
    return f"{type(cause).__name__}: {cause}".rstrip(": ")


class Listener:
    """The task that listens for a board.

    Args:
        board: What it listens for.
        connections: Where it gets its connection.
        state: Where it says how it is.
        timing: The watcher's times.
    """

    def __init__(
        self, board: Board, connections: Connections, state: StateLog, timing: Timing
    ) -> None:
        self._board = board
        self._connections = connections
        self._state = state
        self._timing = timing
        self._stop = asyncio.Event()
        self._listening: Listening | None = None
        self._notifications = 0
        self._ignored = 0

    @property
    def notifications(self) -> int:
        """How many notifications were understood."""
        return self._notifications + (self._listening.notifications if self._listening else 0)

    @property
    def ignored(self) -> int:
        """How many notifications were not ours."""
        return self._ignored + (self._listening.ignored if self._listening else 0)

    def stop(self) -> None:
        """End ``run`` when what is under way has ended."""
        self._stop.set()
        self._board.to_register.set()

    async def run(self) -> None:
        """Listen, until stopped; after each loss again, unless the server never could."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._timing)
        if self._connections.listen_dialect.driver != "asyncpg":
            driver = self._connections.listen_dialect
            detail = f"{driver.name}+{driver.driver} cannot LISTEN, only asyncpg can"
            self._state.enter(WatcherState.POLLING, Reason.UNSUPPORTED, detail)
            return
        self._state.enter(WatcherState.CONNECTING)
        while not self._stop.is_set():
            begun = loop.time()
            reason, detail = await self._live()
            self._board.unarm()
            if self._stop.is_set():
                return
            self._state.enter(WatcherState.POLLING, reason, detail)
            if reason in _FOR_GOOD:
                return
            with anyio.move_on_after(backoff.delay(healthy_for=loop.time() - begun)):
                await self._stop.wait()

    async def _live(self) -> tuple[Reason, str]:
        """Live through one connection; says how it ended."""
        try:
            async with self._connections.dedicated() as connection:
                calls = Calls(connection, self._timing.answer)
                calls.on_close(self._board.to_register.set)
                self._listening = Listening(
                    calls, self._board, self._connections, self._state, self._timing
                )
                self._board.heard(await self._listening.begin())
                self._state.enter(WatcherState.LISTENING)
                await self._serve(calls, self._listening)
        except CannotListenError as error:
            return error.reason, error.detail
        except Exception as error:  # noqa: BLE001  # no list of errors would be complete
            return _reason(error), _described(error)
        finally:
            self._notifications, self._ignored = self.notifications, self.ignored
            self._listening = None
        return Reason.CONNECTION_LOST, "closed"

    async def _serve(self, calls: Calls, listening: Listening) -> None:
        """Register what is wanted and look after the connection, until stopped."""
        loop, to_register = asyncio.get_running_loop(), self._board.to_register
        last_heartbeat = loop.time()
        next_look = loop.time() + self._timing.narrow
        while not self._stop.is_set():
            to_register.clear()
            if calls.closed:
                raise CannotListenError(Reason.CONNECTION_LOST, "the server closed the connection")
            if self._board.strayed:
                why = "reads are answered by another server than the one that notifies"
                raise CannotListenError(Reason.NOT_DELIVERED, why)
            await listening.register()
            # Anybody may announce a change of triggers: not a heartbeat for each.
            pause = self._timing.heartbeat * (_EARLIEST if listening.wants_heartbeat else 1)
            if loop.time() >= last_heartbeat + pause:
                await listening.heartbeat()
                await listening.unregister()
                last_heartbeat, pause = loop.time(), self._timing.heartbeat
            if loop.time() >= next_look:
                await listening.look_for_writers()
                next_look = loop.time() + self._timing.narrow
            waiting, _ = self._board.arming()
            until = last_heartbeat + pause
            until = min(until, next_look) if waiting else until
            with anyio.move_on_after(max(until - loop.time(), 0)):
                await to_register.wait()
        await listening.end()
