"""The declarations of ``@watched``."""

from __future__ import annotations

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rowbell import InvalidColumnError, watched
from rowbell._watch.database.tables import options_of
from support.models import Plain


def test_a_subclass_narrows_nothing_that_its_parents_watch() -> None:
    class Family(DeclarativeBase):
        pass

    class Parent(Family):
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)
        status: Mapped[str]
        note: Mapped[str]

    @watched(columns=["extra"])
    class Child(Parent):
        __tablename__ = "children"
        id: Mapped[int] = mapped_column(ForeignKey("parents.id"), primary_key=True)
        extra: Mapped[str]

    parents, children = Family.metadata.tables["parents"], Family.metadata.tables["children"]
    assert options_of(parents).columns is None
    assert options_of(children).columns == ("extra",)
    watched(columns=["status"])(Parent)
    watched(columns=["extra", "note"])(Child)
    assert options_of(parents).columns == ("status", "note")
    watched(Child)
    assert options_of(parents).columns == ("status", "note")


def test_declaring_what_is_no_column_is_refused() -> None:
    with pytest.raises(InvalidColumnError, match="nonesuch"):
        watched(columns=["nonesuch"])(Plain)
