"""What leaves the process: a row in the form of a pydantic model, as JSON, and a hash of that.

FastAPI does not filter the data of a ``ServerSentEvent`` by the endpoint's response model. So the
model is applied here: a column that it does not list never leaves. The hash is made of the JSON
that is sent and of nothing else. A hash of the row would tell when a hidden column changes, and let
its values be guessed.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError
from sqlalchemy import inspect

from rowbell.errors import InvalidArgumentError


class Sent(NamedTuple):
    """What is sent.

    Attributes:
        text: The JSON.
        tag: Its hash, for ``id:`` and ``ETag``.
    """

    text: str
    tag: str


class Representation:
    """The form in which rows leave.

    Args:
        model: A pydantic model, or another type that pydantic knows, such as ``list[OrderOut]``.

    Raises:
        InvalidArgumentError: Pydantic does not know the type, or it is a mapped class.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        if _names_mapped_class(model):
            raise InvalidArgumentError("model", model, _EXPECTED)
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(model)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise InvalidArgumentError("model", model, _EXPECTED) from error

    def of(self, value: Any) -> Sent:
        """What is sent of a value.

        Raises:
            InvalidArgumentError: The model cannot be made from it. No value is in the message.
        """
        try:
            valid = self._adapter.validate_python(value, from_attributes=True)
        except ValidationError as error:
            raise InvalidArgumentError("model", self._model, _what_is_wrong(error)) from None
        if (why := _unfit(valid)) is not None:
            raise InvalidArgumentError("model", self._model, why)
        try:
            text = self._adapter.dump_json(valid, by_alias=True).decode()
        except PydanticSerializationError:
            what = "a model whose fields can be written as JSON"
            raise InvalidArgumentError("model", self._model, what) from None
        return Sent(text, tag_of(text))


_EXPECTED: Final = "a pydantic model of what is sent, not the mapped class"


def _names_mapped_class(model: Any) -> bool:
    """Whether it is a mapped class, or a generic of one."""
    if isinstance(model, type) and inspect(model, raiseerr=False) is not None:
        return True
    return any(_names_mapped_class(argument) for argument in get_args(model))


def _unfit(valid: Any) -> str | None:
    """Why a model should not be sent, though pydantic would.

    A field of the type ``Any`` may hold an instance, with all of its columns. A set has another
    order in each process, so its hash says nothing.
    """
    left = [valid]
    while left:
        value = left.pop()
        if value is None or isinstance(value, str | int | float | bytes):
            continue
        if isinstance(value, set | frozenset):
            return "a model without sets, which have no order: declare lists"
        if isinstance(value, BaseModel):
            left += [*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values()]
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
        elif inspect(value, raiseerr=False) is not None:
            return "a model whose fields have types that name what is sent, not Any"
        elif is_dataclass(value) and not isinstance(value, type):
            left += [getattr(value, each.name) for each in fields(value)]
    return None


def tag_of(text: str) -> str:
    """The hash of what is sent."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _place(location: tuple[int | str, ...]) -> str:
    """The name of the field, without what is inside: the keys of a dictionary are values."""
    names = list(location)
    first = next((i for i, name in enumerate(names) if isinstance(name, str)), len(names))
    return ".".join(map(str, names[: first + 1])) or "the value"


def _what_is_wrong(error: ValidationError) -> str:
    places: list[str] = []
    is_missing = False
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        place = _place(each["loc"])
        places.append(f"{place} ({each['type']})")
        is_missing |= each["type"] == "get_attribute_error"
    hint = (
        ": a relationship or a deferred column is not loaded, so name it in the follow, with "
        "options=[selectinload(...)]"
        if is_missing
        else ""
    )
    return f"a model that the row can be given to; it does not fit in {', '.join(places)}{hint}"
