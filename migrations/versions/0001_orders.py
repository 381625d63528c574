"""The table of orders, and its triggers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
    )
    op.create_row_triggers("orders", key=["id"])


def downgrade() -> None:
    op.drop_row_triggers("orders", key=["id"])
    op.drop_table("orders")
