"""Offers, which expire."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime, ForeignKey
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import rowbell


class OfferBase(DeclarativeBase):
    pass


@rowbell.watched
class Offer(OfferBase):
    __tablename__ = "offers"
    id: Mapped[int] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    lines: Mapped[list[Line]] = relationship()
    names: AssociationProxy[list[str]] = association_proxy("lines", "name")


class Line(OfferBase):
    __tablename__ = "offer_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    offer_id: Mapped[int] = mapped_column(ForeignKey("offers.id"))
    name: Mapped[str]
