"""What is told of each kind of source: its states, as events.

Each kind checks a state, gives it the form in which it leaves, and remembers its hash: a state that
looks the same as the last one is not sent again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from inspect import isawaitable
from typing import Any, Final, TypeAlias

from fastapi import HTTPException
from fastapi.sse import ServerSentEvent
from pydantic_core import to_json

from rowbell._watch.changes import Changes, Resync
from rowbell._watch.follow import Follow
from rowbell._watch.follow_many import FollowMany
from rowbell.errors import InvalidArgumentError
from rowbell.fastapi.representation import Representation, Sent, tag_of

Source: TypeAlias = Follow[Any] | FollowMany[Any] | Changes
Check: TypeAlias = Callable[[Any], bool | Awaitable[bool]]
Load: TypeAlias = Callable[[], Awaitable[Any]]

GONE: Final = "gone"
"""The event for one of many rows that does not exist."""

RESYNC: Final = "resync"
"""The event for a list that the client must load again."""


class Told(ABC):
    """A source, and what was told of it.

    Attributes:
        source: The source.
        tag: The hash of what was told last; ``None`` before, and if there is none.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.tag: str | None = None

    @property
    def first(self) -> int:
        """How many items the source gives first, without waiting for a change."""
        return 1

    @property
    def is_final(self) -> bool:
        """Whether what was told last is the last."""
        ended: str | None = self.source.ended
        return ended == "until"

    @property
    def may_wait(self) -> bool:
        """Whether ``event`` awaits code of the application."""
        return False

    @abstractmethod
    async def event(self, item: Any) -> ServerSentEvent | None:
        """The event for an item of the source; ``None`` if it looks as it was told last.

        Raises:
            HTTPException: Status 403: the application's check does not allow it.
            InvalidArgumentError: The model cannot be made from it.
        """


class _Shown(Told):
    """What is told is given a form, after a check."""

    def __init__(self, source: Any, model: Any, check: Check | None) -> None:
        super().__init__(source)
        self._form = Representation(model)
        self._check = check

    @property
    def may_wait(self) -> bool:
        """Whether there is a check."""
        return self._check is not None

    async def _shown(self, value: Any) -> Sent:
        if self._check is not None:
            allowed: Any = self._check(value)
            if isawaitable(allowed):
                allowed = await allowed
            if not isinstance(allowed, bool):
                what = f"a function that returns True or False, not a {type(allowed).__name__}"
                raise InvalidArgumentError("check", self._check, what)
            if not allowed:
                raise HTTPException(HTTPStatus.FORBIDDEN)
        return self._form.of(value)

    async def _event_of(self, value: Any) -> ServerSentEvent | None:
        text, tag = await self._shown(value)
        if tag == self.tag:
            return None
        self.tag: str | None = tag
        return ServerSentEvent(raw_data=text, id=tag)


class OneRow(_Shown):
    """The states of one row."""

    async def event(self, item: Any) -> ServerSentEvent | None:
        """The row."""
        return await self._event_of(item)


class List(_Shown):
    """A list, which is loaded each time that its table has changed."""

    def __init__(self, source: Changes, model: Any, check: Check | None, load: Load) -> None:
        super().__init__(source, model, check)
        self._load = load

    @property
    def may_wait(self) -> bool:
        """Loading is the application's."""
        return True

    async def event(self, item: Any) -> ServerSentEvent | None:  # noqa: ARG002  # for any reason
        """The list."""
        return await self._event_of(await self._load())


class ManyRows(_Shown):
    """The states of many rows. The hash is that of all of them."""

    def __init__(self, source: FollowMany[Any], model: Any, check: Check | None) -> None:
        super().__init__(source, model, check)
        self._first = len(source)
        self._tags: dict[str, str] = {}

    @property
    def first(self) -> int:
        """Each row once."""
        return self._first

    @property
    def is_final(self) -> bool:
        """Whether no row is left."""
        return super().is_final or (self._first > 0 and len(self.source) == 0)

    async def event(self, item: Any) -> ServerSentEvent | None:
        """One of the rows, or that it does not exist."""
        key, instance = item
        name = _json_of(key)
        if instance is None:
            text = f'{{"key":{name}}}'
            shown = Sent(text, tag_of(text))
        else:
            shown = await self._shown(instance)
        if self._tags.get(name) == shown.tag:
            return None
        self._tags[name] = shown.tag
        self.tag: str | None = tag_of(" ".join(sorted(self._tags.values())))
        event = GONE if instance is None else None
        return ServerSentEvent(raw_data=shown.text, event=event, id=self.tag)


class Resyncs(Told):
    """That a list must be loaded again, by the client."""

    async def event(self, item: Resync) -> ServerSentEvent | None:
        """The reason."""
        text = to_json({"reason": item.reason.value}).decode()
        return ServerSentEvent(raw_data=text, event=RESYNC)


def _json_of(key: object) -> str:
    return to_json(key, bytes_mode="base64", fallback=str).decode()


def told_of(source: Source, model: Any, check: Check | None, load: Load | None) -> Told:
    """What is told of a source.

    Raises:
        InvalidArgumentError: The arguments do not fit together.
    """
    if check is not None and not callable(check):
        raise InvalidArgumentError("check", check, "a function of what would be sent, or None")
    if load is not None and not (callable(load) and isinstance(source, Changes)):
        raise InvalidArgumentError("load", load, "a coroutine function, and only with changes()")
    if isinstance(source, Changes) and load is None:
        if model is not None or check is not None:
            raise InvalidArgumentError(
                "load", load, "the function that loads the list for the model and the check"
            )
        return Resyncs(source)
    if model is None:
        raise InvalidArgumentError("model", model, "a pydantic model of what is sent")
    if isinstance(source, Changes) and load is not None:
        return List(source, model, check, load)
    if isinstance(source, FollowMany):
        return ManyRows(source, model, check)
    if isinstance(source, Follow):
        return OneRow(source, model, check)
    raise InvalidArgumentError(
        "source", source, "what watcher.follow(), follow_many() or changes() returns"
    )
