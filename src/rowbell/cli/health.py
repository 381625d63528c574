"""Answers to a supervisor over HTTP: does the relay live, and is it ready?

It runs in a thread, and asks the event loop: so it also shows a loop that is blocked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self

from rowbell.cli.problem import ProblemError
from rowbell.relay.status import RelayState

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from rowbell.relay import Relay, RelayStatus

_WITHIN: Final = 2.0
"""How long the event loop may take to answer, in seconds."""

_READY: Final = {RelayState.LEADING, RelayState.STANDING_BY}


class Health:
    """A small web server with ``/live``, ``/ready`` and ``/status``.

    Args:
        address: ``host:port``; port 0 for any.
        relay: The relay.
        loop: Its event loop.

    Attributes:
        port: The port.

    Raises:
        ProblemError: It cannot listen there.
    """

    def __init__(self, address: str, relay: Relay, loop: AbstractEventLoop) -> None:
        host, _, port = address.rpartition(":")
        try:
            server = ThreadingHTTPServer((host.strip("[]"), int(port)), _handler(relay, loop))
        except (OSError, ValueError, OverflowError) as error:
            why = f"--health {address!r} is no host:port to listen on: {error}"
            raise ProblemError(why) from error
        self.port: int = server.server_address[1]
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(relay: Relay, loop: AbstractEventLoop) -> type[BaseHTTPRequestHandler]:
    async def status() -> RelayStatus:
        return relay.status()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            asked = asyncio.run_coroutine_threadsafe(status(), loop)
            try:
                now = asked.result(_WITHIN)
            except TimeoutError:
                asked.cancel()
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "the event loop is blocked")
                return
            if self.path == "/live":
                self._answer(HTTPStatus.OK, str(now.state))
            elif self.path == "/ready":
                ready = now.state in _READY
                code = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(code, f"{now.state} {now.detail}".strip())
            elif self.path == "/status":
                self._answer(HTTPStatus.OK, json.dumps(dataclasses.asdict(now), default=str))
            else:
                self._answer(HTTPStatus.NOT_FOUND, "/live, /ready or /status")

        def _answer(self, code: HTTPStatus, text: str) -> None:
            body = f"{text}\n".encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name
            """A supervisor asks each second."""

    return Handler
