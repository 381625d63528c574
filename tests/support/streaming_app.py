"""An app with a stream and a long poll, for servers that run it in processes of their own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine

import rowbell.fastapi
from rowbell.fastapi import EventStream, WatcherDep
from support.models import Order


class OrderOut(BaseModel):
    id: int
    n: int


engine = create_async_engine(os.environ["DATABASE_URL"])
app = FastAPI(lifespan=rowbell.fastapi.lifespan(engine))
rowbell.fastapi.add_exception_handlers(app)


async def opened(request: Request, watcher: WatcherDep) -> EventStream:
    return await rowbell.fastapi.event_stream(request, watcher.follow(Order, 1), OrderOut)


@app.get("/events", response_class=EventSourceResponse)
async def events(
    stream: Annotated[EventStream, Depends(opened)],
) -> AsyncIterator[ServerSentEvent]:
    async for event in stream:
        yield event


@app.get("/large", response_class=EventSourceResponse)
async def large(stream: Annotated[EventStream, Depends(opened)]) -> AsyncIterator[ServerSentEvent]:
    """More than the buffers between server and client hold."""
    async for event in stream:
        for _ in range(10_000):
            yield ServerSentEvent(raw_data="x" * 10_000)
        yield event


@app.get("/next")
async def next_state(request: Request, watcher: WatcherDep) -> Response:
    return await rowbell.fastapi.long_poll(request, watcher.follow(Order, 1), OrderOut)


@app.get("/pid")
async def pid() -> int:
    return os.getpid()


@app.post("/close-streams")
async def close_streams(watcher: WatcherDep) -> None:
    watcher.close_streams()
