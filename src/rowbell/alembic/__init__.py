"""Triggers in Alembic migrations, also those that ``--autogenerate`` writes.

``register()`` in ``env.py`` is all that is needed::

    import rowbell.alembic

    rowbell.alembic.register()

Then ``alembic revision --autogenerate`` compares the triggers of the database with the models that
are declared by ``@rowbell.watched``. ``alembic check`` reports differences. By hand, a migration
uses the same operations::

    def upgrade() -> None:
        op.create_table("orders", …)
        op.create_row_triggers("orders", key=["id"])

    def downgrade() -> None:
        op.drop_row_triggers("orders", key=["id"])
        op.drop_table("orders")

All may be repeated, and take their locks with a timeout. All also work with ``--sql``, except
``op.upgrade_row_triggers()``, which asks the database for its tables. On other databases than
PostgreSQL they do nothing.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("alembic") is None:
    raise ImportError("rowbell.alembic needs Alembic: pip install rowbell[alembic]")

from rowbell.alembic.operations import (  # the error above comes first
    CreateRowTriggersOp,
    DropRowTriggersOp,
    ReplaceRowTriggersOp,
    UpgradeRowTriggersOp,
)
from rowbell.alembic.registration import register

__all__ = [
    "CreateRowTriggersOp",
    "DropRowTriggersOp",
    "ReplaceRowTriggersOp",
    "UpgradeRowTriggersOp",
    "register",
]
