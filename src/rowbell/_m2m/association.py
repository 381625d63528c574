"""The rows of a many-to-many relationship in its secondary table, for one owner."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Column, ColumnElement, Table, and_, delete, inspect, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import PassiveFlag, QueryableAttribute, RelationshipProperty
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, Grouping

from rowbell._cancellation import cancelled_once
from rowbell._mapping import SchemaMap, schema_map_of, sync_connection
from rowbell._parameter_limits import longest_in_list
from rowbell._sessions.transaction import savepoint
from rowbell.errors import (
    InvalidArgumentError,
    NotFoundError,
    RelationshipError,
    SessionStateError,
    UnflushedInstanceError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from sqlalchemy import Executable
    from sqlalchemy.engine import CursorResult
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import InstanceState, Mapper


Key = tuple[Any, ...]
"""The values of the columns that the secondary table refers to on one side, in their order."""


@dataclass(frozen=True, slots=True)
class _Side:
    """The columns of one side, and the columns of the secondary table that refer to them."""

    mapper: Mapper[Any]
    columns: tuple[Column[Any], ...]
    references: tuple[Column[Any], ...]

    def key(self, instance: object) -> Key:
        """The instance's values. This may load them, so it must run in a greenlet.

        Raises:
            UnflushedInstanceError: It has no row yet.
        """
        state = inspect(instance)
        key = tuple(self._value(state, column) for column in self.columns)
        if state.pending or any(value is None for value in key):
            raise UnflushedInstanceError(instance)
        return key

    def _value(self, state: InstanceState[Any], column: Column[Any]) -> Any:
        if state.identity and column in state.mapper.primary_key:  # known even if expired
            return state.identity[state.mapper.primary_key.index(column)]
        return getattr(state.obj(), state.mapper.get_property_by_column(column).key)

    def equals(self, key: Key) -> ColumnElement[bool]:
        """The condition that selects the rows of the secondary table that refer to the key."""
        return and_(*(c == value for c, value in zip(self.references, key, strict=True)))

    def check(self, rel_attr: QueryableAttribute[Any], instance: object) -> None:
        """Refuse an instance of another class."""
        if not isinstance(instance, self.mapper.class_):
            wanted = self.mapper.class_.__name__
            raise RelationshipError(
                rel_attr, f"relates a {wanted}, which {type(instance).__name__} is not"
            )


@dataclass(frozen=True, slots=True)
class Association:
    """A many-to-many relationship of one owner."""

    instance: object
    prop: RelationshipProperty[Any]
    table: Table
    owner: _Side
    related: _Side

    @classmethod
    def of(
        cls, instance: object, rel_attr: QueryableAttribute[Any], related: Iterable[object]
    ) -> Self:
        """Check the arguments, as far as possible without the database."""
        prop = getattr(rel_attr, "property", None)
        table = prop.secondary if isinstance(prop, RelationshipProperty) else None
        if not isinstance(prop, RelationshipProperty) or table is None:
            raise RelationshipError(
                rel_attr,
                "is not a Many-to-Many relationship: pass one that has a secondary table, as "
                "in Post.tags",
            )
        owner = _Side(prop.parent, *zip(*prop.synchronize_pairs, strict=True))
        other = _Side(prop.mapper, *zip(*(prop.secondary_synchronize_pairs or ()), strict=True))
        pairs = {
            frozenset(pair)
            for side in (owner, other)
            for pair in zip(side.columns, side.references, strict=True)
        }
        joins = [prop.primaryjoin, prop.secondaryjoin]
        if not isinstance(table, Table) or not all(_compares_only(join, pairs) for join in joins):
            raise RelationshipError(
                rel_attr,
                "is a Many-to-Many relationship that cannot be written to: its joins do more "
                "than compare keys in a secondary table",
            )
        owner.check(rel_attr, instance)
        for one in related:
            other.check(rel_attr, one)
        return cls(instance, prop, table, owner, other)

    @asynccontextmanager
    async def written(
        self, session: AsyncSession, related: Sequence[object]
    ) -> AsyncGenerator[AssociationRows, None]:
        """Yield the owner's rows for writing. Afterwards expire the loaded collections of them."""
        self._refuse_pending()
        keys = await session.run_sync(
            lambda _: [self.owner.key(self.instance), *map(self.related.key, related)]
        )
        bind = session.sync_session.get_bind(self.prop.parent)
        async with savepoint(session, bind) as connection:
            schema_map = schema_map_of(session.sync_session, sync_connection(connection))
            rows = AssociationRows(self, connection, schema_map, keys[0], frozenset(keys[1:]))
            yield rows
        await session.run_sync(lambda _: self._expire(session, rows.touched))

    def _showing(self, mapper: Mapper[Any]) -> list[str]:
        """The relationships of one side that show rows of the secondary table."""
        return [
            other.key
            for other in mapper.relationships
            if other.secondary is self.table or other.mapper.local_table is self.table
        ]

    def _refuse_pending(self) -> None:
        """Refuse if expiring the collection would drop changes that are not flushed."""
        if _has_changes(inspect(self.instance), self.prop.key):
            raise SessionStateError(
                f"{self.prop} has changes on this instance that are not flushed, and would be "
                "lost: await session.flush() first"
            )

    def _expire(self, session: AsyncSession, touched: set[Key]) -> None:
        """Expire the loaded collections that show these rows, on both sides."""
        _expire_loaded(session, self.instance, self._showing(self.prop.parent))
        mirrors = [name for name in self._showing(self.prop.mapper) if name != self.prop.key]
        for instance in list(session.identity_map.values()) if mirrors and touched else ():
            loaded = inspect(instance).dict
            if (
                isinstance(instance, self.prop.mapper.class_)
                and any(name in loaded for name in mirrors)
                and self.related.key(instance) in touched
            ):
                _expire_loaded(session, instance, mirrors)


def _compares_only(join: object, pairs: set[frozenset[Any]]) -> bool:
    """Whether a join condition only compares those pairs of columns.

    If it has other conditions, rows that it leaves out belong to something else and must not be
    deleted.
    """
    if isinstance(join, Grouping):
        return _compares_only(join.element, pairs)
    if isinstance(join, BooleanClauseList) and join.operator is operators.and_:
        return all(_compares_only(part, pairs) for part in join.clauses)
    return (
        isinstance(join, BinaryExpression)
        and join.operator is operators.eq
        and frozenset((join.left, join.right)) in pairs
    )


def _has_changes(state: InstanceState[Any], name: str) -> bool:
    """Whether a collection, loaded or not, has changes that are not flushed."""
    passive = PassiveFlag.PASSIVE_NO_INITIALIZE | PassiveFlag.INCLUDE_PENDING_MUTATIONS
    return state.get_history(name, passive).has_changes()


def _expire_loaded(session: AsyncSession, instance: object, names: list[str]) -> None:
    """Expire those of the collections that are loaded and have no changes that are not flushed."""
    state = inspect(instance)
    stale = [name for name in names if name in state.dict and not _has_changes(state, name)]
    if stale and instance in session:
        session.expire(instance, stale)


@dataclass(frozen=True, slots=True)
class AssociationRows:
    """One owner's rows in the secondary table, on a connection."""

    association: Association
    connection: AsyncConnection
    schema_map: SchemaMap
    owner: Key
    related: frozenset[Key]
    touched: set[Key] = field(default_factory=set)

    async def lock_owner(self) -> None:
        """Lock the owner's row: other callers of ``m2m_set`` wait."""
        side = self.association.owner
        conditions = [c == value for c, value in zip(side.columns, self.owner, strict=True)]
        statement = select(*side.columns).where(*conditions).with_for_update(key_share=True)
        if (await self._execute(statement)).first() is None:
            names = (side.mapper.get_property_by_column(c).key for c in side.columns)
            key = dict(zip(names, self.owner, strict=True))
            raise NotFoundError(type(self.association.instance), key)

    async def select(self) -> frozenset[Key]:
        """The keys that are related now."""
        side = self.association.owner
        statement = select(*self.association.related.references).where(side.equals(self.owner))
        return frozenset(tuple(row) for row in await self._execute(statement))

    async def insert(self, keys: Iterable[Key], *, ignore_conflicts: bool = False) -> None:
        """Insert rows, in the same order for all callers, so that they cannot deadlock."""
        ordered = _ordered(keys)
        rows = [self._row(key) for key in ordered]
        self.touched.update(ordered)
        if rows:
            statement = insert(self.association.table)
            if ignore_conflicts:
                statement = statement.on_conflict_do_nothing()
            await self._execute(statement, rows)

    async def delete(self, keys: Iterable[Key]) -> None:
        """Delete rows, in several statements if one would have too many parameters."""
        side, ordered = self.association.related, _ordered(keys)
        self.touched.update(ordered)
        size = longest_in_list(len(side.references), besides=len(self.owner))
        for start in range(0, len(ordered), size):
            await self._execute(
                delete(self.association.table).where(
                    self.association.owner.equals(self.owner),
                    tuple_(*side.references).in_(ordered[start : start + size]),
                )
            )

    def _row(self, key: Key) -> dict[str, Any]:
        row = _by_name(self.association.owner, self.owner)
        for name, value in _by_name(self.association.related, key).items():
            # Two composite foreign keys may share a column, such as a tenant ID.
            if row.setdefault(name, value) != value:
                raise InvalidArgumentError(
                    "related", f"one with {name} {value!r}", f"of the owner's {name} {row[name]!r}"
                )
        return row

    async def _execute(
        self, statement: Executable, rows: list[dict[str, Any]] | None = None
    ) -> CursorResult[Any]:
        options = {"schema_translate_map": dict(self.schema_map) or None}
        execute = self.connection.execute(statement, rows, execution_options=options)
        return await cancelled_once(execute)


def _by_name(side: _Side, key: Key) -> dict[str, Any]:
    return {column.key: value for column, value in zip(side.references, key, strict=True)}


def _ordered(keys: Iterable[Key]) -> list[Key]:
    try:
        return sorted(keys)
    except TypeError:  # values without an order, such as enum members
        return sorted(keys, key=repr)
