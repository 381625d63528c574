"""What leaves the process: a row in the form of a pydantic model, as JSON, and a hash of that.

FastAPI does not filter the data of a ``ServerSentEvent`` by the endpoint's response model. So the
model is applied here: a column that it does not list never leaves. The hash is made of the JSON
that is sent and of nothing else. A hash of the row would tell when a hidden column changes, and let
its values be guessed.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

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
        InvalidArgumentError: Pydantic does not know the type.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(model)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise InvalidArgumentError(
                "model", model, "a pydantic model of what is sent, not the mapped class"
            ) from error

    def of(self, value: Any) -> Sent:
        """What is sent of a value.

        Raises:
            InvalidArgumentError: The model cannot be made from it. No value is in the message.
        """
        try:
            valid = self._adapter.validate_python(value, from_attributes=True)
        except ValidationError as error:
            raise InvalidArgumentError("model", self._model, _what_is_wrong(error)) from None
        text = self._adapter.dump_json(valid, by_alias=True).decode()
        return Sent(text, tag_of(text))


def tag_of(text: str) -> str:
    """The hash of what is sent."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _what_is_wrong(error: ValidationError) -> str:
    fields: list[str] = []
    is_missing = False
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(map(str, each["loc"])) or "the value"
        fields.append(f"{place} ({each['type']})")
        is_missing |= each["type"] == "get_attribute_error"
    hint = (
        ": a relationship or a deferred column is not loaded, so name it in the follow, with "
        "options=[selectinload(...)]"
        if is_missing
        else ""
    )
    return f"a model that the row can be given to; it does not fit in {', '.join(fields)}{hint}"
