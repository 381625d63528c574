"""The models of the tests: ordinary ones, and ones with unusual names, keys and types."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    Computed,
    DateTime,
    Dialect,
    ForeignKey,
    LargeBinary,
    Numeric,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, mapped_column, relationship, synonym

import rowbell


class Base(DeclarativeBase):
    pass


class Sealed:
    """A value without equality."""

    def __init__(self, text: str) -> None:
        self.text = text


class SealedType(TypeDecorator[Sealed]):
    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sealed | None, dialect: Dialect) -> str | None:
        return None if value is None else value.text

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Sealed | None:
        return None if value is None else Sealed(value)


@rowbell.watched
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="new")
    note: Mapped[str | None]
    n: Mapped[int] = mapped_column(default=0)
    items: Mapped[list[Item]] = relationship(back_populates="order", passive_deletes=True)


@rowbell.watched
class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(default="")
    order: Mapped[Order] = relationship(back_populates="items")


@rowbell.watched
class Seat(Base):
    """A composite key. Its columns are not in alphabetical order."""

    __tablename__ = "seats"
    row: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    taken: Mapped[bool] = mapped_column(default=False)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@rowbell.watched
class Odd(Base):
    """Values that are hard to compare or to load."""

    __tablename__ = "Odd table"
    __table_args__ = {"schema": "Select"}
    id: Mapped[UUID] = mapped_column("Id", primary_key=True)
    data: Mapped[Any] = mapped_column("user", JSON, nullable=True)
    binary: Mapped[Any] = mapped_column(JSONB, nullable=True)
    tags: Mapped[list[str] | None] = mapped_column("x y", ARRAY(Text))
    amount: Mapped[Decimal | None] = mapped_column(Numeric)
    ratio: Mapped[float | None]
    colour: Mapped[Colour | None]
    at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    secret: Mapped[Sealed | None] = mapped_column(SealedType)
    big: Mapped[str | None] = deferred(mapped_column(Text))
    blob: Mapped[bytes | None] = deferred(mapped_column(LargeBinary))
    doubled: Mapped[Decimal | None] = mapped_column(Numeric, Computed("amount * 2", persisted=True))
    sum = synonym("amount")


@rowbell.watched
class Animal(Base):
    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(default="")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}


@rowbell.watched
class Dog(Animal):
    __tablename__ = "dogs"
    dog_id: Mapped[int] = mapped_column("id", ForeignKey("animals.id"), primary_key=True)
    tricks: Mapped[int] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "dog"}


class Plain(Base):
    """A table without triggers."""

    __tablename__ = "plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(default=0)
