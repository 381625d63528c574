"""FastAPI: sessions, watchers, server-sent events, long polls, and answers to errors.

``pip install rowbell[fastapi]``
"""

from importlib.util import find_spec

if find_spec("fastapi") is None or find_spec("fastapi.sse") is None:
    raise ImportError(
        "rowbell.fastapi needs FastAPI 0.140.13 or later: pip install rowbell[fastapi]"
    )

from rowbell.fastapi.answers import add_exception_handlers
from rowbell.fastapi.connected import run_while_connected
from rowbell.fastapi.events import EventStream, StreamEnd, event_stream
from rowbell.fastapi.polls import long_poll
from rowbell.fastapi.sessions import (
    SessionDep,
    StreamingSessionDep,
    add_sessions,
    request_session,
)
from rowbell.fastapi.watchers import WatcherArguments, WatcherDep, lifespan, watcher_of

__all__ = [
    "EventStream",
    "SessionDep",
    "StreamEnd",
    "StreamingSessionDep",
    "WatcherArguments",
    "WatcherDep",
    "add_exception_handlers",
    "add_sessions",
    "event_stream",
    "lifespan",
    "long_poll",
    "request_session",
    "run_while_connected",
    "watcher_of",
]
