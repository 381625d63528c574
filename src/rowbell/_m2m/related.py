"""Many-to-many relationships: write the secondary table without loading the collection.

All three functions use a SAVEPOINT, so after an error nothing has changed. The caller commits. Rows
are inserted with the keys of both sides; all other columns of the secondary table get their
defaults. Pending changes of the session are not flushed.
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
        *related: The instances to link. Duplicates are ignored. Without any, nothing is done.
        ignore_conflicts: Skip instances that are linked already (``ON CONFLICT DO NOTHING``).

    Raises:
        RelationshipError: The attribute is not a many-to-many relationship, does not belong to
            the instance's class, or does not lead to the class of a related instance.
        UnflushedInstanceError: An instance has no row yet.
        SessionStateError: The instance's loaded collection has changes that are not flushed.
        IntegrityError: An instance is linked already. This is SQLAlchemy's exception.

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
        *related: The instances to unlink. Without any, nothing is done.

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

    The owner's row is locked (FOR NO KEY UPDATE) until the transaction ends. If two transactions
    set the collection at the same time, the set of one of them remains, not a mixture. This holds
    at READ COMMITTED: a REPEATABLE READ snapshot may not see what the other has inserted.

    Args:
        session: The session.
        instance: The owner.
        rel_attr: The relationship, as in ``Post.tags``.
        *related: The new set. Without any, all links are removed.

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
        # Another transaction has added one of them since the read, without locking the owner. That
        # transaction has committed, so the second attempt sees the row.
        if not has_sqlstate(error, UNIQUE_VIOLATION):
            raise
        await _set(association, session, related)


async def _set(association: Association, session: AsyncSession, related: Sequence[object]) -> None:
    async with association.written(session, related) as rows:
        await rows.lock_owner()
        present = await rows.select()
        await rows.delete(present - rows.related)
        await rows.insert(rows.related - present)
