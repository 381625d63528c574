"""An app with one event stream, for tests."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.ext.asyncio import AsyncEngine

from rowbell import RowWatcher
from rowbell.fastapi import EventStream, WatcherDep, lifespan
from support.waits import QUICK

Begin = Callable[[Request, RowWatcher], Any]


def app_of(engine: AsyncEngine, begin: Begin) -> FastAPI:
    """An app with one stream."""
    app = FastAPI(lifespan=lifespan(engine, recheck=None, timing=QUICK))

    async def stream(request: Request, watcher: WatcherDep) -> EventStream:
        app.state.watcher = watcher
        opened: EventStream = await begin(request, watcher)
        return opened

    @app.get("/", response_class=EventSourceResponse)
    async def events(
        stream: Annotated[EventStream, Depends(stream)],
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in stream:
            yield event

    return app
