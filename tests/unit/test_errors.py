"""Errors: their class tree, their attributes, and that they can be pickled."""

from __future__ import annotations

import inspect
import pickle

import pytest

import rowbell
from rowbell import errors
from support.models import Order

EXAMPLES: list[errors.RowbellError] = [
    rowbell.NotFoundError(Order, {"id": 7}, deleted=True),
    rowbell.WaitTimeoutError(Order, {"id": 7}, timeout=1.5, served="listening"),
    rowbell.LockTimeoutError(["a", "b"], "SHARE", "5s"),
    rowbell.PoolExhaustedError(size=5, overflow=10, waited=30),
    rowbell.UnmappedModelError(int),
    rowbell.RelationshipError("Post.id", "is none"),
    rowbell.InvalidKeyError(Order, "x", "it is a text"),
    rowbell.InvalidColumnError(Order, "stats", ["status"]),
    rowbell.InvalidArgumentError("timeout", -1, "above 0"),
    rowbell.UnflushedInstanceError(Order(id=1)),
    rowbell.SessionStateError("in AUTOCOMMIT"),
    rowbell.WatcherStateError("closed"),
    rowbell.DatabaseStateError("shop", "exists", "drop it"),
    rowbell.UnsupportedEngineError("not asyncio"),
    rowbell.ListenError("in_recovery", "it is a standby"),
    rowbell.TriggerError("orders", "no key"),
]


def test_every_error_has_an_example_here_and_is_drawn_in_the_tree() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.RowbellError)
    }
    assert classes == {type(error).__name__ for error in EXAMPLES} | {"RowbellError"}
    assert all(name in (errors.__doc__ or "") for name in classes)
    assert all(name in rowbell.__all__ for name in classes)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_facts_on_its_way_to_another_process(
    error: errors.RowbellError,
) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    facts = {name: value for name, value in vars(error).items() if not isinstance(value, Order)}
    assert {name: value for name, value in vars(copy).items() if name in facts} == facts
    assert vars(copy).keys() == vars(error).keys()
