"""The web application: orders as JSON and as events, and a page that shows them changing.

    make serve

starts it, with a worker, on a PostgreSQL server of its own. Everything that a browser is told
comes from the database, whoever has changed it: this application, the worker, or psql.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from models import STATES, Order
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import rowbell.fastapi
from rowbell.fastapi import EventStream, SessionDep, WatcherDep, event_stream

PAGE: Final = Path(__file__).parent / "page"
SHOWN: Final = 50
"""The number of orders in the list."""

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
    """Watch rows while the app runs."""
    async with rowbell.fastapi.lifespan(engine)(app) as state:
        yield state
    await engine.dispose()


app = FastAPI(title="Orders", lifespan=lifespan)
rowbell.fastapi.add_sessions(app, new_session)
rowbell.fastapi.add_exception_handlers(app)


OrderId: TypeAlias = Annotated[int, PathParameter(ge=1, lt=2**31)]
"""The number of an order, in the range of its column."""


class NewOrder(BaseModel):
    """What a client sends."""

    item: str = Field(min_length=1, max_length=100)


class OrderOut(BaseModel):
    """What a client gets. No other column leaves."""

    model_config = ConfigDict(from_attributes=True)
    id: int
    item: str
    status: str
    changed_at: datetime | None


class Status(BaseModel):
    """What the watcher is doing."""

    state: str
    reason: str | None
    armed: int
    polled: int
    notifications: int
    queries: int


# -- orders as JSON


@app.post("/api/orders", status_code=201)
async def create(new: NewOrder, session: SessionDep) -> OrderOut:
    """Add an order."""
    order = Order(item=new.item, status=STATES[0])
    session.add(order)
    await session.flush()
    await session.refresh(order)
    return OrderOut.model_validate(order)


@app.get("/api/orders")
async def orders() -> list[OrderOut]:
    """The newest orders."""
    return [OrderOut.model_validate(order) for order in await load_orders()]


@app.get("/api/orders/{order_id:int}")
async def order(order_id: OrderId, session: SessionDep) -> OrderOut:
    """An order."""
    return OrderOut.model_validate(_found(await session.get(Order, order_id)))


@app.post("/api/orders/{order_id:int}/pay")
async def pay(order_id: OrderId, session: SessionDep) -> OrderOut:
    """Pay an order. The worker does the rest."""
    order = await _locked(session, order_id)
    if order.status != STATES[0]:
        raise HTTPException(409, f"the order is {order.status}")
    order.status, order.changed_at = STATES[1], func.now()
    await session.flush()
    await session.refresh(order)
    return OrderOut.model_validate(order)


@app.delete("/api/orders/{order_id:int}", status_code=204)
async def cancel(order_id: OrderId, session: SessionDep) -> None:
    """Delete an order."""
    await session.delete(await _locked(session, order_id))


async def _locked(session: AsyncSession, order_id: int) -> Order:
    return _found(await session.get(Order, order_id, with_for_update=True))


def _found(order: Order | None) -> Order:
    if order is None:
        raise HTTPException(404)
    return order


@app.get("/api/status")
async def status(watcher: WatcherDep) -> Status:
    """What the watcher is doing."""
    now = watcher.statistics()
    return Status(
        state=now.state,
        reason=now.reason,
        armed=now.armed,
        polled=now.polled,
        notifications=now.notifications,
        queries=now.queries,
    )


# -- orders as events: one stream a page, because HTTP/1.1 allows six connections to a host


async def load_orders() -> Sequence[Order]:
    """The orders in the list."""
    async with new_session() as session:
        newest = select(Order).order_by(Order.id.desc()).limit(SHOWN)
        return (await session.scalars(newest)).all()


async def list_stream(request: Request, watcher: WatcherDep) -> EventStream:
    """The list, each time that it has changed."""
    changes = watcher.changes(Order, interval=0.2)
    return await event_stream(request, changes, list[OrderOut], load=load_orders)


async def order_stream(order_id: OrderId, request: Request, watcher: WatcherDep) -> EventStream:
    """One order, until it is delivered."""
    follow = watcher.follow(Order, order_id, until=Order.status == STATES[-1])
    return await event_stream(request, follow, OrderOut)


@app.get("/api/orders/events", response_class=EventSourceResponse)
async def list_events(
    stream: Annotated[EventStream, Depends(list_stream)],
) -> AsyncIterator[ServerSentEvent]:
    """The events of the list."""
    async for event in stream:
        yield event


@app.get("/api/orders/{order_id:int}/events", response_class=EventSourceResponse)
async def order_events(
    stream: Annotated[EventStream, Depends(order_stream)],
) -> AsyncIterator[ServerSentEvent]:
    """The events of an order."""
    async for event in stream:
        yield event


# -- the page


app.mount("/page", StaticFiles(directory=PAGE), name="page")


@app.get("/", include_in_schema=False)
@app.get("/orders/{order_id:int}", include_in_schema=False)
async def page() -> FileResponse:
    """The page, which shows the list or one order."""
    return FileResponse(PAGE / "index.html")
