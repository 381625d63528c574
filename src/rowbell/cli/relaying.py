"""``rowbell relay``: a relay in the foreground, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from rowbell.cli.problem import ProblemError, told_in_one_line

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from rowbell.cli.checks.finding import Check, Finding
    from rowbell.cli.output import Output
    from rowbell.cli.target import Target

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def relay(
    target: Target,
    output: Output,
    *,
    health: str | None,
    socket: str | None,
    nats: list[str] | None,
    **options: Any,
) -> None:
    """Run a relay until SIGTERM or SIGINT.

    Args:
        target: The database.
        output: What it prints at the end.
        health: ``host:port`` to answer ``/live`` and ``/ready`` on; ``None`` for not at all.
        socket: The path of a unix socket.
        nats: URLs of NATS servers, instead of a socket.
        options: Other arguments of ``Relay``.

    Raises:
        ProblemError: The options are unusable.
    """
    with _extras():
        from rowbell.cli.health import Health  # noqa: PLC0415  # it needs the relay, too
        from rowbell.relay import Relay  # noqa: PLC0415  # an extra's
    if (socket is None) == (not nats):
        raise ProblemError("give either --socket or --nats")
    loop = asyncio.get_running_loop()
    log = logging.getLogger("rowbell")
    async with target.engine() as engine, AsyncExitStack() as stack:
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.INFO)  # each state, also those without a reason to worry
        with _extras():
            made = Relay(engine, socket=socket, nats=nats or None, **options)
        if health is not None:
            stack.enter_context(Health(health, made, loop))
        running = await stack.enter_async_context(made)
        for number in _SIGNALS:
            loop.add_signal_handler(number, running.stop)
            stack.callback(loop.remove_signal_handler, number)
        with told_in_one_line():
            await running.wait_closed()
        output.line(f"{running.status().notifications} notifications passed on")


def check(
    *, socket: str | None, nats: list[str] | None, application: str, root: str, insecure: bool
) -> Check | None:
    """The doctor's check of a relay; ``None`` if none is named.

    Raises:
        ProblemError: The options are unusable.
    """
    if socket is None and not nats:
        return None
    with _extras():
        from rowbell.cli.checks.relay import answers  # noqa: PLC0415  # an extra's
        from rowbell.relay import NatsNotifier, SocketNotifier  # noqa: PLC0415  # the same

        with told_in_one_line():
            notifies = (
                SocketNotifier(socket)
                if socket is not None
                else NatsNotifier(nats or [], application=application, root=root, insecure=insecure)
            )

    async def relay(engine: AsyncEngine, _: Target) -> list[Finding]:
        return await answers(engine, notifies)

    return relay


@contextmanager
def _extras() -> Generator[None]:
    """An extra that is missing is a problem that the user can mend."""
    try:
        yield
    except ImportError as error:
        raise ProblemError(f'{error}: pip install "rowbell[relay]" or "rowbell[nats]"') from error
