"""Models of another version of an application, which maps the table of orders otherwise."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell


class Apart(DeclarativeBase):
    """Models of another version of the application."""


class Brief(Apart):
    """An order, for a process that knows, or may select, two of its columns."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


class Narrow(Apart):
    """The same, with another column."""

    __table__ = Table(
        "orders", MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer)
    )


@rowbell.watched(inserts=True)
class Inserted(Apart):
    """The same, for a process that is told of inserts."""

    __table__ = Table(
        "orders", MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer)
    )
