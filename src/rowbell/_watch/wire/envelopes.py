"""The envelopes in which messages travel between a process and a relay, as JSON.

A ``Request``, from the process, has the session's secret ID and a number. An ``Answer``, from the
relay, has the relay's term and a number. Numbers begin with 1 and have no holes: a hole means that
a message was lost.

Every version of rowbell can read ``Head``, and a relay understands its own version and the one
before. So processes of two versions share a relay, if the relay is the newer one.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from rowbell._watch.wire.messages import FromProcess, FromRelay

VERSION: Final = 1
"""The version of the messages that this library sends."""

UNDERSTOOD: Final = range(max(1, VERSION - 1), VERSION + 1)
"""The versions that a relay understands."""


class Head(msgspec.Struct, frozen=True):
    """What every version can read of every envelope."""

    version: int
    session: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a process sends."""

    version: int = VERSION
    session: str
    number: int
    message: FromProcess


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay sends.

    Attributes:
        version: The version of the message.
        session: The hash of the session's ID, which is not secret.
        term: The number of the relay's term; a later leader has a higher one.
        epoch: An ID of this term, by chance.
        number: The message's number in the session.
        message: The message.
    """

    version: int = VERSION
    session: str
    term: int
    epoch: str
    number: int
    message: FromRelay


_encoder: Final = msgspec.json.Encoder()
_requests: Final = msgspec.json.Decoder(Request)
_answers: Final = msgspec.json.Decoder(Answer)
_heads: Final = msgspec.json.Decoder(Head)
_EnvelopeT = TypeVar("_EnvelopeT", Request, Answer)


class UnreadableError(Exception):
    """A message cannot be read.

    Args:
        head: What can be read of it; ``None`` if nothing can.
    """

    def __init__(self, head: Head | None) -> None:
        self.head = head
        what = "a message that cannot be read"
        if head is not None and head.version not in UNDERSTOOD:
            what = f"a message of version {head.version}"
        super().__init__(f"{what}: this library understands version {VERSION}")


def encode(envelope: Request | Answer) -> bytes:
    """The bytes of an envelope."""
    return _encoder.encode(envelope)


def decode_request(data: bytes) -> Request:
    """The request in these bytes.

    Raises:
        UnreadableError: There is none, or it has a version that is not understood.
    """
    return _checked(data, _requests)


def decode_answer(data: bytes) -> Answer:
    """The answer in these bytes.

    Raises:
        UnreadableError: There is none, or it has a version that is not understood.
    """
    return _checked(data, _answers)


def _checked(data: bytes, decoder: msgspec.json.Decoder[_EnvelopeT]) -> _EnvelopeT:
    try:
        head = _heads.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        raise UnreadableError(None) from None
    if head.version not in UNDERSTOOD:
        raise UnreadableError(head)
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        raise UnreadableError(head) from None
