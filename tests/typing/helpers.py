"""What a type checker knows of the helpers. ``make types`` checks it."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, assert_type

from fastapi import Depends, FastAPI, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

import rowbell
import rowbell.fastapi
from rowbell.fastapi import EventStream, SessionDep, WatcherDep, event_stream, long_poll
from rowbell.testing import rolled_back_session
from support.models import Order


class OrderOut(BaseModel):
    id: int


async def sessions(maker: async_sessionmaker[AsyncSession], engine: AsyncEngine) -> None:
    async with rowbell.create_db_context(maker)() as session:
        assert_type(session, AsyncSession)
        async with rowbell.get_transaction(session) as inner:
            assert_type(inner, AsyncSession)
    async with rolled_back_session(engine) as session:
        assert_type(session, AsyncSession)


async def locks(session: AsyncSession) -> None:
    assert_type(await rowbell.lock_rows(session, Order, [7, 8], skip_locked=True), list[Order])
    async with rowbell.advisory_lock(session, "nightly", nowait=True) as acquired:
        assert_type(acquired, bool)
    async with rowbell.lock_tables(session, [Order], mode=rowbell.LockMode.SHARE):
        pass
    await rowbell.lock_rows(session, Order, [7], nowait="yes")  # type: ignore[arg-type]


def an_application(engine: AsyncEngine) -> FastAPI:
    app = FastAPI(lifespan=rowbell.fastapi.lifespan(engine, mode="listen"))

    async def stream(request: Request, watcher: WatcherDep) -> EventStream:
        return await event_stream(request, watcher.follow(Order, 7), OrderOut)

    @app.get("/events", response_class=EventSourceResponse)
    async def events(
        stream: Annotated[EventStream, Depends(stream)],
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in stream:
            assert_type(event, ServerSentEvent)
            yield event

    @app.get("/next")
    async def following(request: Request, watcher: WatcherDep, session: SessionDep) -> Response:
        assert_type(session, AsyncSession)
        return await long_poll(request, watcher.follow(Order, 7), OrderOut)

    @app.get("/once")
    async def once(request: Request, session: SessionDep) -> int:
        wait = rowbell.wait_for_row_change(session, Order, 7)
        order = await rowbell.fastapi.run_while_connected(request, wait)
        assert_type(order, Order)
        return order.id

    return app
