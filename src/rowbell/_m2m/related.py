"""Many-to-Many relationships, written in their secondary table without loading the collection.

All three functions use a SAVEPOINT, so an error in the middle changes nothing. They leave the
commit to the caller. Rows are inserted with the keys of both sides; all other columns of the
secondary table get their defaults. Pending changes of the session are not flushed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from rowbell._m2m.association import Association
from rowbell._sqlstate import UNIQUE_VIOLATION, has_sqlstate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import QueryableAttribute


async def m2m_add(
    session: AsyncSession,
    instance: object,
    rel_attr: QueryableAttribute[Any],
    *related: object,
    ignore_conflicts: bool = False,
) -> None:
    """Link instances to another by rows in the secondary table.

    Args:
        session: The session.
        instance: The owner.
        rel_attr: The relationship, as in ``Post.tags``.
        *related: What to relate; twice the same is once. With none, nothing is done.
        ignore_conflicts: Leave out those that are related already (``ON CONFLICT DO NOTHING``).

    Raises:
        RelationshipError: Not a Many-to-Many relationship, not of that instance's class, or
            not to the class of a related one.
        UnflushedInstanceError: An instance has no row yet.
        SessionStateError: The instance's loaded collection has changes that are not flushed.
        IntegrityError: SQLAlchemy's: one is related already.

    Example:
        .. code-block:: python

            await rowbell.m2m_add(session, post, Post.tags, python, postgresql)
    """
    association = Association.of(instance, rel_attr, related)
    if related:
        async with association.written(session, related) as rows:
            await rows.insert(rows.related, ignore_conflicts=ignore_conflicts)


async def m2m_remove(
    session: AsyncSession,
    instance: object,
    rel_attr: QueryableAttribute[Any],
    *related: object,
) -> None:
    """Remove the links of instances to another. Missing links are ignored.

    Args:
        session: The session.
        instance: The owner.
        rel_attr: The relationship, as in ``Post.tags``.
        *related: What not to relate any more. With none, nothing is done.

    Raises:
        RelationshipError, UnflushedInstanceError, SessionStateError: As ``m2m_add``.

    Example:
        .. code-block:: python

            await rowbell.m2m_remove(session, post, Post.tags, python)
    """
    association = Association.of(instance, rel_attr, related)
    if related:
        async with association.written(session, related) as rows:
            await rows.delete(rows.related)


async def m2m_set(
    session: AsyncSession,
    instance: object,
    rel_attr: QueryableAttribute[Any],
    *related: object,
) -> None:
    """Link exactly these instances to another. Only rows that differ are changed.

    The owner's row is locked (FOR NO KEY UPDATE) until the transaction ends, so that of two
    that set at once one whole set remains. At READ COMMITTED, that is: a REPEATABLE READ
    snapshot may not see what the other has inserted.

    Args:
        session: The session.
        instance: The owner.
        rel_attr: The relationship, as in ``Post.tags``.
        *related: The new set; with none, it is cleared.

    Raises:
        RelationshipError, UnflushedInstanceError, SessionStateError: As ``m2m_add``.
        NotFoundError: The owner's row does not exist any more.

    Example:
        .. code-block:: python

            await rowbell.m2m_set(session, post, Post.tags, postgresql)
    """
    association = Association.of(instance, rel_attr, related)
    try:
        await _set(association, session, related)
    except IntegrityError as error:
        # Another transaction has added one of them since the read, without locking the owner. It
        # is committed, so the second try sees it.
        if not has_sqlstate(error, UNIQUE_VIOLATION):
            raise
        await _set(association, session, related)


async def _set(association: Association, session: AsyncSession, related: Sequence[object]) -> None:
    async with association.written(session, related) as rows:
        await rows.lock_owner()
        present = await rows.select()
        await rows.delete(present - rows.related)
        await rows.insert(rows.related - present)
