"""Tables with a key or a value of any type."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, registry
from sqlalchemy.types import TypeEngine, UserDefinedType

import rowbell

DEFINITIONS: Final = """
    CREATE EXTENSION IF NOT EXISTS citext;
    CREATE EXTENSION IF NOT EXISTS hstore;
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN price AS numeric(20, 5);
    CREATE DOMAIN prices AS price[];
    CREATE DOMAIN short AS char(3);
    CREATE TYPE pair AS (n numeric, t text);
    CREATE TYPE floats AS RANGE (subtype = float8);
    CREATE TYPE bounds AS (a numeric[]);
    CREATE TYPE nested AS (p pair, j jsonb, i interval[]);
"""


class Named(UserDefinedType[Any]):
    """A column of any type. Only its name in the database counts."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "any"


def valued(type_: Any = Named) -> type[Any]:
    """A class with one value of that type."""

    class Base(DeclarativeBase):
        pass

    class Valued(Base):
        __tablename__ = "valued"
        id: Mapped[int] = mapped_column(primary_key=True)
        value: Mapped[Any] = mapped_column(type_)

    return Valued


def keyed(*types: TypeEngine[Any], inserts: bool = False) -> type[Any]:
    """A class with a key of those types."""

    class Row:
        pass

    key = [Column(f"k{i}", type_, primary_key=True) for i, type_ in enumerate(types)]
    table = Table("keyed", MetaData(), *key, Column("n", Integer))
    registry().map_imperatively(Row, table)
    return rowbell.watched(inserts=inserts)(Row)
