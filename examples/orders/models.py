"""The only table of the example app. ``migrations/`` creates it and its triggers."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import DateTime, Text, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rowbell

STATES: Final = ("new", "paid", "packed", "shipped", "delivered")


class Base(DeclarativeBase):
    """The base of the app's models."""


@rowbell.watched(inserts=True)
class Order(Base):
    """An order."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(Text)
    changed_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
    item: Mapped[str] = mapped_column(Text, server_default="")
