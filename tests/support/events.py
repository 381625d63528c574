"""A client of server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Event:
    """One event.

    Attributes:
        name: ``None`` for a message without a name.
        data: What its JSON says.
        id: Its id.
        retry: In milliseconds.
    """

    name: str | None = None
    data: Any = None
    id: str | None = None
    retry: int | None = None


@dataclass
class Connection(AsyncIterator[Event]):
    """A connection whose response has begun.

    Attributes:
        status: The status of the response.
        raw: All that has been received.
    """

    status: int
    lines: AsyncIterator[str]
    raw: list[str] = field(default_factory=list[str])

    async def __anext__(self) -> Event:
        event = Event()
        async for line in self.lines:
            self.raw.append(line)
            name, _, value = line.partition(": ")
            if name == "event":
                event.name = value
            elif name == "data":
                event.data = json.loads(value)
            elif name == "id":
                event.id = value
            elif name == "retry":
                event.retry = int(value)
            elif not line and event != Event():
                return event
        raise StopAsyncIteration

    async def rest(self) -> list[Event]:
        """All events until the response ends."""
        return [event async for event in self]


@asynccontextmanager
async def listening(
    url: str, last: str | None = None, headers: Mapping[str, str] | None = None
) -> AsyncGenerator[Connection]:
    """A client that listens to the events of a URL, as a browser does."""
    sent = dict(headers or {}) | ({"Last-Event-ID": last} if last is not None else {})
    async with (
        httpx.AsyncClient(timeout=30) as http,
        http.stream("GET", url, headers=sent) as response,
    ):
        yield Connection(response.status_code, response.aiter_lines())


async def status(url: str, last: str | None = None) -> int:
    """The status of a response, which is not read."""
    async with listening(url, last) as connection:
        return connection.status
